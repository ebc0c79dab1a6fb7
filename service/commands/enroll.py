"""`gmn enroll`: an image, folder, archive, manifest or data set into a gallery, over HTTP."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer
from rich.console import Console
from rich.markup import escape

from gmn_client import Client, RequestRefused
from model.problems import InputProblem
from service.commands.bulk import Outcome, enroll_crops
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
from service.commands.sources import Source, SourceCrop, open_source

PROBLEMS_SHOWN = 20
DUPLICATES_SHOWN = 10


def enroll_command(read_spec: Callable[[str], Iterable[SourceCrop]]) -> Callable[..., None]:
    """Builds the command; `read_spec` reads `KIND:PATH`, which this room knows nothing of."""

    def enroll(
        source: Annotated[
            str,
            typer.Argument(
                help="An image, a folder of images or of one sub-folder per person, a zip, a CSV "
                "manifest, or KIND:PATH; with --job a tar too."
            ),
        ],
        identity: Annotated[
            str | None,
            typer.Option("--identity", help="Whom all images show; for images, folders and zips."),
        ] = None,
        camera: Annotated[
            str | None,
            typer.Option(
                "--camera",
                help="Enroll this camera's images only; for images, a folder or zip, the camera "
                "that took them.",
            ),
        ] = None,
        split: Annotated[
            str | None,
            typer.Option("--split", help="Enroll this split only: train, query, gallery"),
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

        A manifest or data set names people and cameras. A folder without images, but with
        sub-folders, names people by its sub-folders. For anything else --identity and --camera name
        them. An image that is refused is named, and the others are enrolled; the exit status is 1
        then. Sending the same images again enrolls nothing twice, and names them.

        With --job the service does it by itself once all is sent: an archive goes as it is, with
        the manifest in it, and anything else is packed while it is sent.

        Example: gmn enroll photo.jpg --identity Ann --camera entrance

        Example: gmn enroll cuhk01:/data/cuhk01 --camera A --url http://127.0.0.1:8000
        """
        if report is not None and not job:
            raise typer.BadParameter("--report goes with --job")
        with connect(url, api_key, gallery) as client, _missing_gallery(gallery):
            begin = partial(_create, client, gallery) if create else _nothing
            if job:
                whole = JobSource(source, camera, split, identity, read_spec)
                summary = enroll_as_job(client, whole, begin, report)
            else:
                with open_source(source, read_spec) as found:
                    chosen = found.in_split(split).under(camera).showing(identity)
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


@contextmanager
def _missing_gallery(gallery: str) -> Iterator[None]:
    try:
        yield
    except RequestRefused as refusal:
        if refusal.problem.type.endswith(":unknown_gallery"):
            raise InputProblem(
                f"--gallery {gallery}: there is no such gallery; add --create to create it"
            ) from refusal
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
    duplicates = [outcome.name for outcome in outcomes if outcome.duplicate]
    return {
        "gallery": gallery,
        "sent": len(outcomes),
        "enrolled": len(outcomes) - len(problems) - len(duplicates),
        "duplicates": len(duplicates),
        "duplicate_names": duplicates,
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
    # A job reports their number alone.
    if names := summary.get("duplicate_names"):
        rest = len(names) - DUPLICATES_SHOWN
        more = f" and {rest:,} more; --json names them all" if rest > 0 else ""
        console.print(f"there already: {escape(', '.join(names[:DUPLICATES_SHOWN]))}{more}")
    for problem in summary["problems"][:PROBLEMS_SHOWN]:
        console.print(f"[red]{escape(problem['name'])}[/]: {escape(problem['problem'])}")
    rest = len(summary["problems"]) - PROBLEMS_SHOWN
    if rest > 0:
        console.print(f"and {rest:,} more; --json names them all")
