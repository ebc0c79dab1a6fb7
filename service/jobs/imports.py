"""Imports: jobs that enroll the crops of an archive or a folder batch by batch."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO

from gmn_client.models import JobProblem, RefusedImage
from model.arrays import Floats
from model.crops.decode import CropProblem
from model.crops.metadata import strip_metadata
from model.crops.names import LeftOut
from model.wording import counted
from service.engine.device import Embedded, EmbeddedImage, PreparedImage
from service.engine.images import find_content_type
from service.errors import InvalidField, StorageFailed, UnsupportedMediaType
from service.gallery.enroll import ComputedVectors, ImageToEnroll
from service.gallery.gallery import Gallery
from service.jobs import runner
from service.jobs.export_files import require_known_deletions
from service.jobs.import_files import (
    ImportContent,
    ImportItem,
    NumberedItem,
    read_batches,
    read_import,
)
from service.jobs.import_folder import mounted_folder, read_file
from service.ops import data_directory
from service.ops.data_directory import IMPORTS, failpoint
from service.ops.threads import heartbeat
from service.record.deletions import DeletedCrops
from service.record.jobs import Job
from service.record.transaction import batches
from service.record.values import labels_of
from service.runtime import Runtime

CROPS_PER_BATCH = 32
LINES_AT_ONCE = 1000
# One batch is decoded while another is embedded and a third is stored.
CONCURRENT_BATCHES = 4
# The first bytes of archives that are not read, and their names.
OTHER_ARCHIVES = {
    b"\x1f\x8b": "tar",
    b"BZh": "tar",
    b"\xfd7zXZ\0": "tar",
    b"LZIP": "tar",
    b"\x1f\x9d": "tar",
    b"Rar!\x1a\x07": "RAR",
    b"RE~^": "RAR",
    b"7z\xbc\xaf\x27\x1c": "7z",
    b"\x28\xb5\x2f\xfd": "Zstandard",
    b"\x04\x22\x4d\x18": "LZ4",
    b"MSCF\0\0\0\0": "cab",
    b"\x60\xea": "ARJ",
}
NO_PICTURE = CropProblem(
    "unreadable",
    "has no picture, and its vector is of another embedder than the gallery's; import it into a "
    "service that serves the model of the export",
)
NO_IMAGE = CropProblem("unreadable", "is no JPEG, PNG, WebP or BMP file; export it again")
FEWER_IMAGES = (
    "folder: has fewer images than when this import began, so some may be missing; import it "
    "again, nothing is stored twice"
)
COUNTS = ("total", "done", "landed", "duplicates", "refused", "ignored")


async def begin_import(
    runtime: Runtime,
    gallery: Gallery,
    parameters: Mapping[str, Any],
    archive: BinaryIO | None,
    key_id: str,
) -> Job:
    """Create the job that enrolls the images of an archive or folder.

    Raises:
        InvalidField: the folder does not exist or is outside the import directory.
        UnsupportedMediaType: the archive is of another kind than zip, such as tar.
        UnknownGallery, NeedsReindex: the gallery does not accept images.
        StorageFailed: the archive could not be stored.
    """
    # This refuses a gallery that needs a reindex now, not in the job.
    _ = gallery.embedder
    job_id = runner.new_job_id()
    run = runtime.pools.imports.run
    spool = runtime.settings.data_dir / IMPORTS / job_id
    try:
        with contextlib.ExitStack() as held:
            if archive is None:
                folder = str(parameters["folder"])
                await run(
                    mounted_folder, runtime.settings.import_dir, folder, parameters.get("gallery")
                )
            else:
                await run(_refuse_other_archives, archive)
                await runtime.sections.run(_keep_archive(runtime, spool, archive, held))
                failpoint("import.archive-kept")
            return await runtime.sections.run(
                runner.create_job(
                    runtime,
                    gallery,
                    "import",
                    parameters,
                    key_id,
                    job_id,
                    runtime.record.database.machine,
                )
            )
    except BaseException:
        await runtime.sections.run(runner.remove_files(runtime, job_id))
        # The record may have failed before the folder was noted in it.
        with contextlib.suppress(OSError):
            spool.rmdir()
        raise


async def run_import(runtime: Runtime, gallery: Gallery, job: Job) -> str | None:
    """Enroll the remaining images of an import.

    Raises:
        InputProblem: the archive or manifest is unusable, or the folder has lost images.
    """
    began = time.monotonic()
    counts = Counter({**dict.fromkeys(COUNTS, 0), **job.progress})
    content = await _read_content(runtime, job, counts)
    unchecked: str | None = None
    deletions = None
    if content.export is not None:
        is_accepted = bool(job.parameters.get("accept_undeleted"))
        unchecked = require_known_deletions(content.export, is_accepted)
        deletions = DeletedCrops(runtime.record.database.deletions)
        counts.setdefault("deleted", 0)
    # The folder may have more images than when this job began. With fewer, `done` would skip some.
    if content.count < counts["total"] and job.parameters.get("folder"):
        raise InvalidField(FEWER_IMAGES)
    offset = 0 if job.parameters.get("folder") else counts["total"] - content.count
    counts["total"] = offset + content.count
    if unchecked:
        counts["unchecked"] = counts["total"]
    items = islice(
        enumerate(content.read_items(counts["done"] - offset), counts["done"]),
        counts["total"] - counts["done"],
    )
    size = min(CROPS_PER_BATCH, runtime.settings.max_images_per_request)
    # The order of batches determines which crops a track keeps, and one thread at a time may use
    # the deletions.
    is_ordered = job.parameters.get("keep_best") or deletions
    at_once = 1 if is_ordered else CONCURRENT_BATCHES
    while group := await runtime.pools.imports.run(read_batches, items, size, at_once):
        enrolling = [
            _enroll_batch(runtime, gallery, job, content, deletions, batch) for batch in group
        ]
        problems: list[JobProblem] = []
        # Let all batches end before one fails the job.
        for outcome in await asyncio.gather(*enrolling, return_exceptions=True):
            if isinstance(outcome, BaseException):
                raise outcome
            added, more_problems = outcome
            counts.update(added)
            problems += more_problems
        await runner.save_job(runtime, job, dict(counts), problems)
        failpoint("import.progress-noted")
        await runner.yield_turn(runtime, job, began)
    if counts["done"] < counts["total"]:
        raise InvalidField(FEWER_IMAGES)
    remarks = [unchecked]
    if counts["ignored"]:
        ignored = counted(counts["ignored"], "file or column was", "files or columns were")
        remarks.insert(0, f"{ignored} ignored; the report names what")
    if counts["deleted"]:
        deleted = counted(counts["deleted"], "crop was", "crops were")
        remarks.insert(0, f"{deleted} deleted from this service and left out")
    return "; ".join(remark for remark in remarks if remark) or None


async def _read_content(runtime: Runtime, job: Job, counts: Counter[str]) -> ImportContent:
    spool = runtime.settings.data_dir / IMPORTS / job.job_id
    jobs = runtime.record.jobs
    between = runner.make_check(jobs, runtime.galleries, job)
    require_turn = runner.make_turn_check(jobs, job)
    content = await runtime.sections.run(
        runtime.pools.imports.run(read_import, runtime.settings, job, spool, between, require_turn)
    )
    left_out = content.left_out
    if not job.progress:
        # At the start of the job, list the files that were left out in its report.
        if not content.count and not left_out and content.vectors is None:
            raise InvalidField(
                "archive: holds no image; its files must end in .jpg, .png, .webp, .bmp"
                f"{content.ignored.remark()}"
            )
        counts["refused"] = counts["done"] = len(left_out)
        counts["total"] = len(left_out) + content.count
        counts["ignored"] = content.ignored.count
        problems = chain(
            _lines("not_unpacked", left_out, 0),
            _lines("ignored", content.ignored.lines(), counts["total"]),
        )
        # All lines in one commit would keep other writers waiting.
        for lines in batches(problems, LINES_AT_ONCE):
            await runner.save_job(runtime, job, problems=lines)
        await runner.save_job(runtime, job, dict(counts))
        if content.vectors is None or content.export is not None:
            # Until now, only the archive showed which of its files were left out.
            await runtime.pools.imports.run((spool / "archive").unlink, missing_ok=True)
    return content


def _lines(code: str, files: Sequence[LeftOut], first: int) -> Iterator[JobProblem]:
    for position, file in enumerate(files, first):
        yield JobProblem(position=position, source=file.name, code=code, detail=file.reason)


async def _enroll_batch(
    runtime: Runtime,
    gallery: Gallery,
    job: Job,
    content: ImportContent,
    deletions: DeletedCrops | None,
    batch: Sequence[NumberedItem],
) -> tuple[Counter[str], list[JobProblem]]:
    added = Counter(done=len(batch))
    problems: list[JobProblem] = []
    # The name ensures that the batch is enrolled once even if the process dies before saving it.
    first, _ = batch[0]
    last, _ = batch[-1]
    name: str | None = f"import:{job.job_id}:{first}-{last}"
    if deletions is not None:
        # The ids of the crops ensure that.
        name = None
        batch = await _leave_out(runtime, gallery, job, deletions, batch, added)
        if not batch:
            return added, problems
    max_bytes = runtime.settings.max_image_bytes
    files = await runtime.pools.imports.run(
        lambda: [
            read_file(content.folder, item.path, max_bytes, content.is_mounted) for _, item in batch
        ]
    )
    failpoint("import.files-read")
    vectors = content.vectors
    computed = None
    if content.export is not None and content.export.embedding_fingerprint != gallery.embedder:
        vectors = None
        files = [NO_PICTURE if file is None else file for file in files]
    if vectors is not None:
        rows = [item.row for _, item in batch]
        features = await runtime.pools.imports.run(vectors.read, rows)
        keep_metadata = runtime.settings.keep_metadata
        embedded = await runtime.pools.imports.run(
            lambda: [
                _as_embedded(feature, file, item, keep_metadata)
                for feature, file, (_, item) in zip(features, files, batch, strict=True)
            ]
        )
        computed = ComputedVectors(vectors.embedder, embedded)
    images = [
        ImageToEnroll(image=file, exported=item.exported, **labels_of(item.labels))
        for file, (_, item) in zip(files, batch, strict=True)
    ]
    keep_best = job.parameters.get("keep_best")
    answer, _ = await runner.wait_while_busy(
        lambda: runtime.enrollment.enroll(
            gallery, images, name, computed, keep_best, job.job_id, deletions
        )
    )
    failpoint("import.batch-landed")
    for outcome, (position, item) in zip(answer.results, batch, strict=True):
        if isinstance(outcome, RefusedImage):
            added["refused"] += 1
            left_out = LeftOut(content.name_of(item), outcome.problem.detail)
            problems += _lines(outcome.problem.code, [left_out], position)
        elif not outcome.kept:
            added["not_kept" if keep_best else "deleted"] += 1
        else:
            added["duplicates" if outcome.duplicate else "landed"] += 1
    return added, problems


def _as_embedded(
    feature: Floats, file: bytes | CropProblem | None, item: ImportItem, keep_metadata: bool
) -> Embedded:
    if isinstance(file, CropProblem):
        return file
    prepared = PreparedImage(item.sha256)
    if file is not None:
        content_type = find_content_type(file)
        if content_type is None:
            return NO_IMAGE
        try:
            picture = file if keep_metadata else strip_metadata(file)
        except CropProblem as problem:
            return problem
        sha256 = hashlib.sha256(picture).hexdigest()
        prepared = PreparedImage(item.sha256, picture, content_type, other_sha256=sha256)
    return EmbeddedImage(feature, decode=0.0, embed=0.0, prepared=prepared)


async def _leave_out(
    runtime: Runtime,
    gallery: Gallery,
    job: Job,
    deletions: DeletedCrops,
    batch: Sequence[NumberedItem],
    added: Counter[str],
) -> list[NumberedItem]:
    """Count the crops of an export that are not to be stored, and return the others.

    Their pictures are neither embedded nor written beside those of stored crops.
    """
    crop_ids = [item.exported.crop_id for _, item in batch if item.exported]
    find = runtime.record.crops.find_exported
    found = await runtime.galleries.read(find, gallery.gallery_id, crop_ids, job.job_id, deletions)
    added.update(found.values())
    return [
        (position, item)
        for position, item in batch
        if item.exported and item.exported.crop_id not in found
    ]


def _refuse_other_archives(archive: BinaryIO) -> None:
    start = archive.read(512)
    archive.seek(0)
    kind = next((kind for mark, kind in OTHER_ARCHIVES.items() if start.startswith(mark)), None)
    if start[257:262] == b"ustar":
        kind = "tar"
    if kind is not None:
        raise UnsupportedMediaType(
            f"archive: is a {kind} file, which is not read; unpack it, and send its files as a zip"
        )


async def _keep_archive(
    runtime: Runtime, spool: Path, archive: BinaryIO, held: contextlib.ExitStack
) -> None:
    """Store the archive of an import durably and hold its folder; raise `StorageFailed`."""

    def copy() -> None:
        with (spool / "archive").open("wb") as file:
            while part := archive.read(data_directory.MEBIBYTE):
                heartbeat()
                data_directory.require_free_disk(runtime.settings)
                file.write(part)
        # An acknowledged archive is not sent again, so it must survive a power cut.
        data_directory.sync_below(spool)

    run = runtime.pools.imports.run
    try:
        await run(data_directory.make_folder, spool)
        await run(held.enter_context, data_directory.hold(spool))
        # Hold the folder before noting it: a noted folder that is not held counts as abandoned.
        unneeded = f"{IMPORTS}/{spool.name}"
        await runtime.galleries.write(runtime.record.unneeded_files.add, [unneeded])
        await run(copy)
    except OSError as error:
        raise StorageFailed(
            f"the archive could not be kept ({error.strerror}); nothing was enrolled, free space "
            "in the data directory and send it again"
        ) from error
