"""Shared by the commands: options and terminal output."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic_core import to_jsonable_python
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from gmn_client import Client
from gmn_client.models import Job

WIDTH_WITHOUT_TERMINAL = 160
DEFAULT_DATA_DIR = Path("gmn-data")

UrlOption = Annotated[str, typer.Option("--url", envvar="GMN_URL", help="Where the service is.")]
GalleryOption = Annotated[str, typer.Option("--gallery", help="Which gallery.")]
ApiKeyOption = Annotated[
    str | None,
    typer.Option("--api-key", envvar="GMN_API_KEY", help="A key with the scope it needs."),
]
DataDirOption = Annotated[
    Path,
    typer.Option("--data-dir", envvar="GMN_DATA_DIR", help="Where the service keeps its data."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


def command_group(text: str) -> typer.Typer:
    """A group of sub-commands with its help text."""
    # With a callback a group of one command stays a group.
    return typer.Typer(help=text, no_args_is_help=True, callback=lambda: None)


def output() -> Console:
    """Standard output; wide enough for a whole table where it is no terminal."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(width=WIDTH_WITHOUT_TERMINAL)


def show(answer: Any, as_json: bool, text: str | Table | Callable[[], None]) -> None:
    """Prints an answer as JSON, several as `results`, or a text or table, or calls what prints."""
    if as_json:
        data = {"results": answer} if isinstance(answer, list) else answer
        output().print_json(data=to_jsonable_python(data))
    elif isinstance(text, Table):
        output().print(text)
    elif callable(text):
        text()
    else:
        typer.echo(text)


def plain_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Table:
    """A table of plain texts."""
    table = Table(*columns)
    for row in rows:
        table.add_row(*(escape(str(cell)) for cell in row))
    return table


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
            typer.echo(f"Job {job.job_id} goes on in the service.", err=True)
            raise
    return latest
