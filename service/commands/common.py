"""Options and terminal output that the commands share."""

from __future__ import annotations

import functools
import inspect
import json
import re
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from inspect import Parameter
from itertools import islice
from operator import attrgetter
from pathlib import Path
from types import NoneType
from typing import (
    Annotated,
    Any,
    Literal,
    NamedTuple,
    TypeVar,
    get_args,
    get_origin,
    get_type_hints,
)

from pydantic_core import to_jsonable_python
from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text
from typer import Argument, BadParameter, Exit, FileBinaryWrite, Option, Typer, confirm, echo

from gmn_client import DEFAULT_GALLERY, DEFAULT_URL, Client
from gmn_client.models import Job
from gmn_client.uploads import Box, LabelledBox
from model.problems import InputProblem

Result = TypeVar("Result")
Columns = Mapping[str, str | Callable[[Any], object]]
"""The titles of a table, and of each the attribute of the objects in it, or a function of them."""
# An entry of a docstring's `Args:` or `Attributes:`, with its continuation lines.
ENTRY = re.compile(r"^ {4}(\w+(?:, \w+)*): (.*(?:\n {8}.*)*)", re.MULTILINE)
SECTION = re.compile(r"^(?:Args|Raises):$", re.MULTILINE)
# Fields of an answer that are lists of objects.
OBJECTS = ("results", "remaining")
# Short names of options, beside those made from the names of the client's arguments.
SHORT = {
    "boxes": "--box",
    "captured_after": "--after",
    "captured_before": "--before",
    "crop_id": "--crop",
    "identities": "--identity",
}
BOX = "X,Y,WIDTH,HEIGHT"
WIDTH_WITHOUT_TERMINAL = 160
DEFAULT_DATA_DIR = Path("gmn-data")

DataDirOption = Annotated[
    Path, Option("--data-dir", envvar="GMN_DATA_DIR", help="Where the service keeps its data.")
]
JsonOption = Annotated[bool, Option("--json", help="Print one JSON object.")]
YesOption = Annotated[bool, Option("--yes", help="Do not ask; needed without a terminal.")]
LimitOption = Annotated[int, Option(min=1, help="How many at most.")]
OutOption = Annotated[FileBinaryWrite, Option(help="The file to write.")]


class Shown(NamedTuple):
    """The result of a command.

    Attributes:
        answer: printed with `--json`.
        text: printed otherwise; an iterator is printed line by line.
        ok: whether the exit status is 0; otherwise it is 1.
    """

    answer: Any
    text: RenderableType | Iterator[str]
    ok: bool = True


def printed(run: Callable[..., Shown]) -> Callable[..., None]:
    """Make a command that prints the result of `run`, with `--json` as additional option."""

    def command(*, as_json: JsonOption = False, **given: Any) -> None:
        show(run(**given), as_json)

    return with_parameters(command, run, inspect.signature(run, eval_str=True).parameters.values())


