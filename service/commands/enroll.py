"""`gmn enroll`: an image, folder, archive, manifest or data set into a gallery, over HTTP."""

from __future__ import annotations

import csv
import io
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import httpx
from rich.markup import escape
from typer import Argument, BadParameter, Context, Exit, Option

from gmn_client import DEFAULT_GALLERY, DEFAULT_URL, Client, RequestRefused
from model.crops.manifest import MANIFEST
from model.crops.names import is_image_name
from model.problems import InputProblem
from service.commands.bulk import Source, SourceCrop, enroll_crops, find_source, read_crop
from service.commands.common import (
    ApiKeyOption,
    GalleryOption,
    JsonOption,
    UrlOption,
    follow,
    output,
    progress_bar,
    show,
)

PROBLEMS_SHOWN = 20
DUPLICATES_SHOWN = 10
SOURCE_HELP = (
    "An image, a folder of images or of one sub-folder per person, an archive, a CSV manifest or a "
    "folder with a manifest.csv, or KIND:PATH."
)
IDENTITY_HELP = "Whom all images show; for images, folders and zips."
CAMERA_HELP = (
    "Enroll this camera's images only; for images, a folder or zip, the camera that took them."
)
ReportOption = Annotated[
    Path | None, Option(help="With --job: write what is wrong with which to a CSV.")
]
COLUMNS = ("path", "identity", "camera", "captured_at")
REPORT_COLUMNS = ("position", "source", "code", "detail")
# A spreadsheet runs what begins like a formula, some of them after a tab or a line's end.
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
Problem = tuple[str, str, str, str]
"""The columns of the report; a crop that was not sent has no position."""


