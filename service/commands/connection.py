"""What the client's commands share: the options that name a service, and the terminal."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from gmn_client import DEFAULT_GALLERY, DEFAULT_URL, Client
from gmn_client.models import Job

WIDTH_WITHOUT_TERMINAL = 160

UrlOption = Annotated[str, typer.Option("--url", envvar="GMN_URL", help="Where the service is.")]
GalleryOption = Annotated[str, typer.Option("--gallery", help="Which gallery.")]
ApiKeyOption = Annotated[
    str | None,
    typer.Option("--api-key", envvar="GMN_API_KEY", help="A key with the scope it needs."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]

__all__ = ["DEFAULT_GALLERY", "DEFAULT_URL", "ApiKeyOption", "GalleryOption", "JsonOption"]


def connect(url: str, api_key: str | None, gallery: str) -> Client:
    """A client for what the options name."""
    return Client(url, api_key, gallery=gallery)


def output() -> Console:
    """Standard output; wide enough for a whole table where it is no terminal."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(width=WIDTH_WITHOUT_TERMINAL)


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


def follow(client: Client, job: Job, title: str, progress: Progress) -> Job:
    """Shows how far a job is, until it has ended; on Ctrl-C it goes on in the service."""
    task = progress.add_task(title, total=None)
    try:
        for latest in client.watch_job(job.job_id):
            done = latest.progress
            progress.update(task, total=done.total or None, completed=done.done)
    except KeyboardInterrupt:
        typer.echo(f"Job {job.job_id} goes on in the service.", err=True)
        raise
    return latest
