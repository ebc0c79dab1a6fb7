"""Shared by the commands: options, terminal output, and a service as a child process."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from pydantic import BaseModel
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from gmn_client import Client
from gmn_client.models import Job
from model.problems import InputProblem

WIDTH_WITHOUT_TERMINAL = 160
STARTUP_SECONDS = 120.0
STOP_SECONDS = 20.0
POLL_SECONDS = 0.05
ANNOUNCED_URL = re.compile(r"https?://[\w.\-\[\]:]+:\d+")
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
    group = typer.Typer(
        add_completion=False,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode="markdown",
    )
    # With a callback a group of one command stays a group.
    group.callback(help=text)(lambda: None)
    return group


def output() -> Console:
    """Standard output; wide enough for a whole table where it is no terminal."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(width=WIDTH_WITHOUT_TERMINAL)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table of plain texts on standard output."""
    table = Table(*columns)
    for row in rows:
        table.add_row(*map(escape, row))
    output().print(table)


def print_answer(answer: BaseModel, as_json: bool, text: str) -> None:
    """An answer of the service as JSON, or as a line of text."""
    if as_json:
        output().print_json(answer.model_dump_json())
    else:
        typer.echo(text)


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


@contextmanager
def local_service(
    command: Sequence[str], log: Path, startup_seconds: float = STARTUP_SECONDS
) -> Iterator[str]:
    """Starts a service as a child process, waits until it is ready, and stops it with the block.

    Args:
        command: the `gmn serve` to run; its port may be 0, for one that is free.
        log: file for its standard output and error.
        startup_seconds: how long it may take to become ready.

    Yields:
        The URL that it announces.

    Raises:
        InputProblem: with the log's last line, if it ends or is not ready in time.
    """
    with log.open("wb") as sink:
        process = subprocess.Popen(command, stdout=sink, stderr=subprocess.STDOUT)
    try:
        yield _wait_until_ready(process, log, time.monotonic() + startup_seconds)
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until_ready(process: subprocess.Popen[bytes], log: Path, deadline: float) -> str:
    while True:
        text = log.read_text(errors="replace")
        last_line = (text.strip().splitlines() or [""])[-1].removeprefix("gmn: ")
        if process.poll() is not None:
            raise InputProblem(last_line or f"gmn serve ended with {process.returncode}")
        if time.monotonic() > deadline:
            raise InputProblem(f"the service was not ready in time; its log ends: {last_line}")
        if announced := ANNOUNCED_URL.search(text):
            with Client(announced.group()) as client:
                if client.ready():
                    return announced.group()
        time.sleep(POLL_SECONDS)
