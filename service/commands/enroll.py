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
from service.commands.bulk import Source, enroll_crops, find_source, read_crop
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
DUPLICATES_SHOWN = IGNORED_SHOWN = 10
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
COLUMNS = ("path", "identity", "camera", "captured_at", "external_id", "metadata")
IGNORED = "ignored"
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

    A manifest or data set names people and cameras. In a folder or archive without a manifest and
    without an image directly in it, sub-folders name people. Otherwise --identity and --camera name
    them. An image that is refused is named, and the others are enrolled; the exit status is 1
    then. What is ignored is named. Sending the same images again enrolls nothing twice.

    With --job the service does it by itself once all is sent: images are packed into an archive
    first. An archive is always sent so, as it is, with the manifest in it.

    Example: gmn enroll photo.jpg --identity Ann --camera entrance

    Example: gmn enroll cuhk01:/data/cuhk01 --camera A --url http://127.0.0.1:8000
    """
    path, started = Path(source), time.perf_counter()
    archive = path.is_file() and path.suffix.lower() != ".csv" and not is_image_name(path.name)
    if report is not None and not (job or archive):
        raise BadParameter("--report goes with --job or an archive")
    if archive:
        require_archive(path, split)
    else:
        found = find_source(source, context.obj.read_spec).chosen(split, camera, identity)
    if report is not None:
        # Before anything is sent: a file that cannot be written is named at once.
        write_report(report, ())
    with Client(url, api_key, gallery=gallery) as client, _gallery(client, create):
        if archive:
            counts = send(client, Packed(path, camera, identity), report)
        elif job:
            with pack(found) as packed:
                counts = send(client, packed, report)
        else:
            counts = _send(client, found)
    seconds = time.perf_counter() - started
    pace = round(counts["sent"] / max(seconds, 1e-9), 1)
    summary = {"gallery": gallery, **counts}
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


def _send(client: Client, source: Source) -> dict[str, Any]:
    crops = source.crops
    with progress_bar() as bar:
        task = bar.add_task("Enrolling", total=len(crops))
        sent = enroll_crops(client, crops, lambda done: bar.update(task, completed=done))
    problems = [
        {"name": crop.name, "problem": one.problem.detail or one.problem.title}
        for crop, one in sent
        if one.problem is not None
    ]
    duplicates = [crop.name for crop, one in sent if one.duplicate]
    return {
        "sent": len(crops),
        "enrolled": len(crops) - len(problems) - len(duplicates),
        "duplicates": len(duplicates),
        "duplicate_names": duplicates,
        "problems": problems,
        "ignored": [{"name": one.name, "reason": one.reason} for one in source.ignored],
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
    for one in (ignored := summary["ignored"])[:IGNORED_SHOWN]:
        console.print(f"ignored: {escape(one['name'])}: {escape(one['reason'])}")
    if len(ignored) > IGNORED_SHOWN:
        console.print(f"and {len(ignored) - IGNORED_SHOWN:,} more ignored; --json names them")
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
        identity, camera: of every image, where nothing in the archive names them.
        names: for messages, by the names in the archive.
        left_out: what is not in it: crops that cannot be read, and what was ignored.
    """

    file: Path
    camera: str | None = None
    identity: str | None = None
    names: dict[str, str] = field(default_factory=dict)
    left_out: list[Problem] = field(default_factory=list)


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
def pack(source: Source) -> Iterator[Packed]:
    """Packs a source into a temporary tar file, with a manifest of its labels."""
    manifest = io.StringIO()
    lines = csv.writer(manifest)
    lines.writerow(COLUMNS)
    with tempfile.NamedTemporaryFile(prefix="gmn-", suffix=".tar") as file, progress_bar() as bar:
        packed = Packed(Path(file.name))
        packed.left_out.extend(("", one.name, IGNORED, one.reason) for one in source.ignored)
        with tarfile.open(fileobj=file, mode="w") as tar:
            for number, crop in enumerate(bar.track(source.crops, description="Packing")):
                data, name = read_crop(crop), f"{number:08d}.png"
                if isinstance(data, str):
                    packed.left_out.append(("", crop.name, "unreadable", data))
                    continue
                _add(tar, name, data)
                packed.names[name] = crop.name
                moment = crop.captured_at.isoformat() if crop.captured_at else ""
                labels = (crop.identity, crop.camera, moment, crop.external_id, crop.metadata)
                lines.writerow((name, *labels))
            if packed.names:
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
    problems = archive.left_out + [
        (str(one.position), archive.names.get(one.source, one.source), one.code, one.detail)
        for one in (client.job_problems(job.job_id) if job.problems else ())
    ]
    if report is not None:
        write_report(report, problems)
    refused = [(name, why) for _, name, code, why in problems if code != IGNORED]
    ignored = [(name, why) for _, name, code, why in problems if code == IGNORED]
    return {
        "job_id": job.job_id,
        "state": job.state,
        "detail": job.detail,
        "sent": job.progress.total + sum(code == "unreadable" for *_, code, _ in archive.left_out),
        "enrolled": job.progress.landed,
        "duplicates": job.progress.duplicates,
        "problems": [{"name": name, "problem": why} for name, why in refused],
        "ignored": [{"name": name, "reason": why} for name, why in ignored],
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