def with_client(run: Callable[..., Shown]) -> Callable[..., None]:
    """Make a command of a function whose first argument is a client, and print its result.

    The client's options are added to those of the function, which receives those that were given.
    Each field of `**options: Unpack[Options]` becomes an option, with its text in the docstring of
    `Options`.
    """

    def command(
        *,
        url: Annotated[str, Option(envvar="GMN_URL", help="Where the service is.")] = DEFAULT_URL,
        gallery: Annotated[str, Option(help="Which gallery.")] = DEFAULT_GALLERY,
        api_key: Annotated[
            str | None, Option(envvar="GMN_API_KEY", help="A key with the scope it needs.")
        ] = None,
        as_json: JsonOption = False,
        **given: Any,
    ) -> None:
        # Omitted options are None; leave them out so that the function's defaults apply.
        arguments = {name: value for name, value in given.items() if value is not None}
        with Client(url, api_key, gallery=gallery or DEFAULT_GALLERY) as client:
            show(run(client, **arguments), as_json)

    _, *parameters = inspect.signature(run, eval_str=True).parameters.values()
    if parameters and parameters[-1].kind is Parameter.VAR_KEYWORD:
        (options,) = get_args(parameters.pop().annotation)
        texts = read_entries(options)
        for name, hint in get_type_hints(options).items():
            annotation = annotated(Option, name, hint, texts.get(name))
            parameters.append(
                Parameter(name, Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
            )
    return with_parameters(command, run, parameters)


def method_command(
    text: str,
    name: str,
    columns: Columns | None = None,
    *,
    positional: str = "",
    limit: int | None = None,
    question: str = "",
) -> Callable[..., None]:
    """Make a command that calls a method of the client and prints its answer.

    Args:
        text: its help; that of the method if empty.
        name: name of the method.
        columns: of a table of the answer; without them it is printed line by line.
        positional: an optional argument of the method that is not named on the command line.
        limit: number of objects of a list that are printed; can be changed by `--limit`.
        question: asked before the call, unless there is `--yes`; has arguments in braces.
    """
    method = getattr(Client, name)
    client_parameter, *declared = inspect.signature(method).parameters.values()
    required = [parameter for parameter in declared if _is_required(parameter)]
    hints = get_type_hints(method)
    is_list = get_origin(hints["return"]) is Iterator

    def run(client: Client, *, out: Any = None, yes: bool = False, **given: Any) -> Shown:
        if question:
            confirmed(yes, question.format(gallery=client.gallery_name, **given))
        most = given.pop("limit", None) if is_list else None
        arguments: list[Any] = []
        for parameter in required:
            value = given.pop(parameter.name)
            arguments += value if parameter.kind is Parameter.VAR_POSITIONAL else [value]
        answer = getattr(client, name)(*arguments, **given)
        if is_list:
            answer = islice(answer, most)
        if out is not None:
            out.write(answer)
            answer = {"file": out.name}
        if columns is None:
            return Shown(answer, _lines(answer), ok=answer is not False)
        rows = list(answer) if is_list else [answer]
        return Shown(rows if is_list else answer, table_of(rows, columns))

    parameters = [client_parameter]
    if is_list:
        parameters.append(_named("limit", LimitOption, limit))
    if question:
        parameters.append(_named("yes", YesOption, False))
    if hints["return"] is bytes:
        parameters.append(_named("out", OutOption))
    texts = read_entries(method)
    for parameter in declared:
        hint = hints[parameter.name]
        if parameter.kind is Parameter.VAR_KEYWORD:
            parameters.append(parameter.replace(annotation=hint))
        # Omit progress callbacks, which cannot be given as text.
        elif parameter.name != "progress":
            if parameter.kind is Parameter.VAR_POSITIONAL:
                hint = Sequence[str]
            place = Argument if parameter in required or parameter.name == positional else Option
            annotation = annotated(place, parameter.name, hint, texts.get(parameter.name))
            parameters.append(_named(parameter.name, annotation, parameter.default))
    run.__doc__ = text or SECTION.split(inspect.getdoc(method) or "")[0]
    vars(run)["__signature__"] = inspect.Signature(parameters)
    return with_client(run)


def _is_required(parameter: Parameter) -> bool:
    is_positional = parameter.kind in (Parameter.POSITIONAL_OR_KEYWORD, Parameter.VAR_POSITIONAL)
    return is_positional and parameter.default is Parameter.empty


def _named(name: str, annotation: Any, default: Any = Parameter.empty) -> Parameter:
    return Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _lines(answer: Any) -> Iterator[str]:
    objects = answer
    if not isinstance(answer, Iterator | list):
        yield from _fields(answer)
        objects = next((getattr(answer, name) for name in OBJECTS if hasattr(answer, name)), [])
    for item in objects:
        yield "  ".join(_fields(item))


def _fields(item: Any) -> Iterator[str]:
    data = to_jsonable_python(item)
    if not isinstance(data, dict):
        data = {"answer": data}
    for name, value in data.items():
        if value is not None and name not in OBJECTS:
            # Escape line breaks and other control characters.
            is_plain = isinstance(value, str) and value.isprintable()
            yield f"{name}: {value if is_plain else json.dumps(value, ensure_ascii=False)}"


def read_entries(documented: Any) -> dict[str, str]:
    """Return the description of each argument or attribute in a docstring, of bases too."""
    texts: dict[str, str] = {}
    for base in getattr(documented, "__orig_bases__", ()):
        texts |= read_entries(base)
    for names, text in ENTRY.findall(inspect.getdoc(documented) or ""):
        texts |= dict.fromkeys(names.split(", "), " ".join(text.split()))
    return texts


def read_box(text: str) -> Any:
    """Parse X,Y,WIDTH,HEIGHT; a box with labels is an object in JSON, which is sent as it is."""
    if text.startswith("{"):
        return text
    try:
        x, y, width, height = (int(number) for number in text.split(","))
    except ValueError as error:
        raise BadParameter(f"{text}: write it as X,Y,WIDTH,HEIGHT in whole pixels") from error
    return {"x": x, "y": y, "width": width, "height": height}


def annotated(place: Any, name: str, hint: Any, text: str | None) -> Any:
    """Return a type for Typer with its `Argument` or `Option`.

    Typer parses numbers, switches and choices, and `read_box` boxes. All other types become str or
    list[str].
    """
    if NoneType in get_args(hint):
        hint = get_args(hint)[0]
    about: dict[str, Any] = {"help": text}
    if get_origin(hint) in (Sequence, Iterable):
        item = get_args(hint)[0]
        if item in (Box, LabelledBox):
            about |= {"parser": read_box, "metavar": BOX}
        hint = list[float] if item is float else list[str]
    elif hint not in (bool, int, float) and get_origin(hint) is not Literal:
        hint = str
    long_name = f"--{name.replace('_', '-')}"
    names = (long_name, SHORT[name]) if place is Option and name in SHORT else ()
    return Annotated[hint, place(*names, **about)]


def with_parameters(
    command: Callable[..., Result], run: Callable[..., object], own: Collection[inspect.Parameter]
) -> Callable[..., Result]:
    """Give a command the name, help and parameters `own` of `run`, beside its own parameters."""
    *added, _ = inspect.signature(command, eval_str=True).parameters.values()
    names = {parameter.name for parameter in own}
    parameters = [
        parameter.replace(kind=parameter.KEYWORD_ONLY)
        for parameter in (*own, *(extra for extra in added if extra.name not in names))
    ]
    functools.update_wrapper(command, run)
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    vars(command)["__signature__"] = inspect.Signature(parameters)
    return command


def command_group(text: str) -> Typer:
    # Without a callback, Typer would turn a group of one command into that command.
    return Typer(help=text, no_args_is_help=True, callback=lambda: None)


def confirmed(yes: bool, question: str) -> None:
    """Ask before a task that cannot be undone, unless `yes`; exits if the user declines.

    Raises:
        InputProblem: there is no terminal to ask on.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise InputProblem(
            f"{question} It cannot be undone, and there is no terminal to ask on; add --yes"
        )
    if not confirm(f"{question} It cannot be undone.", err=True):
        raise Exit(1)


def output() -> Console:
    """Return a console on standard output, wide enough for whole tables if it is no terminal."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(width=WIDTH_WITHOUT_TERMINAL)


def show(shown: Shown, as_json: bool) -> None:
    """Print a result as JSON (lists and iterators as `results`) or as text."""
    answer, text, ok = shown
    if as_json:
        several = isinstance(answer, list | Iterator)
        data = {"results": list(answer)} if several else answer
        output().print_json(data=to_jsonable_python(data))
    elif isinstance(text, str):
        echo(text)
    elif isinstance(text, Iterator):
        for line in text:
            echo(line)
    else:
        output().print(text)
    if not ok:
        raise Exit(1)


def table_of(objects: Iterable[Any], columns: Columns) -> Table:
    sources = columns.values()
    cells = [attrgetter(source) if isinstance(source, str) else source for source in sources]
    return plain_table(list(columns), ([cell(row) for cell in cells] for row in objects))


def shortened(lines: Sequence[str], most: int) -> list[str]:
    """Return the first lines and the number of further ones."""
    more = len(lines) - most
    if more <= 0:
        return list(lines)
    return [*lines[:most], f"and {more:,} more; --json names them all"]


def plain_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Table:
    """Return a table of plain text; times are in UTC, as their column titles say."""
    table = Table(*columns)
    for row in rows:
        table.add_row(*(_cell(value) for value in row))
    return table


def _cell(value: object) -> Text:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return Text(f"{value:,}" if isinstance(value, int) else f"{value:.3f}", justify="right")
    if isinstance(value, datetime):
        return Text(f"{value.astimezone(UTC):%Y-%m-%d %H:%M}")
    return value if isinstance(value, Text) else Text("–" if value is None else str(value))


def progress_bar() -> Progress:
    """Return a progress bar on standard error; silent if that is no terminal."""
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


def follow(client: Client, job: Job, title: str) -> Job:
    """Show the progress of a job until it ends; Ctrl-C stops watching, not the job."""
    with progress_bar() as progress:
        task = progress.add_task(title, total=None)
        try:
            for latest in client.watch_job(job.job_id):
                done = latest.progress
                progress.update(task, total=done.total or None, completed=done.done)
        except KeyboardInterrupt:
            echo(f"Job {job.job_id} goes on in the service.", err=True)
            raise
    return latest
