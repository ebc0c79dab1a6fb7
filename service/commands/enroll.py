"""`gmn enroll`: an image, folder, archive, manifest or data set into a gallery, over HTTP."""

from __future__ import annotations

import csv
import io
import tarfile
import tempfile
import time
import zipfile
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Unpack

from rich.console import Group
from rich.markup import escape
from typer import Argument, BadParameter, Context, Option

from gmn_client import Client, RequestRefused
from gmn_client.models import Job
from gmn_client.uploads import ImportOptions
from model.crops.manifest import COLUMNS, MANIFEST
from model.crops.names import is_image_name
from model.problems import InputProblem
from model.shards import holds_shards, shards_in
from service.commands.bulk import (
    FrameOptions,
    Sent,
    Source,
    SourceCrop,
    enroll_crops,
    find_source,
    read_crop,
)
from service.commands.common import Shown, follow, progress_bar, shortened, with_client

PROBLEMS_SHOWN = 20
DUPLICATES_SHOWN = IGNORED_SHOWN = 10
SOURCE_HELP = (
    "An image, a folder of images or of one sub-folder per person, an archive, a CSV manifest or a "
    "folder with a manifest.csv, KIND:PATH, or features: a .npz file or a folder of gmn embed."
)
IDENTITY_HELP = "Whom all images show; for images, folders and zips."
CAMERA_HELP = (
    "Enroll this camera's images only; for images, a folder or zip, the camera that took them."
)
Problem = dict[str, str]
"""The `name` of a crop or file, and `code` and `problem` of what is wrong with it."""


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
    **frame: Unpack[FrameOptions],
) -> Shown:
    """Sends images to a gallery of the service.

    A manifest or data set names people and cameras. In a folder or archive without a manifest and
    without an image directly in it, sub-folders name people. Otherwise --identity and --camera name
    them. An image that is refused is named, and the others are enrolled; the exit status is 1
    then. What is ignored is named. Sending the same images again enrolls nothing twice.

    With --job the service does it by itself once all is sent: images are packed into an archive
    first. An archive is always sent so, as it is, with the manifest in it. So are features, which
    name people and cameras and are of the artefact that fills the gallery; no picture is kept.

    Example: gmn enroll photo.jpg --identity Ann --camera entrance

    Example: gmn enroll photo.jpg --box 0,0,32,64 --camera entrance

    Example: gmn enroll cuhk01:/data/cuhk01 --camera A --url http://127.0.0.1:8000
    """
    path = Path(source)
    started = time.perf_counter()
    archives = _archives(path, split)
    found = Source((), labelled=False)
    if not archives:
        found = find_source(source, context.obj.read_spec).chosen(split, camera, identity)
    boxes = frame.get("boxes")
    if boxes and (job or not is_image_name(path.name)):
        raise BadParameter("--box goes with one image, and not with --job")
    summary: dict[str, Any] = {"gallery": client.gallery_name, "problems": []}
    summary["ignored"] = [vars(one) for one in found.ignored]
    with _gallery(client, create):
        if archives:
            _import(client, archives, {}, summary, identity=identity, camera=camera)
        elif job:
            with pack(found.crops, summary["problems"]) as (packed, names):
                _import(client, [packed], names, summary)
            summary["sent"] += len(found.crops) - len(names)
        elif boxes:
            sent = client.enroll_frame(path, boxes, identity=identity, camera=camera).results
            _count(((f"box {number}", one) for number, one in enumerate(sent, 1)), summary)
        else:
            _count(((crop.name, one) for crop, one in enroll_crops(client, found.crops)), summary)
    seconds = time.perf_counter() - started
    summary["seconds"] = round(seconds, 3)
    summary["crops_per_second"] = round(summary["sent"] / max(seconds, 1e-9), 1)
    ok = not summary["problems"] and summary.get("state", "done") == "done"
    return Shown(summary, _view(summary), ok)


@contextmanager
def _gallery(client: Client, create: bool) -> Iterator[None]:
    """Creates the gallery if it is to be; a missing one is an `InputProblem` with the remedy."""
    try:
        if create and client.gallery_name not in [one.name for one in client.galleries()]:
            client.create_gallery(client.gallery_name)
        yield
    except RequestRefused as refusal:
        if refusal.problem.code != "unknown_gallery":
            raise
        raise InputProblem(
            f"--gallery {client.gallery_name}: there is no such gallery; add --create to create it"
        ) from refusal


def _count(sent: Iterable[tuple[str, Sent]], summary: dict[str, Any]) -> None:
    """Adds the outcomes of images, by their names, to the summary of an enrollment."""
    outcomes = list(sent)
    problems = summary["problems"]
    for name, one in outcomes:
        if refused := one.problem:
            detail = refused.detail or refused.title
            problems.append({"name": name, "code": refused.code, "problem": detail})
    duplicates = [name for name, one in outcomes if one.duplicate]
    enrolled = len(outcomes) - len(problems) - len(duplicates)
    summary |= {"sent": len(outcomes), "enrolled": enrolled, "duplicates": len(duplicates)}
    summary["duplicate_names"] = duplicates


