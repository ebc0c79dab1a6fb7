"""`gmn reindex`: a gallery embedded anew, after the model was changed."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markup import escape

from service.client import Client, Job
from service.commands.connection import (
    DEFAULT_GALLERY,
    DEFAULT_URL,
    ApiKeyOption,
    GalleryOption,
    JsonOption,
    UrlOption,
    connect,
    output,
    progress_bar,
)
from service.commands.following import follow

PROBLEMS_SHOWN = 20


def reindex(
    wait: Annotated[bool, typer.Option("--wait", help="Until it is done; 1 if it fails.")] = False,
    url: UrlOption = DEFAULT_URL,
    gallery: GalleryOption = DEFAULT_GALLERY,
    api_key: ApiKeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Embeds a gallery anew with the model that is served.

    The service does it by itself; one that was begun already is gone on with. Until it is done, a
    service that was started with --previous answers with the model before.

    Example: gmn reindex --gallery entrance --wait
    """
    with connect(url, api_key, gallery) as client:
        job = client.reindex()
        if wait:
            with progress_bar() as progress:
                job = follow(client, job, "Embedding", progress)
        if as_json:
            output().print_json(job.model_dump_json())
        else:
            _show(client, job)
    if wait and job.state != "done":
        raise typer.Exit(1)


def _show(client: Client, job: Job) -> None:
    console = output()
    ending = f": {job.detail}" if job.detail else ""
    console.print(
        f"gallery {escape(job.gallery)}: {job.progress.done:,} of {job.progress.total:,} crops, "
        f"job {job.job_id} is {job.state}{escape(ending)}"
    )
    if not (job.finished and job.problems):
        return
    for number, problem in enumerate(client.job_problems(job.job_id)):
        if number == PROBLEMS_SHOWN:
            console.print(f"and {job.problems - number:,} more")
            break
        console.print(f"[red]{escape(problem.source)}[/]: {escape(problem.detail)}")
