"""`gmn enroll`: an image, folder, archive, manifest or data set into a gallery, over HTTP."""

from __future__ import annotations

import csv
import io
import tarfile
import tempfile
import time
import zipfile
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Unpack

import httpx
from rich.markup import escape
from typer import Argument, Context, Exit, Option

from gmn_client import Client, RequestRefused
from gmn_client.gallery_calls import ImportOptions
from gmn_client.models import Job
from model.crops.manifest import MANIFEST
from model.crops.names import is_image_name
from model.problems import InputProblem
from model.shards import holds_shards, shards_in
from service.commands.bulk import Source, SourceCrop, enroll_crops, find_source, read_crop
from service.commands.common import JsonOption, follow, output, progress_bar, show, with_client

PROBLEMS_SHOWN = 20
DUPLICATES_SHOWN = IGNORED_SHOWN = 10
SOURCE_HELP = (
    "An image, a folder of images or of one sub-folder per person, an archive, a CSV manifest or a "
    "folder with a manifest.csv, KIND:PATH, or features: a .npz file or folder of gmn embed, or "
    ".parquet files of gmn gallery export."
)
IDENTITY_HELP = "Whom all images show; for images, folders and zips."
CAMERA_HELP = (
    "Enroll this camera's images only; for images, a folder or zip, the camera that took them."
)
COLUMNS = ("path", "identity", "camera", "captured_at", "external_id", "metadata")
IGNORED = "ignored"
Problem = tuple[str, str, str]
"""The name of a crop or file, and code and detail of what is wrong with it."""


