"""Shared by the commands: options and terminal output."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Collection, Iterable, Sequence
from datetime import UTC, datetime
from operator import attrgetter
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeVar, get_args, get_type_hints

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
Column = str | tuple[str, str | Callable[[Any], object]]
"""The attribute that it shows of an object; or its title, and the attribute or what makes it."""
WIDTH_WITHOUT_TERMINAL = 160
DEFAULT_DATA_DIR = Path("gmn-data")

DataDirOption = Annotated[
    Path, Option("--data-dir", envvar="GMN_DATA_DIR", help="Where the service keeps its data.")
]
JsonOption = Annotated[bool, Option("--json", help="Print one JSON object.")]
YesOption = Annotated[bool, Option("--yes", help="Do not ask; needed without a terminal.")]
LimitOption = Annotated[int, Option(min=1, help="How many at most.")]


class Shown(NamedTuple):
    """What a command prints: an answer as JSON, or for people; with the exit status 1 if not `ok`.

    `answer` and `text` are those of `show`.
    """

    answer: Any
    text: RenderableType
    ok: bool = True


def printed(run: Callable[..., Shown]) -> Callable[..., None]:
    """A command that prints what a function returns; it has the option `--json` too."""

    def command(*, as_json: JsonOption = False, **given: Any) -> None:
        answer, text, ok = run(**given)
        show(answer, as_json, text)
        if not ok:
            raise Exit(1)

    return _with_parameters(command, run, inspect.signature(run, eval_str=True).parameters.values())


def with_client(run: Callable[..., Shown]) -> Callable[..., None]:
    """A printed command whose first argument is a client, made from options added to its own.

    A `gallery` of its own takes the place of the common one. Of `**options: Unpack[Options]` each
    field of `Options` is an option, and the function gets those that are given.
    """

    def command(
        *,
        url: Annotated[str, Option(envvar="GMN_URL", help="Where the service is.")] = DEFAULT_URL,
        gallery: Annotated[str, Option(help="Which gallery.")] = DEFAULT_GALLERY,
        api_key: Annotated[
            str | None, Option(envvar="GMN_API_KEY", help="A key with the scope it needs.")
        ] = None,
        **given: Any,
    ) -> Shown:
        given = {name: one for name, one in given.items() if name in named or one is not None}
        if "gallery" in named:
            given["gallery"] = gallery
        with Client(url, api_key, gallery=gallery) as client:
            return run(client, **given)

    _, *own = inspect.signature(run, eval_str=True).parameters.values()
    named = {one.name for one in own}
    if own and own[-1].kind is inspect.Parameter.VAR_KEYWORD:
        last = own.pop().replace(kind=inspect.Parameter.KEYWORD_ONLY, default=None)
        options = get_type_hints(get_args(last.annotation)[0], include_extras=True)
        own += [last.replace(name=name, annotation=hint) for name, hint in options.items()]
    return printed(_with_parameters(command, run, own))


def client_command(group: Typer, name: str) -> Callable[[Callable[..., Shown]], object]:
    """As `with_client`, for a sub-command of a group."""
    return lambda run: group.command(name)(with_client(run))


def _with_parameters(
    command: Callable[..., Result], run: Callable[..., object], own: Collection[inspect.Parameter]
) -> Callable[..., Result]:
    """Gives a command the name and help of a function, and other parameters before its own."""
    *added, _ = inspect.signature(command, eval_str=True).parameters.values()
    taken = {one.name for one in own}
    parameters = [*own, *(one for one in added if one.name not in taken)]
    parameters = [one.replace(kind=one.KEYWORD_ONLY) for one in parameters]
    functools.update_wrapper(command, run)
    command.__annotations__ = {one.name: one.annotation for one in parameters}
    vars(command)["__signature__"] = inspect.Signature(parameters)
    return command


def command_group(text: str) -> Typer:
    """A group of sub-commands with its help text."""
    # With a callback a group of one command stays a group.
    return Typer(help=text, no_args_is_help=True, callback=lambda: None)


def confirmed(yes: bool, task: str, question: str) -> None:
    """Asks before what cannot be undone, unless `yes`; ends the command where that is declined.

    Raises:
        InputProblem: there is no terminal to ask on.
    """
    if not (yes or sys.stdin.isatty()):
        raise InputProblem(
            f"{task}: it cannot be undone, and there is no terminal to ask on; add --yes"
        )
    if not (yes or confirm(f"{question} It cannot be undone.", err=True)):
        raise Exit(1)


def output() -> Console:
    """Standard output; wide enough for a whole table where it is no terminal."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(width=WIDTH_WITHOUT_TERMINAL)


def show(answer: Any, as_json: bool, text: RenderableType) -> None:
    """Prints an answer as JSON, several as `results`, or a plain text, or what `rich` renders."""
    if as_json:
        data = {"results": answer} if isinstance(answer, list) else answer
        output().print_json(data=to_jsonable_python(data))
    elif isinstance(text, str):
        echo(text)
    else:
        output().print(text)


def listed(found: Iterable[Any], columns: Sequence[Column], nothing: str = "") -> Shown:
    """A list as a table; a text where there is nothing."""
    results = list(found)
    return Shown(results, nothing if nothing and not results else table_of(results, columns))


def table_of(found: Iterable[Any], columns: Sequence[Column]) -> Table:
    """A table with a row for each object."""
    named = [(one, one) if isinstance(one, str) else one for one in columns]
    cells = [attrgetter(one) if isinstance(one, str) else one for _, one in named]
    return plain_table(
        [name for name, _ in named], ([cell(one) for cell in cells] for one in found)
    )


def shortened(lines: Sequence[str], most: int) -> list[str]:
    """The first lines, and how many more there are."""
    more = len(lines) - most
    return [*lines[:most], *[f"and {more:,} more; --json names them all"][: max(0, more)]]


def plain_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Table:
    """A table of plain texts; times are in UTC, which the titles of their columns name."""
    table = Table(*columns)
    for row in rows:
        table.add_row(*map(_cell, row))
    return table


def _cell(value: object) -> Text:
    if isinstance(value, int | float):
        return Text(f"{value:,}" if isinstance(value, int) else f"{value:.3f}", justify="right")
    if isinstance(value, datetime):
        return Text(f"{value.astimezone(UTC):%Y-%m-%d %H:%M}")
    return value if isinstance(value, Text) else Text("–" if value is None else str(value))


def percent(share: float) -> str:
    """A probability as text; above 99.9% as a bound, since no score is certain."""
    return "> 99.9%" if share > 0.999 else f"{share:.1%}"


def progress_bar() -> Progress:
    """A progress bar on standard error; silent where that is no terminal."""
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
    """Shows the progress of a job until it has ended; on Ctrl-C the job goes on in the service."""
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
