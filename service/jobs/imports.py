"""Imports: enroll the images of an archive or a mounted folder, batch by batch, as a job.

Each batch is enrolled under a request name of its own, so that a resumed import enrolls no image
twice.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
from collections import Counter, deque
from collections.abc import (
    AsyncGenerator,
    Callable,
    Coroutine,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from gmn_client.models import EnrolledImage, JobProblem, RefusedImage
from model.crops.manifest import read_manifest
from model.crops.names import image_names, shown
from model.crops.unpack import DiskFull, UnpackLimits, unpack_crops
from service.errors import InvalidField, RecordUnavailable, StorageFailed, problem
from service.gallery.enroll import ImageToEnroll, enroll
from service.gallery.gallery import Gallery
from service.gallery.naming import checked_camera, checked_text
from service.jobs.runner import (
    RETRYABLE,
    Cancelled,
    Progress,
    create_job,
    new_job_id,
    wait_while_busy,
)
from service.ops.disk_room import full_disk_told
from service.ops.durable import make_folder, sync, sync_below
from service.ops.failpoints import failpoint
from service.ops.health import heartbeat
from service.record.jobs import Job
from service.runtime import Runtime

FOLDER = "imports"
CROPS_PER_BATCH = 32
# One batch is decoded while another is embedded and a third is stored.
CONCURRENT_BATCHES = 3
MANIFEST = "manifest.csv"
Labels = Mapping[str, str | None]
"""`identity` and `camera` of every image where there is no `manifest`, a CSV file's path within the
import that labels each; that is `manifest.csv` if it exists."""
COUNTS = ("total", "done", "landed", "duplicates", "refused")
Batch = tuple[dict[str, int], list[JobProblem]]
"""The numbers that a batch adds to the progress, and its problems."""
Result = TypeVar("Result")


@dataclass(frozen=True)
class _Item:
    """One image: its path below the import's folder, and its labels."""

    name: str
    identity: str | None
    camera: str | None
    captured_at: datetime | None = None


async def import_archive(
    runtime: Runtime, gallery: Gallery, archive: BinaryIO, labels: Labels
) -> Job:
    """Stores an uploaded archive and creates the job that enrolls its images.

    Raises:
        UnknownGallery, NeedsReindex: the gallery takes no images.
        StorageFailed: the disk did not take the archive.
    """
    gallery.require_matching_embedder()
    runtime.room.require()
    job_id = new_job_id()
    spool = _spool(runtime, job_id)

    def store() -> None:
        try:
            make_folder(spool)
            with (spool / "archive").open("wb") as file:
                shutil.copyfileobj(archive, file, 1024 * 1024)
            # An acknowledged archive is not sent again, so it must survive a power cut.
            sync_below(spool)
        except OSError as error:
            raise StorageFailed(
                f"the archive could not be kept ({error.strerror}); nothing was enrolled, free "
                "space in the data directory and send it again"
            ) from error

    async def create() -> Job:
        try:
            return await create_job(runtime, gallery, "import", labels, job_id)
        except RecordUnavailable:
            # The record may have the job; otherwise the next start removes the files.
            raise
        except Exception:
            await _remove_files(runtime, job_id)
            raise

    try:
        await runtime.sections.run(lambda: asyncio.to_thread(store))
    except BaseException:
        await runtime.sections.run(partial(_remove_files, runtime, job_id))
        raise
    failpoint("import.archive-kept")
    return await runtime.sections.run(create)


async def import_folder(runtime: Runtime, gallery: Gallery, folder: str, labels: Labels) -> Job:
    """Creates the job that enrolls the images of a folder below the import directory.

    Raises:
        InvalidField: for a folder that does not exist, or not below the import directory.
        UnknownGallery, NeedsReindex: the gallery takes no images.
    """
    gallery.require_matching_embedder()
    await asyncio.to_thread(_mounted, runtime, folder)
    parameters = {**labels, "folder": folder}
    return await create_job(runtime, gallery, "import", parameters, new_job_id())


async def run_import(runtime: Runtime, gallery: Gallery, job: Job, progress: Progress) -> None:
    """Enrolls the images of an import that are not enrolled yet, and removes its files.

    Raises:
        InputProblem: for an archive or manifest that cannot be used.
        Cancelled: a client cancelled the import.
    """
    try:
        await _enroll_items(runtime, gallery, job, progress)
    finally:
        # The process that resumes an import needs its files.
        if not isinstance(sys.exception(), RETRYABLE):
            await runtime.sections.run(partial(_remove_files, runtime, job.job_id))
            failpoint("import.files-removed")


