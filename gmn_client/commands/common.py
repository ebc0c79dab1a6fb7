"""Terminal output that the commands of client and service share, and commands with a client."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timezone
from operator import attrgetter
from typing import Annotated, Any, NamedTuple, TypeVar

from pydantic_core import to_jsonable_python
from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn
from rich.table import Table
from rich.text import Text
from typer import Exit, Option, echo

from gmn_client import DEFAULT_GALLERY, DEFAULT_URL, Client
from gmn_client.commands.parameters import JsonOption, UrlOption, with_parameters
from gmn_client.commands.terminal import make_console, make_progress
from gmn_client.models import Job

Line = TypeVar("Line")
Columns = Mapping[str, str | Callable[[Any], object]]
"""Maps each title of a table to an attribute of the objects in it, or to a function of them."""
WIDTH_WITHOUT_TERMINAL = 160


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
        service_url: UrlOption = DEFAULT_URL,
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
    """Return a progress bar on standard error; see `make_progress`."""
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
