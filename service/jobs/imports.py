"""Imports: enroll the images of an archive or a mounted folder, batch by batch, as a job.

Each batch is enrolled under a request name of its own, so that a resumed import enrolls no image
twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import sys
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import BinaryIO

from gmn_client.models import EnrolledImage, JobProblem, RefusedImage
from model.crops.manifest import CropFile
from model.crops.names import Ignored, LeftOut, shown
from service.errors import InvalidField, StorageFailed, UnknownGallery, refused_image
from service.gallery.enroll import ImageToEnroll, enroll
from service.gallery.gallery import Gallery
from service.jobs import runner
from service.jobs.import_files import (
    keep_archive,
    mounted_folder,
    read_file,
    read_import,
    spool_folder,
)
from service.ops.data_directory import require_free_disk
from service.ops.failpoints import failpoint
from service.record.jobs import Job
from service.runtime import Runtime

CROPS_PER_BATCH = 32
# One batch is decoded while another is embedded and a third is stored.
CONCURRENT_BATCHES = 3
COUNTS = ("total", "done", "landed", "duplicates", "refused", "ignored")
Batch = tuple[Counter[str], list[JobProblem]]
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
    job_id = runner.new_job_id()
    run, spool = runtime.pools.imports.run, spool_folder(runtime, job_id)
    remove = partial(run, shutil.rmtree, spool, ignore_errors=True)
    with contextlib.ExitStack() as held:

        async def create() -> Job:
            try:
                return await runner.create_job(
                    runtime, gallery, "import", parameters, job_id, key_id
                )
            except (UnknownGallery, StorageFailed):
                # Where the record does not answer it may have the job.
                await remove()
                raise

        if archive is None:
            await run(mounted_folder, runtime, str(parameters["folder"]))
        else:
            require_free_disk(runtime.settings)
            try:
                await runtime.sections.run(
                    partial(run, keep_archive, runtime, spool, archive, held)
                )
            except BaseException:
                await runtime.sections.run(remove)
                raise
            failpoint("import.archive-kept")
        return await runtime.sections.run(create)


async def run_import(runtime: Runtime, gallery: Gallery, job: Job) -> str | None:
    """Enrolls the images of an import that are not enrolled yet, and removes its files.

    Returns:
        A remark on what was ignored.

    Raises:
        InputProblem: for an archive or manifest that cannot be used.
        Cancelled: a client cancelled the import.
    """
    try:
        ignored = (await _enroll_items(runtime, gallery, job))["ignored"]
        more = f"{ignored:,} files or columns were ignored; the report names them"
        return more if ignored else None
    finally:
        # The process that resumes an import needs its files.
        if not isinstance(sys.exception(), runner.RETRYABLE):
            spool = spool_folder(runtime, job.job_id)
            remove = partial(runtime.pools.imports.run, shutil.rmtree, spool, ignore_errors=True)
            await runtime.sections.run(remove)
            failpoint("import.files-removed")


async def _enroll_items(runtime: Runtime, gallery: Gallery, job: Job) -> Counter[str]:
    counts = Counter({**dict.fromkeys(COUNTS, 0), **job.progress})
    if counts["done"] == counts["total"] > 0:
        # The process ended after it removed the files and before it saved the job's end.
        return counts
    folder, items = await _read_items(runtime, job, counts)
    # A folder may have other images than it had when this job began.
    offset = 0 if job.parameters.get("folder") else counts["total"] - len(items)
    counts["total"] = offset + len(items)
    size = min(CROPS_PER_BATCH, runtime.settings.max_images_per_request)
    running: deque[asyncio.Task[Batch]] = deque()

    async def save_first() -> None:
        added, problems = await running.popleft()
        counts.update(added)
        await runner.save_job(runtime, job, dict(counts), problems)
        failpoint("import.progress-noted")

    try:
        for start in range(counts["done"] - offset, len(items), size):
            if len(running) == CONCURRENT_BATCHES:
                await save_first()
            batch, first = items[start : start + size], offset + start
            work = _enroll_batch(runtime, gallery, job, folder, batch, first)
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


async def _read_items(
    runtime: Runtime, job: Job, counts: Counter[str]
) -> tuple[Path, list[CropFile]]:
    """The folder and images of an import; where it begins, its report gets what is left out."""
    spool, ignored = spool_folder(runtime, job.job_id), Ignored()
    read = partial(runtime.pools.imports.run, read_import, runtime, job, spool, ignored)
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
        ImageToEnroll(
            content,
            item.identity,
            item.camera,
            item.captured_at,
            item.external_id,
            json.loads(item.metadata) if item.metadata else None,
        )
        for content, item in zip(contents, batch, strict=True)
        if isinstance(content, bytes)
    ]
    enrolled: Iterator[EnrolledImage | RefusedImage] = iter(())
    if images:
        # Under this name the batch is enrolled once, also if the process dies before it is saved.
        name = f"import:{job.job_id}:{first}"
        answer = await runner.wait_while_busy(partial(enroll, runtime, gallery, images, name))
        failpoint("import.batch-landed")
        enrolled = iter(answer.results)
    added, problems = Counter(done=len(batch)), []
    for position, (content, item) in enumerate(zip(contents, batch, strict=True), first):
        outcome = next(enrolled) if isinstance(content, bytes) else refused_image(content)
        if isinstance(outcome, RefusedImage):
            added["refused"] += 1
            left_out = LeftOut(shown(str(item.path.relative_to(folder))), outcome.problem.detail)
            problems += _lines(outcome.problem.code, [left_out], position)
        else:
            added["duplicates" if outcome.duplicate else "landed"] += 1
    return added, problems