@with_client
def enroll(
    client: Client,
    context: Context,
    source: Annotated[str, Argument(help=SOURCE_HELP)],
    identity: Annotated[str | None, Option(help=IDENTITY_HELP)] = None,
    camera: Annotated[str | None, Option(help=CAMERA_HELP)] = None,
    split: Annotated[str | None, Option(help="One split only: train, query, gallery.")] = None,
    job: Annotated[bool, Option("--job", help="Send an import, which survives a restart.")] = False,
    create: Annotated[bool, Option("--create", help="Create a missing gallery.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Sends images to a gallery of the service.

    A manifest or data set names people and cameras. In a folder or archive without a manifest and
    without an image directly in it, sub-folders name people. Otherwise --identity and --camera name
    them. An image that is refused is named, and the others are enrolled; the exit status is 1
    then. What is ignored is named. Sending the same images again enrolls nothing twice.

    With --job the service does it by itself once all is sent: images are packed into an archive
    first. An archive is always sent so, as it is, with the manifest in it. So are features, which
    name people and cameras and are of the artefact that fills the gallery; no picture is kept.

    Example: gmn enroll photo.jpg --identity Ann --camera entrance

    Example: gmn enroll cuhk01:/data/cuhk01 --camera A --url http://127.0.0.1:8000
    """
    path, started = Path(source), time.perf_counter()
    archives = _archives(path)
    if archives:
        _require_archive(archives[0], split)
        found = Source((), labelled=False)
    else:
        found = find_source(source, context.obj.read_spec).chosen(split, camera, identity)
    problems = [(one.name, IGNORED, one.reason) for one in found.ignored]
    with _gallery(client, create):
        if archives:
            counts = _import(client, archives, {}, problems, identity=identity, camera=camera)
        elif job:
            with pack(found.crops, problems) as (packed, names):
                counts = _import(client, [packed], names, problems)
            counts["sent"] += len(found.crops) - len(names)
        else:
            counts = _send(client, found.crops, problems)
    seconds = time.perf_counter() - started
    summary = {"gallery": client.gallery_name, **counts}
    summary["problems"] = refused = [
        {"name": name, "code": code, "problem": why}
        for name, code, why in problems
        if code != IGNORED
    ]
    ignored = [(name, why) for name, code, why in problems if code == IGNORED]
    summary["ignored"] = [{"name": name, "reason": why} for name, why in ignored]
    summary["seconds"] = round(seconds, 3)
    summary["crops_per_second"] = round(counts["sent"] / max(seconds, 1e-9), 1)
    show(summary, as_json, lambda: _show(summary))
    if refused or counts.get("state", "done") != "done":
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


def _send(client: Client, crops: Sequence[SourceCrop], problems: list[Problem]) -> dict[str, Any]:
    """Enrolls crops, adds to the problems, and returns the counts."""
    sent = enroll_crops(client, crops)
    refused = [(crop.name, one.problem) for crop, one in sent if one.problem is not None]
    problems += [(name, one.code, one.detail or one.title) for name, one in refused]
    duplicates = [crop.name for crop, one in sent if one.duplicate]
    return {
        "sent": len(crops),
        "enrolled": len(crops) - len(refused) - len(duplicates),
        "duplicates": len(duplicates),
        "duplicate_names": duplicates,
    }


def _import(
    client: Client,
    archives: Sequence[Path],
    names: Mapping[str, str],
    problems: list[Problem],
    **labels: Unpack[ImportOptions],
) -> dict[str, Any]:
    """As `_send`, of archives, each an import; `names` are by the names in the archive.

    The next is sent while the service works on one. They end with the first that is not done.
    """
    counts, running = Counter(sent=0, enrolled=0, duplicates=0), deque[Job]()
    for number in range(len(archives) + 1):
        if number < len(archives):
            with progress_bar() as progress:
                progress.add_task(f"Sending {number + 1} of {len(archives)}", total=None)
                running.append(client.import_archive(archives[number], **labels))
        if number > 0:
            job = follow(client, running.popleft(), f"Enrolling {number} of {len(archives)}")
            problems += [
                (names.get(one.source, one.source), one.code, one.detail)
                for one in (client.job_problems(job.job_id) if job.problems else ())
            ]
            done = job.progress
            counts.update(sent=done.total, enrolled=done.landed, duplicates=done.duplicates)
            if job.state != "done":
                break
    return {"job_id": job.job_id, "state": job.state, "detail": job.detail, **counts}


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


def _archives(path: Path) -> list[Path]:
    """The files that are imported as they are: an archive, or the shards of a folder."""
    if holds_shards(path):
        return shards_in(path)
    if path.is_dir() and (exported := sorted(path.glob("*.parquet"))):
        return exported
    read_here = path.suffix.lower() == ".csv" or is_image_name(path.name)
    return [path] if path.is_file() and not read_here else []


def _require_archive(path: Path, split: str | None) -> None:
    if split is not None:
        raise InputProblem(f"--split {split}: an archive names none; send its manifest")
    try:
        archive = zipfile.is_zipfile(path) or tarfile.is_tarfile(path) or path.suffix == ".parquet"
    except OSError as error:
        raise InputProblem(f"{path}: cannot be read ({error.strerror})") from error
    if not archive:
        raise InputProblem(
            f"{path}: neither a CSV manifest nor a zip or tar archive; pack the images into one, "
            "or name their folder"
        )


@contextmanager
def pack(
    crops: Sequence[SourceCrop], problems: list[Problem]
) -> Iterator[tuple[Path, dict[str, str]]]:
    """Packs crops into a temporary tar file, with a manifest of their labels.

    Yields the file and the crops' names by their names in it; those that cannot be read are added
    to the problems.
    """
    manifest, names = io.StringIO(), dict[str, str]()
    lines = csv.writer(manifest)
    lines.writerow(COLUMNS)
    with tempfile.NamedTemporaryFile(prefix="gmn-", suffix=".tar") as file, progress_bar() as bar:
        # No zip, of which the service takes a shorter list of files.
        with tarfile.open(fileobj=file, mode="w") as packed:
            for number, crop in enumerate(bar.track(crops, description="Packing")):
                data, name = read_crop(crop), f"{number:08d}.png"
                if isinstance(data, str):
                    problems.append((crop.name, "unreadable", data))
                    continue
                _add(packed, name, data)
                names[name] = crop.name
                moment = crop.captured_at.isoformat() if crop.captured_at else ""
                labels = (crop.identity, crop.camera, moment, crop.external_id, crop.metadata)
                lines.writerow((name, *labels))
            if names:
                _add(packed, MANIFEST, manifest.getvalue().encode())
        file.flush()
        yield Path(file.name), names


def _add(packed: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    packed.addfile(entry, io.BytesIO(content))
