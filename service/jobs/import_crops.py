"""Import: enrol an archive or a mounted folder, crop by crop, as a job."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from gmn_client.models import JobProblem
from model.crops.decode import CropProblem
from model.crops.manifest import ManifestRow, read_manifest
from model.crops.names import image_names, shown
from model.crops.unpack import DiskFull, UnpackLimits, unpack_crops
from service.errors import (
    DeviceFull,
    InvalidField,
    QueueFull,
    RecordUnavailable,
    StorageFailed,
)
from service.gallery.enroll import EnrolmentAnswer, ImageToEnroll, enroll
from service.gallery.gallery import Gallery
from service.gallery.naming import checked_camera, checked_text
from service.jobs.in_order import in_order
from service.jobs.jobs import CUT_OFF, Cancelled, Progress, create_job, new_job_id
from service.ops.disk_room import full_disk_told
from service.ops.durable import make_folder, sync, sync_below
from service.ops.failpoints import Failpoint, passed
from service.ops.pulse import beat
from service.record.job_records import Job
from service.runtime import Runtime

FOLDER = "imports"
CROPS_PER_BATCH = 32
# While one batch is embedded the next is decoded and the one before is stored.
AT_ONCE = 3
PATIENCE_SECONDS = 0.05
MANIFEST = "manifest.csv"


@dataclass(frozen=True)
class ImportOptions:
    """What is said of all images of an import.

    Attributes:
        identity, camera: of every image that no manifest speaks of.
        manifest: name of the CSV file that says who and where; `manifest.csv` where there is one.
    """

    identity: str | None = None
    camera: str | None = None
    manifest: str | None = None


@dataclass(frozen=True)
class _Item:
    """One image: where it is, and the folder that it may not lie outside of."""

    folder: Path
    name: str
    identity: str | None
    camera: str | None
    captured_at: datetime | None = None


@dataclass(frozen=True)
class _Enrolled:
    """What became of one batch."""

    landed: int
    duplicates: int
    problems: list[JobProblem]


async def import_archive(
    runtime: Runtime, gallery: str, archive: BinaryIO, options: ImportOptions
) -> Job:
    """Keeps an uploaded archive and begins to enrol what is in it.

    Raises:
        UnknownGallery, NeedsReindex: nothing can be enrolled there.
        StorageFailed: the disk did not take it.
    """
    target = runtime.galleries.get(gallery)
    target.require_comparable()
    runtime.room.require()
    job_id = new_job_id()
    spool = _spool(runtime, job_id)

    def keep() -> None:
        try:
            make_folder(spool)
            with (spool / "archive").open("wb") as file:
                shutil.copyfileobj(archive, file, 1024 * 1024)
            # Once the job is acknowledged nobody sends it again.
            sync_below(spool)
        except OSError as error:
            shutil.rmtree(spool, ignore_errors=True)
            raise StorageFailed(
                f"the archive could not be kept ({error.strerror}); nothing was enrolled, free "
                "space in the data directory and send it again"
            ) from error

    async def create() -> Job:
        try:
            return await create_job(runtime, target, "import", vars(options), job_id)
        except RecordUnavailable:
            # The record may have the job; the next start removes the files if it has not.
            raise
        except Exception:
            await _remove_spool(runtime, job_id)
            raise

    try:
        await runtime.sections.run(lambda: asyncio.to_thread(keep))
    except asyncio.CancelledError:
        await runtime.sections.run(lambda: _remove_spool(runtime, job_id))
        raise
    passed(Failpoint.IMPORT__ARCHIVE_KEPT)
    return await runtime.sections.run(create)


async def import_folder(runtime: Runtime, gallery: str, folder: str, options: ImportOptions) -> Job:
    """Begins to enrol the images of a folder below the import directory.

    Raises:
        InvalidField: for a folder that is not there, or not below it.
        UnknownGallery, NeedsReindex: nothing can be enrolled there.
    """
    target = runtime.galleries.get(gallery)
    target.require_comparable()
    await asyncio.to_thread(_mounted, runtime, folder)
    return await create_job(
        runtime, target, "import", {**vars(options), "folder": folder}, new_job_id()
    )


async def run_import(runtime: Runtime, gallery: Gallery, job: Job, progress: Progress) -> None:
    """Enrols what is not enrolled yet of an import; where it was cut off, it goes on.

    Raises:
        InputProblem: for an archive or manifest that cannot be used.
        Cancelled: where somebody asked it to stop.
    """
    try:
        await _run(runtime, gallery, job, progress)
    except CUT_OFF:
        # Whoever goes on needs the same files.
        raise
    except BaseException:
        await runtime.sections.run(lambda: _remove_spool(runtime, job.job_id))
        raise
    await runtime.sections.run(lambda: _remove_spool(runtime, job.job_id))
    passed(Failpoint.IMPORT__FILES_REMOVED)


async def _run(runtime: Runtime, gallery: Gallery, job: Job, progress: Progress) -> None:
    counts = {"total": 0, "done": 0, "landed": 0, "duplicates": 0, "refused": 0, **job.progress}
    if counts["done"] == counts["total"] > 0:
        # Its process ended between removing the files and saying so.
        return
    with full_disk_told():
        folder, left_out = await runtime.sections.run(
            lambda: asyncio.to_thread(_files, runtime, job)
        )
    items = await asyncio.to_thread(_items, folder, job)
    if not items and not left_out:
        raise InvalidField("archive: holds no image; its files must end in .jpg, .png, .webp, .bmp")
    counts["total"] = len(items) + len(left_out)
    if counts["done"] == 0:
        counts["refused"] = len(left_out)
        counts["done"] = len(left_out)
        await progress.note(counts, left_out)
    size = min(CROPS_PER_BATCH, runtime.settings.max_images_per_request)
    cancelled: list[Cancelled] = []

    def batches() -> Iterator[Callable[[], Coroutine[Any, Any, _Enrolled]]]:
        for start in range(counts["done"] - len(left_out), len(items), size):
            if cancelled:
                return
            batch, first = items[start : start + size], len(left_out) + start
            yield partial(_enroll_batch, runtime, gallery, job, batch, first)

    async with aclosing(in_order(batches(), AT_ONCE)) as enrolled:
        async for batch in enrolled:
            counts["done"] += batch.landed + batch.duplicates + len(batch.problems)
            counts["landed"] += batch.landed
            counts["duplicates"] += batch.duplicates
            counts["refused"] += len(batch.problems)
            try:
                await progress.note(counts, batch.problems)
                passed(Failpoint.IMPORT__PROGRESS_NOTED)
            except Cancelled as asked:
                # What is under way lands, so it has to be counted too.
                cancelled.append(asked)
    if cancelled:
        raise cancelled[0]


async def _enroll_batch(
    runtime: Runtime, gallery: Gallery, job: Job, batch: Sequence[_Item], first: int
) -> _Enrolled:
    problems: list[JobProblem] = []
    duplicates = landed = 0
    images: list[tuple[int, _Item, ImageToEnroll]] = []
    contents = await asyncio.to_thread(_read, batch, runtime.settings.max_image_bytes)
    passed(Failpoint.IMPORT__FILES_READ)
    for position, (item, content) in enumerate(zip(batch, contents, strict=True), first):
        if isinstance(content, CropProblem):
            problems.append(_problem(position, item, content))
        else:
            image = ImageToEnroll(content, item.identity, item.camera, item.captured_at)
            images.append((position, item, image))
    if images:
        # The name makes a batch happen once, also where the process dies before it is noted.
        name = f"import:{job.job_id}:{first}"
        answer = await _enroll_patiently(runtime, gallery, [one[2] for one in images], name)
        passed(Failpoint.IMPORT__BATCH_LANDED)
        for (position, item, _), outcome in zip(images, answer.results, strict=True):
            if isinstance(outcome, CropProblem):
                problems.append(_problem(position, item, outcome))
            else:
                duplicates += outcome.duplicate
                landed += not outcome.duplicate
    return _Enrolled(landed, duplicates, problems)


def _problem(position: int, item: _Item, problem: CropProblem) -> JobProblem:
    return JobProblem(
        position=position, source=shown(item.name), code=problem.code, detail=problem.detail
    )


async def _enroll_patiently(
    runtime: Runtime, gallery: Gallery, images: Sequence[ImageToEnroll], name: str
) -> EnrolmentAnswer:
    """An import waits for its turn where a client would be told to come back."""
    while True:
        try:
            return await enroll(runtime, gallery.name, images, name)
        except (QueueFull, DeviceFull):
            beat()
            await asyncio.sleep(PATIENCE_SECONDS)


def _files(runtime: Runtime, job: Job) -> tuple[Path, list[JobProblem]]:
    """The folder that holds a job's images, unpacked where they came as an archive."""
    named = job.parameters.get("folder")
    if named is not None:
        return _mounted(runtime, str(named)), []
    spool = _spool(runtime, job.job_id)
    files, noted = spool / "files", spool / "left_out.json"
    if not files.is_dir():
        # Whoever is done with the archive has put the files in their place before.
        if not (spool / "archive").is_file() and not files.is_dir():
            raise InvalidField(
                "archive: could not be used, and its files were removed before the service ended "
                "amid saying why; send it again"
            )
        # A process that lost the job may still be at it: each has a place of its own.
        part = spool / f"part-{runtime.worker}"
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        settings = runtime.settings
        limits = UnpackLimits(settings.max_import_bytes, settings.max_image_bytes)
        try:
            left_out = unpack_crops(spool / "archive", part, limits, beat)
        except DiskFull as full:
            raise StorageFailed(str(full)) from full
        aside = part.with_suffix(".json")
        aside.write_text(json.dumps([vars(one) for one in left_out]))
        sync(aside)
        aside.replace(noted)
        # A power cut must not leave empty images under a name that says that they are whole.
        sync_below(part)
        passed(Failpoint.IMPORT__UNPACKED)
        try:
            # Under this name it is whole: a process that takes over need not unpack it again.
            part.rename(files)
        except OSError:
            if not files.is_dir():
                raise
            shutil.rmtree(part, ignore_errors=True)
        sync(spool)
        (spool / "archive").unlink(missing_ok=True)
    problems = [
        JobProblem(position=position, source=one["name"], code="not_unpacked", detail=one["reason"])
        for position, one in enumerate(json.loads(noted.read_text()))
    ]
    # Resolved, as a manifest resolves what it names.
    return files.resolve(), problems


