"""`gmn enroll`: sends an image, folder, archive, manifest or data set to a gallery."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text
from typer import BadParameter, Context

from gmn_client import Client, InvalidInput, RequestRefused
from gmn_client.commands.bulk import Sent, Source, enroll_crops
from gmn_client.commands.common import Shown, follow, progress_bar, shortened, with_client
from gmn_client.models import Job
from gmn_client.uploads import ImportOptions, LabelledBox

PROBLEMS_SHOWN = 20
DUPLICATES_SHOWN = IGNORED_SHOWN = 10


@with_client
def enroll(
    client: Client,
    context: Context,
    source: str,
    identity: str | None = None,
    camera: str | None = None,
    split: str | None = None,
    create: bool = False,
    keep_best: int | None = None,
    accept_undeleted: bool = False,
    boxes: Sequence[LabelledBox] = (),
) -> Shown:
    """Sends images to a gallery of the service.

    A manifest or data set names people and cameras. In a folder or archive without a manifest and
    without an image directly in it, sub-folders name people. Otherwise --identity and --camera name
    them. An image that is refused is named, and the others are enrolled; the exit status is 1
    then. Ignored files are named. Sending the same images again enrolls nothing twice.

    An archive is sent as it is, with the manifest in it, and the service enrolls it by itself, even
    if it restarts. So are exports of a gallery, and features, which name people and cameras. Of
    features, which are of the artefact that fills the gallery, no picture is kept.

    Example: gmn enroll photo.jpg --identity Ann --camera entrance

    Example: gmn enroll photo.jpg --box 0,0,32,64 --camera entrance

    Example: gmn enroll export.zip --gallery copy --create

    Example: gmn enroll cuhk01:/data/cuhk01 --camera A --url http://127.0.0.1:8000

    Args:
        source: an image, a folder of images or of one sub-folder per person, an archive, a CSV
            manifest or a folder with a manifest.csv, KIND:PATH, or features: a .npz file or a
            folder of gmn embed.
        identity: whom all images show; for images, folders and zips.
        camera: enroll this camera's images only; where the source names no camera, the one that
            took them all.
        split: one split only: train, query, gallery.
        create: create a missing gallery.
        keep_best: number of crops that each track keeps, 1 to 32: good pictures that differ.
        accept_undeleted: import an export that is older than the deletions that the service knows.
        boxes: the box of one person in the image, a frame; repeatable.
    """
    files: Source = context.obj.find_upload(source, split, camera, identity)
    if boxes and (keep_best or not files.is_image):
        raise BadParameter("--box goes with one image, and not with --keep-best")
    summary: dict[str, Any] = {
        "gallery": client.gallery_name,
        "problems": [],
        "ignored": [dict(file) for file in files.ignored],
    }
    with _require_gallery(client, create):
        if files.archives:
            options: ImportOptions = {
                "identity": identity,
                "camera": camera,
                "keep_best": keep_best,
            }
            if accept_undeleted:
                options["accept_undeleted"] = True
            _import(client, files.archives, summary, options)
        elif boxes:
            sent = client.enroll_frame(
                Path(source), boxes, identity=identity, camera=camera
            ).results
            _count_outcomes(
                [(f"box {number}", answer) for number, answer in enumerate(sent, 1)], summary
            )
        else:
            answers = enroll_crops(client, files.crops, keep_best)
            _count_outcomes([(crop.name, answer) for crop, answer in answers], summary)
    ok = not summary["problems"] and summary.get("state", "done") == "done"
    return Shown(summary, _format_summary(summary), ok)


@contextmanager
def _require_gallery(client: Client, create: bool) -> Iterator[None]:
    """Create the gallery if asked to; raises `InvalidInput` with the remedy if it is missing."""
    try:
        names = [gallery.name for gallery in client.galleries()] if create else []
        if create and client.gallery_name not in names:
            client.create_gallery(client.gallery_name)
        yield
    except RequestRefused as refusal:
        if refusal.problem.code != "unknown_gallery":
            raise
        name = client.gallery_name
        # A space at an end and a character that is not printed could not be seen without quotes.
        shown = name if name.isprintable() and name == name.strip() else repr(name)
        raise InvalidInput(
            f"--gallery {shown}: there is no such gallery; add --create to create it"
        ) from refusal


def _count_outcomes(outcomes: Sequence[tuple[str, Sent]], summary: dict[str, Any]) -> None:
    problems = summary["problems"]
    for name, outcome in outcomes:
        refused = outcome.problem
        if refused:
            detail = refused.detail or refused.title
            problems.append({"name": name, "code": refused.code, "problem": detail})
    duplicates = [name for name, outcome in outcomes if outcome.duplicate]
    not_kept = sum(not (outcome.kept or outcome.problem) for _, outcome in outcomes)
    enrolled = len(outcomes) - len(problems) - len(duplicates) - not_kept
    summary |= {
        "sent": len(outcomes),
        "enrolled": enrolled,
        "duplicates": len(duplicates),
        "not_kept": not_kept,
        "duplicate_names": duplicates,
    }


def _import(
    client: Client, archives: Sequence[Path], summary: dict[str, Any], options: ImportOptions
) -> None:
    """Import archives and add their outcomes to the summary.

    The next archive is sent while the service processes the previous one, and none after a failed
    one, which the summary names.

    Args:
        options: options of every archive.
    """
    counts = Counter(sent=0, enrolled=0, duplicates=0, not_kept=0, deleted=0)
    running = deque[Job]()
    finished: list[Job] = []
    failed: Job | None = None
    for number in range(len(archives) + 1):
        if number < len(archives) and not failed:
            with progress_bar() as bar:
                bar.add_task(f"Sending {number + 1} of {len(archives)}", total=None)
                running.append(client.import_archive(archives[number], **options))
        if number > 0 and running:
            job = follow(client, running.popleft(), f"Enrolling {number} of {len(archives)}")
            for problem in client.job_problems(job.job_id) if job.problems else ():
                name = problem.source
                if problem.code == "ignored":
                    summary["ignored"].append({"name": name, "reason": problem.detail})
                else:
                    reason = {"name": name, "code": problem.code, "problem": problem.detail}
                    summary["problems"].append(reason)
            progress = job.progress
            counts.update(
                sent=progress.total,
                enrolled=progress.landed,
                duplicates=progress.duplicates,
                not_kept=progress.not_kept,
                deleted=progress.deleted,
            )
            if job.state != "done":
                failed = failed or job
            finished.append(job)
    job = failed or finished[-1]
    summary |= {"job_id": job.job_id, "state": job.state, "detail": job.detail, **counts}


def _format_summary(summary: dict[str, Any]) -> Group:
    problems = [
        Text.assemble((image["name"], "red"), f": {image['problem']}")
        for image in summary["problems"]
    ]
    ignored = [f"ignored: {file['name']}: {file['reason']}" for file in summary["ignored"]]
    lines: list[RenderableType] = [
        Text.assemble(
            (f"{summary['enrolled']:,}", "bold"),
            f" enrolled in gallery {summary['gallery']}, {summary['duplicates']:,} there already, "
            f"{len(problems):,} refused",
        )
    ]
    if summary.get("state", "done") != "done":
        detail = summary["detail"] or "see the service's log"
        lines.append(
            Text.assemble(f"job {summary['job_id']} ", (summary["state"], "red"), f": {detail}")
        )
    lines += shortened(ignored, IGNORED_SHOWN)
    # A job reports only the number of duplicates.
    if summary["not_kept"]:
        lines.append(f"{summary['not_kept']:,} not kept: their tracks have better crops")
    if summary.get("deleted"):
        lines.append(f"{summary['deleted']:,} left out: they were deleted from the service before")
    names = summary.get("duplicate_names")
    if names:
        lines.append(f"there already: {', '.join(shortened(names, DUPLICATES_SHOWN))}")
    return Group(*lines, *shortened(problems, PROBLEMS_SHOWN))
