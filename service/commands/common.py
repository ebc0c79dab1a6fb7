"""Options and terminal output that the commands share."""

from __future__ import annotations

import functools
import inspect
import re
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
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
from typer import Exit, Option, Typer, confirm, echo

from gmn_client import DEFAULT_GALLERY, DEFAULT_URL, Client
from gmn_client.models import Job
from model.problems import InputProblem

Result = TypeVar("Result")
Columns = Mapping[str, str | Callable[[Any], object]]
"""The titles of a table, and of each the attribute of the objects in it, or a function of them."""
# An entry of a docstring's `Args:` or `Attributes:`, with its continuation lines.
ENTRY = re.compile(r"^ {4}(\w+(?:, \w+)*): (.*(?:\n {8}.*)*)", re.MULTILINE)
WIDTH_WITHOUT_TERMINAL = 160
DEFAULT_DATA_DIR = Path("gmn-data")

DataDirOption = Annotated[
    Path, Option("--data-dir", envvar="GMN_DATA_DIR", help="Where the service keeps its data.")
]
JsonOption = Annotated[bool, Option("--json", help="Print one JSON object.")]
YesOption = Annotated[bool, Option("--yes", help="Do not ask; needed without a terminal.")]
LimitOption = Annotated[int, Option(min=1, help="How many at most.")]


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

    The client's options are added to those of the function. An argument `gallery` of the function
    replaces the common option. Each field of `**options: Unpack[Options]` becomes an option; the
    function receives those that were given. A field without its own `Option` gets one from its type
    and its text in the docstring.
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
        if "gallery" in named:
            arguments["gallery"] = gallery
        with Client(url, api_key, gallery=gallery or DEFAULT_GALLERY) as client:
            show(run(client, **arguments), as_json)

    _, *parameters = inspect.signature(run, eval_str=True).parameters.values()
    named = {parameter.name for parameter in parameters}
    if parameters and parameters[-1].kind is inspect.Parameter.VAR_KEYWORD:
        (options,) = get_args(parameters.pop().annotation)
        texts = read_entries(options)
        for name, hint in get_type_hints(options, include_extras=True).items():
            option = annotated(hint, Option(help=texts.get(name)))
            parameters.append(
                inspect.Parameter(
                    name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=option
                )
            )
    return with_parameters(command, run, parameters)


def client_command(group: Typer, name: str) -> Callable[[Callable[..., Shown]], object]:
    """Decorate a function as `with_client` does, and add it to a group of commands."""
    return lambda run: group.command(name)(with_client(run))


def read_entries(documented: Any) -> dict[str, str]:
    """Return the description of each argument or attribute in a docstring."""
    entries = ENTRY.findall(inspect.getdoc(documented) or "")
    return {name: " ".join(text.split()) for names, text in entries for name in names.split(", ")}


def annotated(hint: Any, place: Any) -> Any:
    """Return a type for Typer, with an `Argument` or `Option` unless it already has one.

    Typer parses numbers, switches and choices. All other types become str or list[str].
    """
    if get_origin(hint) is Annotated:
        return hint
    if NoneType in get_args(hint):
        hint = get_args(hint)[0]
    if get_origin(hint) in (Sequence, Iterable):
        hint = list[float] if get_args(hint) == (float,) else list[str]
    elif hint not in (bool, int, float) and get_origin(hint) is not Literal:
        hint = str
    return Annotated[hint, place]


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


def confirmed(yes: bool, task: str, question: str) -> None:
    """Ask before a task that cannot be undone, unless `yes`; exits if the user declines.

    Raises:
        InputProblem: there is no terminal to ask on.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise InputProblem(
            f"{task}: it cannot be undone, and there is no terminal to ask on; add --yes"
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


def listed(answers: Iterable[Any], columns: Columns) -> Shown:
    results = list(answers)
    return Shown(results, table_of(results, columns))


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
    if isinstance(value, int | float):
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