def _items(folder: Path, job: Job) -> list[_Item]:
    """What is to be enrolled, in an order that is the same every time."""
    said = job.parameters
    manifest = _manifest(folder, said.get("manifest"))
    if manifest is not None:
        return [_labelled(folder, row) for row in read_manifest(manifest, folder)]
    return [
        _Item(folder, name, said.get("identity"), said.get("camera"))
        for name in sorted(image_names(folder))
    ]


def _manifest(folder: Path, named: str | None) -> Path | None:
    """The manifest of an import, where it has one.

    Raises:
        InvalidField: for one that does not lie in the import: what stands in it would be told.
    """
    try:
        manifest = (folder / (named or MANIFEST)).resolve()
        there = manifest.is_file()
    except (OSError, ValueError, RuntimeError):
        manifest, there = folder / MANIFEST, False
    if named and not there:
        raise InvalidField(f"manifest: there is no file {shown(named)!r} in the import; name one")
    if there and not manifest.is_relative_to(folder):
        raise InvalidField("manifest: lies outside the import; put it among the images")
    return manifest if there else None


def _labelled(folder: Path, row: ManifestRow) -> _Item:
    name = str(row.path.relative_to(folder))
    field = f"manifest: {shown(name)}"
    return _Item(
        folder,
        name,
        checked_text(f"{field}: identity", row.identity),
        checked_camera(f"{field}: camera", row.camera),
        row.captured_at,
    )


