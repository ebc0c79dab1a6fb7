"""`gmn enroll`: a folder, archive, manifest or data set into a gallery, over HTTP."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer
from rich.console import Console
from rich.markup import escape

from service.client import Client, RequestRefused
from service.client.bulk import Outcome, enroll_crops
from service.client.sources import Source, SourceCrop, open_source
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
from service.commands.enroll_job import JobSource, enroll_as_job

PROBLEMS_SHOWN = 20


def enroll_command(read_spec: Callable[[str], Iterable[SourceCrop]]) -> Callable[..., None]:
    """Builds the command; `read_spec` reads `KIND:PATH`, which this room knows nothing of."""

    def enroll(
        source: Annotated[
            str,
            typer.Argument(
                help="A folder of images, a zip, a CSV manifest or KIND:PATH; with --job a tar too."
            ),
        ],
        camera: Annotated[
            str | None,
            typer.Option(
                "--camera",
                help="Enrol this camera's images only; for a folder or zip, which camera it was.",
            ),
        ] = None,
        split: Annotated[
            str | None, typer.Option("--split", help="Enrol this split only: train, query, gallery")
        ] = None,
        job: Annotated[
            bool,
            typer.Option("--job", help="Send it as one import, which survives a restart."),
        ] = False,
        report: Annotated[
            Path | None,
            typer.Option("--report", help="With --job: write what is wrong with which to a CSV."),
        ] = None,
        url: UrlOption = DEFAULT_URL,
        gallery: GalleryOption = DEFAULT_GALLERY,
        api_key: ApiKeyOption = None,
        create: Annotated[
            bool, typer.Option("--create", help="Create the gallery if it is not there.")
        ] = False,
        as_json: JsonOption = False,
    ) -> None:
        """Sends images to a gallery of the service.

        A folder or zip says nothing of who is on an image; a manifest or data set does. An image
        that is refused is named, and the others are enrolled; the exit status is 1 then. Sending
        the same images again enrols nothing twice.

        With --job the service does it by itself once all is sent: an archive goes as it is, with
        the manifest in it, and anything else is packed while it is sent.

        Example: gmn enroll cuhk01:/data/cuhk01 --camera 0 --url http://127.0.0.1:8000
        """
        if report is not None and not job:
            raise typer.BadParameter("--report goes with --job")
        with connect(url, api_key, gallery) as client:
            begin = partial(_create, client, gallery) if create else _nothing
            if job:
                whole = JobSource(source, camera, split, read_spec)
                summary = enroll_as_job(client, whole, begin, report)
            else:
                with open_source(source, read_spec) as found:
                    chosen = found.in_split(split).under(camera)
                    begin()
                    summary = _enroll(client, chosen)
        console = output()
        if as_json:
            console.print_json(data=summary)
        else:
            _show(console, summary)
        if summary["problems"] or summary.get("state", "done") != "done":
            raise typer.Exit(1)

    return enroll


def _create(client: Client, gallery: str) -> None:
    try:
        client.create_gallery(gallery)
    except RequestRefused as refusal:
        if refusal.problem.status != httpx.codes.CONFLICT:
            raise


def _nothing() -> None:
    """The gallery is there."""


def _enroll(client: Client, source: Source) -> dict[str, Any]:
    outcomes, started = [], time.perf_counter()
    with progress_bar() as progress:
        task = progress.add_task("Enrolling", total=len(source.crops))
        for outcome in enroll_crops(client, source.crops):
            outcomes.append(outcome)
            progress.advance(task)
    return _summary(outcomes, source, client.gallery_name, time.perf_counter() - started)


def _summary(
    outcomes: list[Outcome], source: Source, gallery: str, seconds: float
) -> dict[str, Any]:
    problems = [outcome for outcome in outcomes if outcome.problem is not None]
    duplicates = sum(outcome.duplicate for outcome in outcomes)
    return {
        "gallery": gallery,
        "sent": len(outcomes),
        "enrolled": len(outcomes) - len(problems) - duplicates,
        "duplicates": duplicates,
        "passed_by": source.passed_by,
        "seconds": round(seconds, 3),
        "crops_per_second": round(len(outcomes) / max(seconds, 1e-9), 1),
        "problems": [{"name": one.name, "problem": one.problem} for one in problems],
    }


def _show(console: Console, summary: dict[str, Any]) -> None:
    console.print(
        f"[bold]{summary['enrolled']:,}[/] enrolled in gallery {escape(summary['gallery'])}, "
        f"{summary['duplicates']:,} there already, {len(summary['problems']):,} refused; "
        f"{summary['seconds']:.1f} s, {summary['crops_per_second']:,.0f} crops/s"
    )
    if summary.get("state", "done") != "done":
        detail = summary["detail"] or "see the service's log"
        console.print(f"job {summary['job_id']} [red]{summary['state']}[/]: {escape(detail)}")
    if summary["passed_by"]:
        console.print(f"{summary['passed_by']:,} other files are no images and were passed by")
    for problem in summary["problems"][:PROBLEMS_SHOWN]:
        console.print(f"[red]{escape(problem['name'])}[/]: {escape(problem['problem'])}")
    rest = len(summary["problems"]) - PROBLEMS_SHOWN
    if rest > 0:
        console.print(f"and {rest:,} more; --json names them all")
