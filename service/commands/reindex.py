"""`gmn reindex`: a gallery embedded anew, after the model was changed."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markup import escape

from gmn_client import Client
from gmn_client.models import Job
from service.commands.connection import (
    DEFAULT_GALLERY,
    DEFAULT_URL,
    ApiKeyOption,
    GalleryOption,
    JsonOption,
    UrlOption,
    connect,
    follow,
    output,
    progress_bar,
)

PROBLEMS_SHOWN = 20


def reindex(
    wait: Annotated[bool, typer.Option("--wait", help="Until it is done; 1 if it fails.")] = False,
    url: UrlOption = DEFAULT_URL,
    gallery: GalleryOption = DEFAULT_GALLERY,
    everything: Annotated[
        bool, typer.Option("--all", help="Every gallery that another model filled.")
    ] = False,
    api_key: ApiKeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Embeds a gallery anew with the model that is served, or every one that needs it.

    The service does it by itself; one that was begun already is gone on with. Until it is done the
    model before answers, where it is a shipped one or the service was started with --previous.

    Example: gmn reindex --gallery entrance --wait

    Example: gmn reindex --all --wait
    """
    with connect(url, api_key, gallery) as client:
        names = [gallery]
        if everything:
            names = [one.name for one in client.galleries() if one.state != "ready"]
        jobs = [client.reindex(name) for name in names]
        if wait:
            with progress_bar() as progress:
                jobs = [follow(client, job, job.gallery, progress) for job in jobs]
        if as_json:
            found = [job.model_dump(mode="json") for job in jobs]
            output().print_json(data={"results": found} if everything else found[0])
        else:
            for job in jobs:
                _show(client, job)
            if not jobs:
                output().print("every gallery holds vectors of the served model already")
    if wait and any(job.state != "done" for job in jobs):
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
