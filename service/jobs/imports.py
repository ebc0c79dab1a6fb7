"""Imports: enroll the images of an archive or a mounted folder, batch by batch, as a job.

Each batch is enrolled under a request name of its own, so that a resumed import enrolls no image
twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import itertools
import json
import os
import shutil
import sys
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from gmn_client.models import EnrolledImage, JobProblem, RefusedImage
from model.crops.decode import CropProblem
from model.crops.folder import packed_root, read_folder
from model.crops.manifest import MANIFEST, CropFile
from model.crops.names import Ignored, LeftOut, shown
from model.crops.unpack import DiskFull, UnpackLimits, unpack_crops
from service.errors import InvalidField, StorageFailed, UnknownGallery, refused_image
from service.gallery.enroll import (
    ImageToEnroll,
    checked_camera,
    checked_metadata,
    checked_text,
    enroll,
)
from service.gallery.gallery import Gallery
from service.jobs.runner import (
    RETRYABLE,
    Cancelled,
    Progress,
    create_job,
    new_job_id,
    wait_while_busy,
)
from service.ops.durable import (
    IMPORTS,
    hold_folder,
    make_folder,
    require_free_disk,
    sync,
    sync_below,
)
from service.ops.failpoints import failpoint
from service.ops.health import heartbeat
from service.record.jobs import Job
from service.runtime import Runtime

FULL = (errno.ENOSPC, errno.EDQUOT)
CROPS_PER_BATCH = 32
# One batch is decoded while another is embedded and a third is stored.
CONCURRENT_BATCHES = 3
COUNTS = ("total", "done", "landed", "duplicates", "refused", "ignored")
CHECKS = {
    "identity": checked_text,
    "camera": checked_camera,
    "external_id": checked_text,
    "metadata": checked_metadata,
}
Batch = tuple[dict[str, int], list[JobProblem]]
"""The numbers that a batch adds to the progress, and its problems."""


async def begin_import(
    runtime: Runtime,
    gallery: Gallery,
    parameters: Mapping[str, str | None],
    archive: BinaryIO | None = None,
    key_id: str | None = None,
) -> Job:
    """Creates the job that enrolls the images of an archive or of a folder.

    Args:
        parameters: `identity` and `camera` of every image, where neither the manifest nor folders
            name any; `manifest`, the path of a CSV file within the import; `folder` below the
            import directory, where there is no archive.
        archive: a zip or tar file, which is stored first.
        key_id: of the API key that begins it.

    Raises:
        InvalidField: for a folder that does not exist, or not below the import directory.
        UnknownGallery, NeedsReindex: the gallery takes no images.
        StorageFailed: the disk did not take the archive.
    """
    # Refused now, and not by the job.
    runtime.model_of(gallery)
    job_id = new_job_id()
    spool = _spool(runtime, job_id)
    with contextlib.ExitStack() as held:

        async def keep(archive: BinaryIO) -> None:
            # Held before it is noted: what is noted and not held was cut off.
            await runtime.pools.imports.run(_hold_spool, spool, held)
            note = runtime.record.unneeded_files.add
            await runtime.galleries.write(note, [f"{IMPORTS}/{job_id}"])
            await runtime.pools.imports.run(_keep_archive, spool, archive)

        async def create() -> Job:
            try:
                return await create_job(runtime, gallery, "import", parameters, job_id, key_id)
            except (UnknownGallery, StorageFailed):
                # Where the record does not answer it may have the job.
                await _remove_files(runtime, spool)
                raise

        if archive is None:
            await runtime.pools.imports.run(_mounted, runtime, str(parameters["folder"]))
        else:
            require_free_disk(runtime.settings)
            try:
                await runtime.sections.run(partial(keep, archive))
            except BaseException:
                await runtime.sections.run(partial(_remove_files, runtime, spool))
                raise
            failpoint("import.archive-kept")
        return await runtime.sections.run(create)


def _hold_spool(spool: Path, held: contextlib.ExitStack) -> None:
    try:
        make_folder(spool)
        held.enter_context(hold_folder(spool))
    except OSError as error:
        raise _not_kept(error) from error


def _keep_archive(spool: Path, archive: BinaryIO) -> None:
    try:
        with (spool / "archive").open("wb") as file:
            shutil.copyfileobj(archive, file, 1024 * 1024)
        # An acknowledged archive is not sent again, so it must survive a power cut.
        sync_below(spool)
    except OSError as error:
        raise _not_kept(error) from error


def _not_kept(error: OSError) -> StorageFailed:
    return StorageFailed(
        f"the archive could not be kept ({error.strerror}); nothing was enrolled, free space in "
        "the data directory and send it again"
    )


async def run_import(
    runtime: Runtime, gallery: Gallery, job: Job, progress: Progress
) -> str | None:
    """Enrolls the images of an import that are not enrolled yet, and removes its files.

    Returns:
        A remark on what was ignored.

    Raises:
        InputProblem: for an archive or manifest that cannot be used.
        Cancelled: a client cancelled the import.
    """
    try:
        return await _enroll_items(runtime, gallery, job, progress)
    finally:
        # The process that resumes an import needs its files.
        if not isinstance(sys.exception(), RETRYABLE):
            await runtime.sections.run(partial(_remove_files, runtime, _spool(runtime, job.job_id)))
            failpoint("import.files-removed")


async def _enroll_items(
    runtime: Runtime, gallery: Gallery, job: Job, progress: Progress
) -> str | None:
    counts = Counter({**dict.fromkeys(COUNTS, 0), **job.progress})
    if counts["done"] == counts["total"] > 0:
        # The process ended after it removed the files and before it saved the job's end.
        return _remark(counts)
    spool, mounted = _spool(runtime, job.job_id), job.parameters.get("folder")
    left_out: list[LeftOut] = []
    ignored = Ignored()
    if mounted is not None:
        folder = await runtime.pools.imports.run(_mounted, runtime, str(mounted))
    else:
        folder = (spool / "files").resolve()
        if not job.progress:
            left_out = await runtime.sections.run(
                lambda: runtime.pools.imports.run(_unpack, runtime, spool, folder, ignored)
            )
    items = await runtime.pools.imports.run(_items, folder, job.parameters, ignored)
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
        await progress.save(counts, problems)
        # Before, the archive shows which of its files were left out.
        await runtime.pools.imports.run((spool / "archive").unlink, missing_ok=True)
    # A folder may have other images than it had when this job began.
    offset = 0 if mounted else counts["total"] - len(items)
    counts["total"] = offset + len(items)
    size = min(CROPS_PER_BATCH, runtime.settings.max_images_per_request)
    starts = iter(range(counts["done"] - offset, len(items), size))
    running: deque[asyncio.Task[Batch]] = deque()
    cancelled = False
    try:
        while True:
            for start in itertools.islice(starts, CONCURRENT_BATCHES - len(running)):
                batch, first = items[start : start + size], offset + start
                work = _enroll_batch(runtime, gallery, job, folder, batch, first)
                running.append(asyncio.create_task(work))
            if not running:
                break
            added, problems = await running.popleft()
            counts.update(added)
            try:
                await progress.save(counts, problems)
                failpoint("import.progress-noted")
            except Cancelled:
                # Batches under way are still enrolled and counted.
                cancelled, starts = True, iter(range(0))
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
    if cancelled:
        raise Cancelled
    return _remark(counts)


def _remark(counts: Mapping[str, int]) -> str | None:
    if not (ignored := counts.get("ignored")):
        return None
    return f"{ignored:,} files or columns were ignored; the report names them"


def _lines(code: str, found: Sequence[LeftOut], first: int) -> list[JobProblem]:
    return [
        JobProblem(position=position, source=one.name, code=code, detail=one.reason)
        for position, one in enumerate(found, first)
    ]


async def _enroll_batch(
    runtime: Runtime,
    gallery: Gallery,
    job: Job,
    folder: Path,
    batch: Sequence[CropFile],
    first: int,
) -> Batch:
    max_bytes = runtime.settings.max_image_bytes
    contents = await runtime.pools.imports.run(
        lambda: [_read(folder, item.path, max_bytes) for item in batch]
    )
    failpoint("import.files-read")
    images = [
        _to_enroll(one, item)
        for one, item in zip(contents, batch, strict=True)
        if isinstance(one, bytes)
    ]
    enrolled: Iterator[EnrolledImage | RefusedImage] = iter(())
    if images:
        # Under this name the batch is enrolled once, also if the process dies before it is saved.
        name = f"import:{job.job_id}:{first}"
        answer = await wait_while_busy(partial(enroll, runtime, gallery, images, name))
        failpoint("import.batch-landed")
        enrolled = iter(answer.results)
    outcomes = [
        refused_image(one) if isinstance(one, CropProblem) else next(enrolled) for one in contents
    ]
    problems = [
        JobProblem(
            position=position,
            source=shown(str(item.path.relative_to(folder))),
            code=outcome.problem.code,
            detail=outcome.problem.detail,
        )
        for position, (outcome, item) in enumerate(zip(outcomes, batch, strict=True), first)
        if isinstance(outcome, RefusedImage)
    ]
    duplicates = sum(isinstance(one, EnrolledImage) and one.duplicate for one in outcomes)
    landed = len(batch) - len(problems) - duplicates
    added = {"landed": landed, "duplicates": duplicates, "refused": len(problems)}
    return {"done": len(batch), **added}, problems


def _to_enroll(content: bytes, item: CropFile) -> ImageToEnroll:
    metadata = json.loads(item.metadata) if item.metadata else None
    return ImageToEnroll(
        content, item.identity, item.camera, item.captured_at, item.external_id, metadata
    )


def _unpack(runtime: Runtime, spool: Path, folder: Path, ignored: Ignored) -> list[LeftOut]:
    """Unpacks the archive of an import into a folder; returns the images that were left out."""
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
    try:
        part.mkdir()
        left_out = unpack_crops(archive, part, limits, heartbeat, ignored)
        # Under its final name the folder must be complete, also after a power cut.
        sync_below(part)
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
    sync(spool)
    return left_out


def _items(folder: Path, parameters: Mapping[str, Any], ignored: Ignored) -> list[CropFile]:
    """The images to enroll, in the same order every time.

    Raises:
        InvalidField: for a manifest that is not there, or lies outside the import: an error message
            would reveal its content; for a label that cannot be kept, or that images have already.
    """
    mounted = parameters.get("folder") is not None
    root = folder if mounted else packed_root(folder)
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
        if (value := getattr(item, label)) is None:
            continue
        try:
            check(label, value)
        except InvalidField as error:
            # The place is named and not its text, as others read what a job failed for.
            where = f"manifest: line {item.line}" if item.line else "folder: the name of one"
            detail = error.detail.replace(repr(value[:40]), "…")
            raise InvalidField(f"{where}: {detail}") from error


def _read(folder: Path, path: Path, max_bytes: int) -> bytes | CropProblem:
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
    return runtime.settings.data_dir / IMPORTS / job_id


async def _remove_files(runtime: Runtime, spool: Path) -> None:
    await runtime.pools.imports.run(shutil.rmtree, spool, ignore_errors=True)
