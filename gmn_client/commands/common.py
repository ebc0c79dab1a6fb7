"""Options and terminal output that the commands of client and service share."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timezone
from inspect import Parameter
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
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn
from rich.table import Table
from rich.text import Text
from typer import Argument, BadParameter, Context, Exit, Option, Typer, echo

from gmn_client import DEFAULT_GALLERY, DEFAULT_URL, Client
from gmn_client.commands.terminal import make_console, make_progress
from gmn_client.models import BoxOfPerson, Job
from gmn_client.uploads import LabelledBox, SightedBox

Result = TypeVar("Result")
Line = TypeVar("Line")
Columns = Mapping[str, str | Callable[[Any], object]]
"""Maps each title of a table to an attribute of the objects in it, or to a function of them."""
# An entry of a docstring's `Args:` or `Attributes:`, with its continuation lines.
ENTRY = re.compile(r"^ {4}(\w+(?:, \w+)*): (.*(?:\n {8}.*)*)", re.MULTILINE)
SECTION = re.compile(r"^(?:Args|Raises):$", re.MULTILINE)
# Names of options that are not made from the names of the client's arguments. `--url` says where
# the service is.
OPTION_NAMES = {
    "boxes": "--boxes --box",
    "captured_after": "--captured-after --after",
    "captured_before": "--captured-before --before",
    "crop_id": "--crop-id --crop",
    "identities": "--identities --identity",
    "url": "--webhook-url",
}
BOX = "X,Y,WIDTH,HEIGHT"
WIDTH_WITHOUT_TERMINAL = 160

JsonOption = Annotated[bool, Option("--json", help="Print one JSON object.")]


class Shown(NamedTuple):
    """The result of a command.

    Attributes:
        answer: printed with `--json`.
        text: printed otherwise; lines are printed one by one.
        ok: True for exit status 0, False for 1.
    """

    answer: Any
    text: RenderableType | Iterable[str]
    ok: bool = True


def with_client(run: Callable[..., Shown]) -> Callable[..., None]:
    """Make a command of a function whose first argument is a client, and print its result.

    The command also has the client's options. The function receives only options that were given.
    """
    _, *own = inspect.signature(run, eval_str=True).parameters.values()
    takes_gallery = any(parameter.name == "gallery" for parameter in own)

    def command(
        *,
        service_url: Annotated[
            str, Option("--url", envvar="GMN_URL", help="Where the service is.")
        ] = DEFAULT_URL,
        gallery: Annotated[str, Option(help="Which gallery.")] = DEFAULT_GALLERY,
        api_key: Annotated[
            str | None, Option(envvar="GMN_API_KEY", help="A key with the scope it needs.")
        ] = None,
        as_json: JsonOption = False,
        **given: Any,
    ) -> None:
        if takes_gallery:
            given["gallery"] = gallery
        # Omitted options are None; leave them out so that the function's defaults apply.
        arguments = {name: value for name, value in given.items() if value is not None}
        with Client(service_url, api_key, gallery=gallery or DEFAULT_GALLERY) as client:
            show(run(client, **arguments), as_json)

    return with_parameters(command, run, own)


def is_required(parameter: Parameter) -> bool:
    is_positional = parameter.kind in (Parameter.POSITIONAL_OR_KEYWORD, Parameter.VAR_POSITIONAL)
    return is_positional and parameter.default is Parameter.empty


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


def annotated(parameter: Parameter, place: Any, texts: Mapping[str, str]) -> Parameter:
    """Return a parameter with its `Argument` or `Option` for Typer, unless it has one.

    Typer parses numbers, switches, choices and paths, and `read_box` boxes. All other types become
    str or list[str].

    Args:
        texts: help of parameters by their names.
    """
    name = parameter.name
    hint = parameter.annotation
    if get_origin(hint) is Annotated or hint is Context:
        return parameter.replace(kind=Parameter.KEYWORD_ONLY)
    # One value for all images may be replaced by a list with one for each.
    if {NoneType, bool} & set(get_args(hint)):
        hint = get_args(hint)[0]
    options: dict[str, Any] = {"help": texts.get(name)}
    if get_origin(hint) in (Sequence, Iterable) or parameter.kind is Parameter.VAR_POSITIONAL:
        item = (*get_args(hint), str)[0]
        if item in (BoxOfPerson, LabelledBox, SightedBox):
            options |= {"parser": read_box, "metavar": BOX}
        hint = list[float] if item is float else list[str]
    elif hint not in (bool, int, float, Path) and get_origin(hint) not in (Literal, list):
        hint = str
    names = OPTION_NAMES.get(name, "").split() if place is Option else ()
    return parameter.replace(
        kind=Parameter.KEYWORD_ONLY, annotation=Annotated[hint, place(*names, **options)]
    )


def with_parameters(
    command: Callable[..., Result],
    run: Callable[..., object],
    own: Iterable[Parameter] | None = None,
) -> Callable[..., Result]:
    """Give a command the name, help and parameters of `run`, in addition to its own parameters.

    A parameter that is neither an `Argument` nor an `Option` of Typer becomes one, with its text in
    the docstring. Each field of `**options: Unpack[Options]` becomes an option, with its text in
    the docstring of `Options`.

    Args:
        own: the parameters of `run` to take; all by default.
    """
    *added, _ = inspect.signature(command, eval_str=True).parameters.values()
    if own is None:
        own = inspect.signature(run, eval_str=True).parameters.values()
    declared = list(own)
    texts = read_entries(run)
    if declared and declared[-1].kind is Parameter.VAR_KEYWORD:
        (options,) = get_args(declared.pop().annotation)
        texts |= read_entries(options)
        declared += [
            Parameter(name, Parameter.KEYWORD_ONLY, default=None, annotation=hint)
            for name, hint in get_type_hints(options, include_extras=True).items()
        ]
    parameters = [
        annotated(parameter, Argument if is_required(parameter) else Option, texts)
        for parameter in declared
    ]
    names = {parameter.name for parameter in parameters}
    parameters += [parameter for parameter in added if parameter.name not in names]
    functools.update_wrapper(command, run)
    command.__doc__ = SECTION.split(inspect.getdoc(run) or "")[0]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    vars(command)["__signature__"] = inspect.Signature(parameters)
    return command


def command_group(text: str) -> Typer:
    # Without a callback, Typer would turn a group of one command into that command.
    return Typer(help=text, no_args_is_help=True, callback=lambda: None)


def output() -> Console:
    """Return a console on standard output, wide enough for whole tables if it is no terminal."""
    console = make_console()
    return console if console.is_terminal else make_console(width=WIDTH_WITHOUT_TERMINAL)


def show(shown: Shown, as_json: bool) -> None:
    """Print a result as JSON (lists and iterators as `results`) or as text."""
    answer, text, ok = shown
    if as_json:
        several = isinstance(answer, list | Iterator)
        data = {"results": list(answer)} if several else answer
        output().print_json(data=to_jsonable_python(data))
    elif isinstance(text, str):
        echo(text)
    elif isinstance(text, list | Iterator):
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


def counted(count: int, one: str, several: str | None = None) -> str:
    """Return a number with the counted noun, such as `1 crop` and `2,000 crops`."""
    return f"{count:,} {one if count == 1 else several or one + 's'}"


def shortened(lines: Sequence[Line], most: int) -> list[Line | str]:
    shown: list[Line | str] = [*lines[:most]]
    more = len(lines) - most
    if more > 0:
        shown.append(f"and {more:,} more; --json names them all")
    return shown


def plain_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Table:
    """Return a table of plain text; times are in UTC, as their column titles say."""
    table = Table()
    for title in columns:
        # Long names are wrapped, since cutting them off would lose a part.
        table.add_column(title, overflow="fold")
    for row in rows:
        table.add_row(*(_cell(value) for value in row))
    return table


def _cell(value: object) -> Text:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return Text(f"{value:,}" if isinstance(value, int) else f"{value:.3f}", justify="right")
    if isinstance(value, datetime):
        return Text(f"{value.astimezone(timezone.utc):%Y-%m-%d %H:%M}")
    return value if isinstance(value, Text) else Text("–" if value is None else str(value))


def progress_bar() -> Progress:
    """Return a progress bar on standard error; silent if that is no terminal."""
    return make_progress(BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())


def follow(client: Client, job: Job, title: str) -> Job:
    """Show the progress of a job until it ends; Ctrl-C stops watching, not the job."""
    latest = job
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
