"""Imports: enroll the images of an archive or a mounted folder, batch by batch, as a job.

Each batch is enrolled under a request name of its own, so that a resumed import enrolls no image
twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import sys
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import BinaryIO

from gmn_client.models import EnrolledImage, JobProblem, RefusedImage
from model.crops.decode import CropProblem
from model.crops.manifest import CropFile
from model.crops.names import Ignored, LeftOut, shown
from service.errors import InvalidField, StorageFailed, UnknownGallery, refused_image
from service.gallery.enroll import ImageToEnroll, enroll
from service.gallery.gallery import Gallery
from service.jobs.import_files import (
    hold_spool,
    keep_archive,
    mounted_folder,
    read_file,
    read_items,
    remove_files,
    spool_folder,
    unpack,
)
from service.jobs.runner import (
    RETRYABLE,
    Cancelled,
    Progress,
    create_job,
    new_job_id,
    wait_while_busy,
)
from service.ops.data_directory import IMPORTS, require_free_disk
from service.ops.failpoints import failpoint
from service.record.jobs import Job
from service.runtime import Runtime

CROPS_PER_BATCH = 32
# One batch is decoded while another is embedded and a third is stored.
CONCURRENT_BATCHES = 3
COUNTS = ("total", "done", "landed", "duplicates", "refused", "ignored")
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
    _ = gallery.embedder
    job_id = new_job_id()
    spool = spool_folder(runtime, job_id)
    with contextlib.ExitStack() as held:

        async def keep(archive: BinaryIO) -> None:
            # Held before it is noted: what is noted and not held was cut off.
            await runtime.pools.imports.run(hold_spool, spool, held)
            note = runtime.record.unneeded_files.add
            await runtime.galleries.write(note, [f"{IMPORTS}/{job_id}"])
            await runtime.pools.imports.run(keep_archive, runtime.settings, spool, archive)

        async def create() -> Job:
            try:
                return await create_job(runtime, gallery, "import", parameters, job_id, key_id)
            except (UnknownGallery, StorageFailed):
                # Where the record does not answer it may have the job.
                await remove_files(runtime, spool)
                raise

        if archive is None:
            await runtime.pools.imports.run(mounted_folder, runtime, str(parameters["folder"]))
        else:
            require_free_disk(runtime.settings)
            try:
                await runtime.sections.run(partial(keep, archive))
            except BaseException:
                await runtime.sections.run(partial(remove_files, runtime, spool))
                raise
            failpoint("import.archive-kept")
        return await runtime.sections.run(create)


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
            await runtime.sections.run(
                partial(remove_files, runtime, spool_folder(runtime, job.job_id))
            )
            failpoint("import.files-removed")


async def _enroll_items(
    runtime: Runtime, gallery: Gallery, job: Job, progress: Progress
) -> str | None:
    counts = Counter({**dict.fromkeys(COUNTS, 0), **job.progress})
    if counts["done"] == counts["total"] > 0:
        # The process ended after it removed the files and before it saved the job's end.
        return _remark(counts)
    folder, items = await _read_items(runtime, job, progress, counts)
    # A folder may have other images than it had when this job began.
    offset = 0 if job.parameters.get("folder") else counts["total"] - len(items)
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


async def _read_items(
    runtime: Runtime, job: Job, progress: Progress, counts: Counter[str]
) -> tuple[Path, list[CropFile]]:
    """The folder and images of an import; where it begins, its report gets what is left out."""
    spool, mounted = spool_folder(runtime, job.job_id), job.parameters.get("folder")
    left_out: list[LeftOut] = []
    ignored = Ignored()
    if mounted is not None:
        folder = await runtime.pools.imports.run(mounted_folder, runtime, str(mounted))
    else:
        folder = (spool / "files").resolve()
        if not job.progress:
            left_out = await runtime.sections.run(
                partial(runtime.pools.imports.run, unpack, runtime, spool, folder, ignored)
            )
    items = await runtime.pools.imports.run(read_items, folder, job.parameters, ignored)
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
    return folder, items


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
        lambda: [read_file(folder, item.path, max_bytes) for item in batch]
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