async def _enroll_items(runtime: Runtime, gallery: Gallery, job: Job, progress: Progress) -> None:
    counts = Counter({**dict.fromkeys(COUNTS, 0), **job.progress})
    if counts["done"] == counts["total"] > 0:
        # The process ended after it removed the files and before it saved the job's end.
        return
    with full_disk_told():
        folder, left_out = await runtime.sections.run(
            lambda: asyncio.to_thread(_unpacked, runtime, job)
        )
    items = await asyncio.to_thread(_items, folder, job)
    if not items and not left_out:
        raise InvalidField("archive: holds no image; its files must end in .jpg, .png, .webp, .bmp")
    counts["total"] = len(items) + len(left_out)
    if counts["done"] == 0:
        counts["refused"] = counts["done"] = len(left_out)
        await progress.save(counts, left_out)
    size = min(CROPS_PER_BATCH, runtime.settings.max_images_per_request)
    cancelled = False

    def batches() -> Iterator[Callable[[], Coroutine[Any, Any, Batch]]]:
        for start in range(counts["done"] - len(left_out), len(items), size):
            if cancelled:
                return
            batch, first = items[start : start + size], len(left_out) + start
            yield partial(_enroll_batch, runtime, gallery, job, folder, batch, first)

    async with aclosing(ordered_concurrent_map(batches(), CONCURRENT_BATCHES)) as finished:
        async for batch, problems in finished:
            counts.update(batch)
            try:
                await progress.save(counts, problems)
                failpoint("import.progress-noted")
            except Cancelled:
                # Batches under way are still enrolled and counted.
                cancelled = True
    if cancelled:
        raise Cancelled


async def ordered_concurrent_map(
    calls: Iterable[Callable[[], Coroutine[Any, Any, Result]]], limit: int
) -> AsyncGenerator[Result, None]:
    """Yields the result of each call, in order, while at most `limit` calls run.

    The first error is raised in its turn; then, and where the generator is closed early, the calls
    under way are cancelled.
    """
    running: deque[asyncio.Task[Result]] = deque()
    try:
        for call in calls:
            running.append(asyncio.create_task(call()))
            if len(running) == limit:
                yield await running.popleft()
        while running:
            yield await running.popleft()
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def _enroll_batch(
    runtime: Runtime, gallery: Gallery, job: Job, folder: Path, batch: Sequence[_Item], first: int
) -> Batch:
    contents = await asyncio.to_thread(_read, folder, batch, runtime.settings.max_image_bytes)
    failpoint("import.files-read")
    outcomes: dict[int, bytes | EnrolledImage | RefusedImage] = dict(enumerate(contents, first))
    images = {
        position: ImageToEnroll(content, item.identity, item.camera, item.captured_at)
        for (position, content), item in zip(outcomes.items(), batch, strict=True)
        if isinstance(content, bytes)
    }
    if images:
        # Under this name the batch is enrolled once, also if the process dies before it is saved.
        name, send = f"import:{job.job_id}:{first}", list(images.values())
        answer = await wait_while_busy(partial(enroll, runtime, gallery, send, name))
        failpoint("import.batch-landed")
        outcomes |= zip(images, answer.results, strict=True)
    problems = [
        JobProblem(
            position=position,
            source=shown(item.name),
            code=outcome.problem.code,
            detail=outcome.problem.detail,
        )
        for (position, outcome), item in zip(outcomes.items(), batch, strict=True)
        if isinstance(outcome, RefusedImage)
    ]
    duplicates = sum(isinstance(one, EnrolledImage) and one.duplicate for one in outcomes.values())
    landed = len(batch) - len(problems) - duplicates
    added = {"landed": landed, "duplicates": duplicates, "refused": len(problems)}
    return {"done": len(batch), **added}, problems


def _unpacked(runtime: Runtime, job: Job) -> tuple[Path, list[JobProblem]]:
    """The folder with a job's images, resolved, and what of its archive was not unpacked."""
    mounted = job.parameters.get("folder")
    if mounted is not None:
        return _mounted(runtime, str(mounted)), []
    spool = _spool(runtime, job.job_id)
    files, left_out = spool / "files", spool / "left_out.json"
    if not files.is_dir():
        # A process that has removed the archive has renamed its files before.
        if not (spool / "archive").is_file() and not files.is_dir():
            raise InvalidField(
                "archive: could not be used, and its files were removed before the service ended "
                "amid saying why; send it again"
            )
        _unpack(runtime, spool, files, left_out)
    problems = [
        JobProblem(position=position, source=one["name"], code="not_unpacked", detail=one["reason"])
        for position, one in enumerate(json.loads(left_out.read_text()))
    ]
    return files.resolve(), problems