def _import(
    client: Client,
    archives: Sequence[Path],
    names: Mapping[str, str],
    summary: dict[str, Any],
    **labels: Unpack[ImportOptions],
) -> None:
    """As `_count`, of archives, each an import; `names` are by the names in the archive.

    The next is sent while the service works on one. They end with the first that is not done.
    """
    counts = Counter(sent=0, enrolled=0, duplicates=0)
    running = deque[Job]()
    for number in range(len(archives) + 1):
        if number < len(archives):
            with progress_bar() as progress:
                progress.add_task(f"Sending {number + 1} of {len(archives)}", total=None)
                running.append(client.import_archive(archives[number], **labels))
        if number > 0:
            job = follow(client, running.popleft(), f"Enrolling {number} of {len(archives)}")
            for one in client.job_problems(job.job_id) if job.problems else ():
                name = names.get(one.source, one.source)
                if one.code == "ignored":
                    summary["ignored"].append({"name": name, "reason": one.detail})
                else:
                    problem = {"name": name, "code": one.code, "problem": one.detail}
                    summary["problems"].append(problem)
            done = job.progress
            counts.update(sent=done.total, enrolled=done.landed, duplicates=done.duplicates)
            if job.state != "done":
                break
    summary |= {"job_id": job.job_id, "state": job.state, "detail": job.detail, **counts}


def _view(summary: dict[str, Any]) -> Group:
    problems, ignored = (
        [f"{escape(one['name'])}{end}: {escape(one[why])}" for one in summary[part]]
        for part, why, end in (("problems", "problem", "[/]"), ("ignored", "reason", ""))
    )
    lines = [
        f"[bold]{summary['enrolled']:,}[/] enrolled in gallery {escape(summary['gallery'])}, "
        f"{summary['duplicates']:,} there already, {len(problems):,} refused; "
        f"{summary['seconds']:.1f} s, {summary['crops_per_second']:,.0f} crops/s"
    ]
    if summary.get("state", "done") != "done":
        detail = summary["detail"] or "see the service's log"
        lines.append(f"job {summary['job_id']} [red]{summary['state']}[/]: {escape(detail)}")
    lines += shortened([f"ignored: {one}" for one in ignored], IGNORED_SHOWN)
    # A job reports their number alone.
    if names := summary.get("duplicate_names"):
        lines.append(f"there already: {escape(', '.join(shortened(names, DUPLICATES_SHOWN)))}")
    return Group(*lines, *shortened([f"[red]{one}" for one in problems], PROBLEMS_SHOWN))


def _archives(path: Path, split: str | None) -> list[Path]:
    """The files that are imported as they are: an archive, or those of features in a folder.

    Raises:
        InputProblem: for another file that is none to be read here, or with a split.
    """
    if holds_shards(path):
        found = shards_in(path)
    else:
        read_here = path.suffix.lower() == ".csv" or is_image_name(path.name)
        found = [path] if path.is_file() and not read_here else []
    if found and split is not None:
        raise InputProblem(f"--split {split}: an archive names none; send its manifest")
    for one in found[:1]:
        try:
            known = zipfile.is_zipfile(one) or tarfile.is_tarfile(one)
        except OSError as error:
            raise InputProblem(f"{one}: cannot be read ({error.strerror})") from error
        if not known:
            raise InputProblem(
                f"{one}: neither a CSV manifest nor a zip or tar archive; pack the images into "
                "one, or name their folder"
            )
    return found


@contextmanager
def pack(
    crops: Sequence[SourceCrop], problems: list[Problem]
) -> Iterator[tuple[Path, dict[str, str]]]:
    """Packs crops into a temporary tar file, with a manifest of their labels.

    Yields the file and the crops' names by their names in it; those that cannot be read are added
    to the problems.
    """
    manifest = io.StringIO()
    names = dict[str, str]()
    lines = csv.DictWriter(manifest, COLUMNS, extrasaction="ignore")
    lines.writeheader()
    with tempfile.NamedTemporaryFile(prefix="gmn-", suffix=".tar") as file, progress_bar() as bar:
        # No zip, of which the service takes a shorter list of files.
        with tarfile.open(fileobj=file, mode="w") as packed:
            for number, crop in enumerate(bar.track(crops, description="Packing")):
                data = read_crop(crop)
                name = f"{number:08d}.png"
                if isinstance(data, str):
                    problems.append({"name": crop.name, "code": "unreadable", "problem": data})
                    continue
                _add(packed, name, data)
                names[name] = crop.name
                moment = crop.captured_at and crop.captured_at.isoformat()
                lines.writerow({**vars(crop), "path": name, "captured_at": moment})
            if names:
                _add(packed, MANIFEST, manifest.getvalue().encode())
        file.flush()
        yield Path(file.name), names


def _add(packed: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    packed.addfile(entry, io.BytesIO(content))
