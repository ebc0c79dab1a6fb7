"""Imports: enroll the images of an archive or a mounted folder, batch by batch, as a job."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import sys
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any, BinaryIO

from gmn_client.models import EnrolledImage, JobProblem, RefusedImage
from model.crops.decode import CropProblem
from model.crops.folder import packed_root, read_folder
from model.crops.manifest import MANIFEST, CropFile
from model.crops.names import Ignored, LeftOut, shown
from model.crops.unpack import FULL, DiskFull, UnpackLimits, unpack_crops
from service.errors import InvalidField, StorageFailed, refused_image
from service.gallery import enroll
from service.gallery.gallery import Gallery
from service.jobs import runner
from service.ops import data_directory
from service.ops.data_directory import IMPORTS
from service.ops.failpoints import failpoint
from service.ops.health import heartbeat
from service.record.jobs import Job
from service.runtime import Runtime

CROPS_PER_BATCH = 32
# One batch is decoded while another is embedded and a third is stored.
CONCURRENT_BATCHES = 3
NumberedFile = tuple[int, CropFile]
COUNTS = ("total", "done", "landed", "duplicates", "refused", "ignored")
CHECKS = {
    "identity": enroll.checked_text,
    "camera": enroll.checked_camera,
    "external_id": enroll.checked_text,
    "metadata": enroll.checked_metadata,
}


async def begin_import(
    runtime: Runtime,
    gallery: Gallery,
    parameters: Mapping[str, str | None],
    archive: BinaryIO | None = None,
    key_id: str | None = None,
) -> Job:
    """Creates the job that enrolls the images of an archive or of a folder.

    Raises:
        InvalidField: for a folder that does not exist, or not below the import directory.
        UnknownGallery, NeedsReindex: the gallery takes no images.
        StorageFailed: the disk did not take the archive.
    """
    # Refused now, and not by the job.
    _ = gallery.embedder
    job_id = runner.new_job_id()
    run, spool = runtime.pools.imports.run, runtime.settings.data_dir / IMPORTS / job_id
    create = partial(runner.create_job, runtime, gallery, "import", parameters, job_id, key_id)
    with contextlib.ExitStack() as held:
        if archive is None:
            await run(_mounted_folder, runtime, str(parameters["folder"]))
        else:
            keep = partial(_keep_archive, runtime, spool, archive, held)
            try:
                await runtime.sections.run(keep)
            except BaseException:
                await runtime.sections.run(partial(run, shutil.rmtree, spool, ignore_errors=True))
                raise
            failpoint("import.archive-kept")
        # Where this fails maintenance removes the archive: it is noted, and not held any more.
        return await runtime.sections.run(create)


async def run_import(runtime: Runtime, gallery: Gallery, job: Job) -> str | None:
    """Enrolls the images of an import that are not enrolled yet, and removes its files.

    Raises:
        InputProblem: for an archive or manifest that cannot be used.
    """
    try:
        ignored = (await _enroll_items(runtime, gallery, job))["ignored"]
        remark = f"{ignored:,} files or columns were ignored; the report names them"
        return remark if ignored else None
    finally:
        # The process that resumes an import needs its files.
        if not isinstance(sys.exception(), runner.RETRYABLE):
            # So does one that has taken it over. The files of a job that is gone are in no use.
            with contextlib.suppress(runner.Cancelled):
                await runner.save_job(runtime, job)
            spool = runtime.settings.data_dir / IMPORTS / job.job_id
            remove = partial(runtime.pools.imports.run, shutil.rmtree, spool, ignore_errors=True)
            await runtime.sections.run(remove)
            failpoint("import.files-removed")


async def _enroll_items(runtime: Runtime, gallery: Gallery, job: Job) -> Counter[str]:
    counts = Counter({**dict.fromkeys(COUNTS, 0), **job.progress})
    if counts["done"] == counts["total"] > 0:
        # The process ended after it removed the files and before it saved the job's end.
        return counts
    folder, items = await _items(runtime, job, counts)
    # A folder may have other images than it had when this job began.
    offset = 0 if job.parameters.get("folder") else counts["total"] - len(items)
    counts["total"] = offset + len(items)
    waiting = list(enumerate(items, offset))[counts["done"] - offset :]
    size = min(CROPS_PER_BATCH, runtime.settings.max_images_per_request)
    running: deque[asyncio.Task[tuple[Counter[str], list[JobProblem]]]] = deque()

    async def save_first() -> None:
        added, problems = await running.popleft()
        counts.update(added)
        await runner.save_job(runtime, job, dict(counts), problems)
        failpoint("import.progress-noted")

    try:
        for start in range(0, len(waiting), size):
            if len(running) == CONCURRENT_BATCHES:
                await save_first()
            batch = waiting[start : start + size]
            work = _enroll_batch(runtime, gallery, job, folder, batch)
            running.append(asyncio.create_task(work))
        while running:
            await save_first()
    except runner.Cancelled:
        # Batches under way are still enrolled and counted.
        while running:
            with contextlib.suppress(runner.Cancelled):
                await save_first()
        raise
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
    return counts


async def _items(runtime: Runtime, job: Job, counts: Counter[str]) -> tuple[Path, list[CropFile]]:
    """The folder and images of an import; where it begins, its report gets what is left out."""
    spool, ignored = runtime.settings.data_dir / IMPORTS / job.job_id, Ignored()
    read = partial(runtime.pools.imports.run, _read_import, runtime, job, spool, ignored)
    folder, items, left_out = await runtime.sections.run(read)
    if not job.progress:
        if not items and not left_out:
            raise InvalidField(
                "archive: holds no image; its files must end in .jpg, .png, .webp, .bmp"
            )
        counts["refused"] = counts["done"] = len(left_out)
        counts["total"] = len(left_out) + len(items)
        counts["ignored"] = ignored.count
        problems = _lines("not_unpacked", left_out, 0)
        problems += _lines("ignored", ignored.lines(), counts["total"])
        await runner.save_job(runtime, job, dict(counts), problems)
        # Before, the archive shows which of its files were left out.
        await runtime.pools.imports.run((spool / "archive").unlink, missing_ok=True)
    return folder, items


def _lines(code: str, found: Sequence[LeftOut], first: int) -> list[JobProblem]:
    return [
        JobProblem(position=position, source=one.name, code=code, detail=one.reason)
        for position, one in enumerate(found, first)
    ]


async def _enroll_batch(
    runtime: Runtime, gallery: Gallery, job: Job, folder: Path, batch: Sequence[NumberedFile]
) -> tuple[Counter[str], list[JobProblem]]:
    """The numbers that a batch adds to the progress, and its problems."""
    max_bytes = runtime.settings.max_image_bytes
    contents = await runtime.pools.imports.run(
        lambda: [_read_file(folder, item.path, max_bytes) for _, item in batch]
    )
    failpoint("import.files-read")
    labels = attrgetter("identity", "camera", "captured_at", "external_id")
    images = [
        enroll.ImageToEnroll(content, *labels(item), json.loads(item.metadata or "null"))
        for content, (_, item) in zip(contents, batch, strict=True)
        if isinstance(content, bytes)
    ]
    enrolled: Iterator[EnrolledImage | RefusedImage] = iter(())
    if images:
        # Under this name the batch is enrolled once, also if the process dies before it is saved.
        name = f"import:{job.job_id}:{batch[0][0]}"
        answer = await runner.wait_while_busy(
            partial(enroll.enroll, runtime, gallery, images, name)
        )
        failpoint("import.batch-landed")
        enrolled = iter(answer.results)
    added, problems = Counter(done=len(batch)), []
    for content, (position, item) in zip(contents, batch, strict=True):
        outcome = next(enrolled) if isinstance(content, bytes) else refused_image(content)
        if isinstance(outcome, RefusedImage):
            added["refused"] += 1
            left_out = LeftOut(shown(str(item.path.relative_to(folder))), outcome.problem.detail)
            problems += _lines(outcome.problem.code, [left_out], position)
        else:
            added["duplicates" if outcome.duplicate else "landed"] += 1
    return added, problems


async def _keep_archive(
    runtime: Runtime, spool: Path, archive: BinaryIO, held: contextlib.ExitStack
) -> None:
    """Keeps the archive of an import, durably, and holds its folder; raises `StorageFailed`."""

    def copy() -> None:
        with (spool / "archive").open("wb") as file:
            while part := archive.read(data_directory.MEBIBYTE):
                data_directory.require_free_disk(runtime.settings)
                file.write(part)
        # An acknowledged archive is not sent again, so it must survive a power cut.
        data_directory.sync_below(spool)

    run, note = runtime.pools.imports.run, runtime.record.unneeded_files.add
    try:
        await run(data_directory.make_folder, spool)
        await run(held.enter_context, data_directory.hold_folder(spool))
        # Held before it is noted: what is noted and not held was cut off.
        await runtime.galleries.write(note, [f"{IMPORTS}/{spool.name}"])
        await run(copy)
    except OSError as error:
        raise StorageFailed(
            f"the archive could not be kept ({error.strerror}); nothing was enrolled, free space "
            "in the data directory and send it again"
        ) from error


def _read_import(
    runtime: Runtime, job: Job, spool: Path, ignored: Ignored
) -> tuple[Path, list[CropFile], list[LeftOut]]:
    """Its folder and images, in the same order every time, and what could not be unpacked."""
    if (mounted := job.parameters.get("folder")) is not None:
        folder = _mounted_folder(runtime, mounted)
        return folder, _read_items(folder, folder, job.parameters, ignored), []
    folder, left_out = (spool / "files").resolve(), []
    if not job.progress:
        left_out = _unpack(runtime, spool, folder, ignored)
    return folder, _read_items(folder, packed_root(folder), job.parameters, ignored), left_out


def _unpack(runtime: Runtime, spool: Path, folder: Path, ignored: Ignored) -> list[LeftOut]:
    archive, settings = spool / "archive", runtime.settings
    if not archive.is_file():
        if folder.is_dir():
            # An earlier process unpacked it. Where another has the lease, no progress is saved.
            return []
        raise InvalidField(
            "archive: could not be used, and its files were removed before the service ended "
            "amid saying why; send it again"
        )
    # A process that lost its lease may still be unpacking: each has a folder of its own.
    part = spool / f"part-{runtime.worker}"
    shutil.rmtree(part, ignore_errors=True)
    limits = UnpackLimits(settings.max_import_bytes, settings.max_image_bytes)

    def between() -> None:
        heartbeat()
        try:
            data_directory.require_free_disk(settings)
        except StorageFailed as error:
            raise DiskFull(error.detail) from error

    try:
        part.mkdir()
        left_out = unpack_crops(archive, part, limits, between, ignored)
        # Under its final name the folder must be complete, also after a power cut.
        data_directory.sync_below(part)
    except (DiskFull, OSError) as error:
        if isinstance(error, OSError) and error.errno not in FULL:
            raise
        raise StorageFailed(f"the archive cannot be unpacked ({error}); free space") from error
    failpoint("import.unpacked")
    try:
        part.rename(folder)
    except OSError:
        if not folder.is_dir():
            raise
        shutil.rmtree(part, ignore_errors=True)
    data_directory.sync(spool)
    return left_out


def _read_items(
    folder: Path, root: Path, parameters: Mapping[str, Any], ignored: Ignored
) -> list[CropFile]:
    """The images to enroll; an error about a file outside would reveal that file's content."""
    name = parameters.get("manifest")
    manifest = _resolved(folder, name) if name else _resolved(root, MANIFEST)
    if manifest is not None and not manifest.is_relative_to(folder):
        raise InvalidField("manifest: lies outside the import; put it among the images")
    if manifest is None or not manifest.is_file():
        if name:
            raise InvalidField(
                f"manifest: there is no file {shown(name)!r} in the import; name one"
            )
        manifest = None
    items = read_folder(folder, ignored, manifest, root=root, within=folder)
    for item in items:
        _check_labels(item)
    for label in ("identity", "camera"):
        if value := parameters.get(label):
            if any(getattr(item, label) for item in items):
                raise InvalidField(f"{label}: the manifest or the folders give it; leave it out")
            items = [replace(item, **{label: value}) for item in items]
    return items


def _check_labels(item: CropFile) -> None:
    for label, check in CHECKS.items():
        value = getattr(item, label)
        try:
            if value is not None:
                check(label, value)
        except InvalidField as error:
            # The place is named and not its text, as others read what a job failed for.
            where = f"manifest: line {item.line}" if item.line else "folder: the name of one"
            detail = error.detail.replace(repr(value[:40]), "…")
            raise InvalidField(f"{where}: {detail}") from error


def _read_file(folder: Path, path: Path, max_bytes: int) -> bytes | CropProblem:
    """The bytes of an image below a resolved folder, or why they cannot be read."""
    try:
        path = path.resolve()
        if not path.is_relative_to(folder):
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


def _mounted_folder(runtime: Runtime, folder: str) -> Path:
    """A folder below the import directory; raises `InvalidField`."""
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