def _unpack(runtime: Runtime, spool: Path, files: Path, left_out: Path) -> None:
    # A process that lost its lease may still be unpacking: each has a folder of its own.
    part = spool / f"part-{runtime.worker}"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    settings = runtime.settings
    limits = UnpackLimits(settings.max_import_bytes, settings.max_image_bytes)
    try:
        refused = unpack_crops(spool / "archive", part, limits, heartbeat)
    except DiskFull as full:
        raise StorageFailed(str(full)) from full
    aside = part.with_suffix(".json")
    aside.write_text(json.dumps([vars(one) for one in refused]))
    sync(aside)
    aside.replace(left_out)
    # Under its final name the folder must be complete, also after a power cut.
    sync_below(part)
    failpoint("import.unpacked")
    try:
        part.rename(files)
    except OSError:
        if not files.is_dir():
            raise
        shutil.rmtree(part, ignore_errors=True)
    sync(spool)
    (spool / "archive").unlink(missing_ok=True)


def _items(folder: Path, job: Job) -> list[_Item]:
    """The images to enroll, in the same order every time."""
    parameters = job.parameters
    manifest = _manifest(folder, parameters.get("manifest"))
    if manifest is None:
        identity, camera = parameters.get("identity"), parameters.get("camera")
        return [_Item(name, identity, camera) for name in sorted(image_names(folder))]
    items = []
    for row in read_manifest(manifest, folder):
        name = str(row.path.relative_to(folder))
        field = f"manifest: {shown(name)}"
        identity = checked_text(f"{field}: identity", row.identity)
        camera = checked_camera(f"{field}: camera", row.camera)
        items.append(_Item(name, identity, camera, row.captured_at))
    return items


def _manifest(folder: Path, name: str | None) -> Path | None:
    """The manifest of an import; None where it has none.

    Raises:
        InvalidField: for one outside the import, whose content an error message would reveal.
    """
    manifest = _resolved(folder, name or MANIFEST)
    if manifest is not None and not manifest.is_relative_to(folder):
        raise InvalidField("manifest: lies outside the import; put it among the images")
    if manifest is not None and manifest.is_file():
        return manifest
    if name:
        raise InvalidField(f"manifest: there is no file {shown(name)!r} in the import; name one")
    return None


def _read(folder: Path, batch: Sequence[_Item], max_bytes: int) -> list[bytes | RefusedImage]:
    return [_read_one(folder, item.name, max_bytes) for item in batch]


def _read_one(folder: Path, name: str, max_bytes: int) -> bytes | RefusedImage:
    try:
        path = (folder / name).resolve()
        if not path.is_relative_to(folder):
            return _refused("unreadable", "leads out of the folder; copy the file into it")
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size <= max_bytes:
                return file.read(max_bytes)
    except (OSError, ValueError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        return _refused("unreadable", f"cannot be read ({reason}); make it readable")
    return _refused(
        "file_too_large",
        f"the file has {size:,} bytes, over the limit of {max_bytes:,}; send the person's crop",
    )


def _refused(code: str, detail: str) -> RefusedImage:
    return RefusedImage(problem=problem(code, detail))


def _mounted(runtime: Runtime, folder: str) -> Path:
    root = runtime.settings.import_dir
    if root is None:
        raise InvalidField(
            "folder: this service imports no folders; send an archive, or set GMN_IMPORT_DIR"
        )
    root = root.resolve()
    path = _resolved(root, folder)
    if path is None or not path.is_relative_to(root) or not path.is_dir():
        raise InvalidField(
            f"folder: there is no folder {folder[:200]!r} below GMN_IMPORT_DIR; name one"
        )
    return path


def _resolved(folder: Path, name: str) -> Path | None:
    """The path with symbolic links followed; None where it does not exist."""
    try:
        return (folder / name).resolve(strict=True)
    except (OSError, ValueError, RuntimeError):
        return None


def _spool(runtime: Runtime, job_id: str) -> Path:
    return runtime.files / FOLDER / job_id


async def _remove_files(runtime: Runtime, job_id: str) -> None:
    await asyncio.to_thread(shutil.rmtree, _spool(runtime, job_id), ignore_errors=True)