def _read(batch: Sequence[_Item], max_bytes: int) -> list[bytes | CropProblem]:
    return [_read_one(item, max_bytes) for item in batch]


def _read_one(item: _Item, max_bytes: int) -> bytes | CropProblem:
    try:
        path = (item.folder / item.name).resolve()
        if not path.is_relative_to(item.folder):
            return CropProblem("unreadable", "leads out of the folder; copy the file into it")
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size <= max_bytes:
                return file.read(max_bytes)
    except (OSError, ValueError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        return CropProblem("unreadable", f"cannot be read ({reason}); make it readable")
    return CropProblem(
        "file_too_large",
        f"the file has {size:,} bytes, over the limit of {max_bytes:,}; send the person's crop",
    )


def _mounted(runtime: Runtime, folder: str) -> Path:
    root = runtime.settings.import_dir
    if root is None:
        raise InvalidField(
            "folder: this service imports no folders; send an archive, or set GMN_IMPORT_DIR"
        )
    root = root.resolve()
    try:
        place = (root / folder).resolve()
        there = place.is_relative_to(root) and place.is_dir()
    except (OSError, ValueError, RuntimeError):
        there = False
    if not there:
        raise InvalidField(
            f"folder: there is no folder {folder[:200]!r} below GMN_IMPORT_DIR; name one"
        )
    return place


def _spool(runtime: Runtime, job_id: str) -> Path:
    return runtime.files / FOLDER / job_id


async def _remove_spool(runtime: Runtime, job_id: str) -> None:
    await asyncio.to_thread(shutil.rmtree, _spool(runtime, job_id), ignore_errors=True)
