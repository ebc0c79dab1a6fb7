"""Shared by the commands: options and terminal output."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic_core import to_jsonable_python
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from typer import Exit, Option, Typer, confirm, echo

from gmn_client import DEFAULT_GALLERY, DEFAULT_URL, Client
from gmn_client.models import Job
from model.problems import InputProblem

WIDTH_WITHOUT_TERMINAL = 160
DEFAULT_DATA_DIR = Path("gmn-data")

DataDirOption = Annotated[
    Path, Option("--data-dir", envvar="GMN_DATA_DIR", help="Where the service keeps its data.")
]
JsonOption = Annotated[bool, Option("--json", help="Print one JSON object.")]


def with_client(run: Callable[..., None]) -> Callable[..., None]:
    """A command whose first argument is a client, made from options that are added to its own.

    A `gallery` of its own takes the place of the common one.
    """

    def command(
        *,
        url: Annotated[str, Option(envvar="GMN_URL", help="Where the service is.")] = DEFAULT_URL,
        gallery: Annotated[str, Option(help="Which gallery.")] = DEFAULT_GALLERY,
        api_key: Annotated[
            str | None, Option(envvar="GMN_API_KEY", help="A key with the scope it needs.")
        ] = None,
        **given: Any,
    ) -> None:
        with Client(url, api_key, gallery=gallery) as client:
            run(client, **({"gallery": gallery, **given} if "gallery" in named else given))

    _, *own = inspect.signature(run, eval_str=True).parameters.values()
    named = {one.name for one in own}
    *common, _ = inspect.signature(command, eval_str=True).parameters.values()
    common = [one for one in common if one.name not in named]
    parameters = [one.replace(kind=one.KEYWORD_ONLY) for one in (*own, *common)]
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
        echo(text)


def plain_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Table:
    """A table of plain texts."""
    table = Table(*columns)
    for row in rows:
        table.add_row(*(escape(str(cell)) for cell in row))
    return table


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