def enroll(
    context: Context,
    source: Annotated[str, Argument(help=SOURCE_HELP)],
    identity: Annotated[str | None, Option(help=IDENTITY_HELP)] = None,
    camera: Annotated[str | None, Option(help=CAMERA_HELP)] = None,
    split: Annotated[str | None, Option(help="One split only: train, query, gallery.")] = None,
    job: Annotated[bool, Option("--job", help="Send an import, which survives a restart.")] = False,
    report: ReportOption = None,
    url: UrlOption = DEFAULT_URL,
    gallery: GalleryOption = DEFAULT_GALLERY,
    api_key: ApiKeyOption = None,
    create: Annotated[bool, Option("--create", help="Create a missing gallery.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Sends images to a gallery of the service.

    A manifest or data set names people and cameras. A folder without images, but with
    sub-folders, names people by its sub-folders. For anything else --identity and --camera name
    them. An image that is refused is named, and the others are enrolled; the exit status is 1
    then. Sending the same images again enrolls nothing twice, and names them.

    With --job the service does it by itself once all is sent: images are packed into an archive
    first. An archive is always sent so, as it is, with the manifest in it.

    Example: gmn enroll photo.jpg --identity Ann --camera entrance

    Example: gmn enroll cuhk01:/data/cuhk01 --camera A --url http://127.0.0.1:8000
    """
    path, started, passed_by = Path(source), time.perf_counter(), 0
    archive = path.is_file() and path.suffix.lower() != ".csv" and not is_image_name(path.name)
    if report is not None and not (job or archive):
        raise BadParameter("--report goes with --job or an archive")
    if archive:
        require_archive(path, split)
    else:
        found = find_source(source, context.obj.read_spec).chosen(split, camera, identity)
        passed_by = found.passed_by
    if report is not None:
        # Before anything is sent: a file that cannot be written is named at once.
        write_report(report, ())
    with Client(url, api_key, gallery=gallery) as client, _gallery(client, create):
        if archive:
            counts = send(client, Packed(path, camera, identity), report)
        elif job:
            with pack(found, camera) as packed:
                counts = send(client, packed, report)
        else:
            counts = _send(client, found.crops)
    seconds = time.perf_counter() - started
    pace = round(counts["sent"] / max(seconds, 1e-9), 1)
    summary = {"gallery": gallery, **counts, "passed_by": passed_by}
    summary |= {"seconds": round(seconds, 3), "crops_per_second": pace}
    show(summary, as_json, lambda: _show(summary))
    if summary["problems"] or summary.get("state", "done") != "done":
        raise Exit(1)


@contextmanager
def _gallery(client: Client, create: bool) -> Iterator[None]:
    """Creates the gallery if it is to be; a missing one is an `InputProblem` with the remedy."""
    try:
        if create:
            try:
                client.create_gallery(client.gallery_name)
            except RequestRefused as refusal:
                if refusal.problem.status != httpx.codes.CONFLICT:
                    raise
        yield
    except RequestRefused as refusal:
        if not refusal.problem.type.endswith(":unknown_gallery"):
            raise
        raise InputProblem(
            f"--gallery {client.gallery_name}: there is no such gallery; add --create to create it"
        ) from refusal


def _send(client: Client, crops: Sequence[SourceCrop]) -> dict[str, Any]:
    problems, duplicates = [], []
    with progress_bar() as progress:
        sent = enroll_crops(client, crops)
        for crop, one in progress.track(sent, total=len(crops), description="Enrolling"):
            if one.problem is not None:
                problem = one.problem.detail or one.problem.title
                problems.append({"name": crop.name, "problem": problem})
            elif one.duplicate:
                duplicates.append(crop.name)
    return {
        "sent": len(crops),
        "enrolled": len(crops) - len(problems) - len(duplicates),
        "duplicates": len(duplicates),
        "duplicate_names": duplicates,
        "problems": problems,
    }


def _show(summary: dict[str, Any]) -> None:
    console, problems = output(), summary["problems"]
    console.print(
        f"[bold]{summary['enrolled']:,}[/] enrolled in gallery {escape(summary['gallery'])}, "
        f"{summary['duplicates']:,} there already, {len(problems):,} refused; "
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
    for problem in problems[:PROBLEMS_SHOWN]:
        console.print(f"[red]{escape(problem['name'])}[/]: {escape(problem['problem'])}")
    if len(problems) > PROBLEMS_SHOWN:
        console.print(f"and {len(problems) - PROBLEMS_SHOWN:,} more; --json names them all")


@dataclass(frozen=True)
class Packed:
    """An archive to send.

    Attributes:
        file: a zip or tar.
        identity, camera: of every image, where there is no manifest in the archive.
        names: for messages, by the names in the archive.
        unreadable: the crops that are not in it.
    """

    file: Path
    camera: str | None
    identity: str | None = None
    names: dict[str, str] = field(default_factory=dict)
    unreadable: list[Problem] = field(default_factory=list)


def require_archive(path: Path, split: str | None) -> None:
    """Raises `InputProblem` for a file that is no archive, or a split, which archives lack."""
    if split is not None:
        raise InputProblem(f"--split {split}: an archive names none; send its manifest")
    try:
        readable = zipfile.is_zipfile(path) or tarfile.is_tarfile(path)
    except OSError as error:
        raise InputProblem(f"{path}: cannot be read ({error.strerror})") from error
    if not readable:
        raise InputProblem(
            f"{path}: neither a CSV manifest nor a zip or tar archive; pack the images into one, "
            "or name their folder"
        )


@contextmanager
def pack(source: Source, camera: str | None) -> Iterator[Packed]:
    """Packs a source into a temporary tar file, with a manifest where the source names people.

    Raises:
        InputProblem: for a crop with an identity and without a camera, which a manifest needs.
    """
    labelled = source.labelled or any(crop.identity for crop in source.crops)
    for crop in source.crops if labelled else ():
        if not (crop.identity and crop.camera):
            raise InputProblem(
                f"{crop.name}: an import's manifest names identity and camera of every image; give "
                "the camera with --camera, or enroll these without --job"
            )
    manifest = io.StringIO()
    lines = csv.writer(manifest)
    lines.writerow(COLUMNS)
    with tempfile.NamedTemporaryFile(prefix="gmn-", suffix=".tar") as file, progress_bar() as bar:
        packed = Packed(Path(file.name), camera)
        with tarfile.open(fileobj=file, mode="w") as tar:
            for number, crop in enumerate(bar.track(source.crops, description="Packing")):
                data, name = read_crop(crop), f"{number:08d}.png"
                if isinstance(data, str):
                    packed.unreadable.append(("", crop.name, "unreadable", data))
                    continue
                _add(tar, name, data)
                packed.names[name] = crop.name
                moment = crop.captured_at.isoformat() if crop.captured_at else ""
                lines.writerow((name, crop.identity, crop.camera, moment))
            if labelled:
                _add(tar, MANIFEST, manifest.getvalue().encode())
        file.flush()
        yield packed


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    tar.addfile(entry, io.BytesIO(content))


def send(client: Client, archive: Packed, report: Path | None) -> dict[str, Any]:
    """Sends an archive as one import, follows it to its end, and returns its outcome and counts."""
    with progress_bar() as progress:
        progress.add_task("Sending", total=None)
        job = client.import_archive(archive.file, identity=archive.identity, camera=archive.camera)
    job = follow(client, job, "Enrolling")
    problems = archive.unreadable + [
        (str(one.position), archive.names.get(one.source, one.source), one.code, one.detail)
        for one in (client.job_problems(job.job_id) if job.problems else ())
    ]
    if report is not None:
        write_report(report, problems)
    return {
        "job_id": job.job_id,
        "state": job.state,
        "detail": job.detail,
        "sent": job.progress.total + len(archive.unreadable),
        "enrolled": job.progress.landed,
        "duplicates": job.progress.duplicates,
        "problems": [{"name": name, "problem": detail} for _, name, _, detail in problems],
    }


def write_report(report: Path, problems: Sequence[Problem]) -> None:
    """Writes the problems as CSV; raises `InputProblem` where the file cannot be written."""
    try:
        with report.open("w", newline="", encoding="utf-8", errors="replace") as file:
            lines = csv.writer(file)
            lines.writerow(REPORT_COLUMNS)
            for problem in problems:
                lines.writerow(f"'{text}" if text.startswith(FORMULA) else text for text in problem)
    except OSError as error:
        raise InputProblem(
            f"--report {report}: cannot be written ({error.strerror}); name another file"
        ) from error
