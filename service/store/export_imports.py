"""Imports of exports: crops with their ids, labels, vectors and pictures, batch by batch."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gmn_client.models import JobProblem
from model.crops.decode import CropProblem
from model.wording import counted
from service.engine.admission import Admission
from service.engine.device import Embedded
from service.engine.images import Pipeline
from service.engine.networks import LoadedModel
from service.errors import InvalidField
from service.gallery.enroll import store_crops
from service.gallery.gallery import Gallery
from service.jobs import runner
from service.jobs.import_files import make_check
from service.ops.data_directory import MEBIBYTE, failpoint, require_free_disk
from service.record.deletions import KEPT_FOR, DeletedCrops
from service.record.jobs import Job
from service.record.values import ArchivedCrop, CommittedEnrollment
from service.runtime import Runtime
from service.store.export_files import SentCrop, SentExport
from service.store.export_rows import ExportDescription

VECTORS_PER_BATCH = 256
IMAGES_PER_BATCH = 32
# Pictures of a batch are in memory; a batch ends with the one that reaches this size.
MAX_BATCH_BYTES = 32 * MEBIBYTE
COUNTS = ("total", "done", "landed", "duplicates", "refused", "deleted")
NAMED_BY_EXPORT = ("identity", "camera", "manifest", "keep_best")


async def import_export(runtime: Runtime, gallery: Gallery, job: Job, archive: Path) -> str | None:
    """Store the remaining crops of an export.

    Vectors of the gallery's embedder are stored as they are; otherwise the pictures are embedded.

    Raises:
        InvalidField: the export is damaged, too old, or its vectors cannot be used; before the
            first crop is stored.
    """
    for name in NAMED_BY_EXPORT:
        if job.parameters.get(name):
            raise InvalidField(f"{name}: an export names its crops itself; leave it out")
    run = runtime.pools.imports.run
    between = make_check(runtime.record.jobs, runtime.galleries, job)
    with contextlib.closing(await run(SentExport, archive)) as export:
        description = export.description
        remark = _require_known_deletions(description, bool(job.parameters.get("accept_undeleted")))
        progress = dict(job.progress)
        if "done" not in progress:
            await _check(runtime, job, export, progress, between)
            failpoint("export-import.checked")
        has_vectors = description.embedding_fingerprint == gallery.embedder
        model = runtime.models[gallery.embedder]
        _require_usable(model, gallery.name, description, has_vectors)
        counts = Counter({**dict.fromkeys(COUNTS, 0), **progress})
        counts["total"] = description.crops
        await runner.save_job(runtime, job, dict(counts))
        size = VECTORS_PER_BATCH if has_vectors else IMAGES_PER_BATCH
        batches = _split(export.crops(counts["done"]), size)
        deletions = DeletedCrops(runtime.record.database.deletions)
        began: float | None = None
        while batch := await run(next, batches, None):
            # Passing over the crops of earlier turns is no part of this one.
            began = began or time.monotonic()
            problems = await _store_batch(
                runtime, gallery, job, export, batch, has_vectors, deletions, counts
            )
            await runner.save_job(runtime, job, dict(counts), problems)
            await runner.yield_turn(runtime, job, began)
    if counts["deleted"]:
        deleted = counted(counts["deleted"], "crop was", "crops were")
        left_out = f"{deleted} deleted from this service and left out"
        remark = f"{left_out}; {remark}" if remark else left_out
    return remark


async def _check(
    runtime: Runtime,
    job: Job,
    export: SentExport,
    progress: dict[str, Any],
    between: Callable[[], None],
) -> None:
    """Check an export before anything of it is stored, part by part, and save the progress."""
    settings = runtime.settings
    parts = export.check(
        settings.max_import_bytes, settings.max_image_bytes, progress.get("checked"), between
    )
    progress["total"] = export.description.crops
    began: float | None = None
    while (checked := await runtime.pools.imports.run(next, parts, None)) is not None:
        # Passing over the crops of earlier turns is no part of this one.
        began = began or time.monotonic()
        progress["checked"] = checked
        await runner.save_job(runtime, job, progress)
        failpoint("export-import.part-checked")
        await runner.yield_turn(runtime, job, began)


def _require_known_deletions(description: ExportDescription, accepted: bool) -> str | None:
    """Raise `InvalidField` if crops may have been deleted before the first known deletion."""
    known_from = datetime.now(UTC) - KEPT_FOR
    if description.created_at >= known_from:
        return None
    unknown = (
        f"the export is from {description.created_at:%Y-%m-%d}, and deletions are known from "
        f"{known_from:%Y-%m-%d} on: who was forgotten in between may come back"
    )
    if not accepted:
        raise InvalidField(
            f"accept_undeleted: {unknown}; make a new export, or send accept_undeleted=true"
        )
    return unknown


def _require_usable(
    model: LoadedModel, gallery: str, description: ExportDescription, has_vectors: bool
) -> None:
    dimension = model.networks.dimension
    if has_vectors and description.crops and description.dimension != dimension:
        raise InvalidField(
            f"archive: its vectors have {description.dimension:,} numbers, and those of gallery "
            f"{gallery!r} ({model.name}) have {dimension:,}; make the export again"
        )
    without = description.crops - description.pictures
    if not has_vectors and without:
        raise InvalidField(
            f"archive: its vectors are of embedder {description.embedding_fingerprint[:12]}…, and "
            f"gallery {gallery!r} takes those of {model.embedder[:12]}… ({model.name}); "
            f"{counted(without, 'crop has', 'crops have')} no picture to embed again, so import it "
            "into a service that serves the model of the export"
        )


def _split(crops: Iterable[SentCrop], most: int) -> Iterator[list[SentCrop]]:
    """Split crops into batches of at most so many crops, and of about `MAX_BATCH_BYTES`."""
    batch: list[SentCrop] = []
    batch_bytes = 0
    for crop in crops:
        batch.append(crop)
        batch_bytes += crop.picture.bytes if crop.picture else 0
        if len(batch) == most or batch_bytes >= MAX_BATCH_BYTES:
            yield batch
            batch = []
            batch_bytes = 0
    if batch:
        yield batch


async def _store_batch(
    runtime: Runtime,
    gallery: Gallery,
    job: Job,
    export: SentExport,
    batch: Sequence[SentCrop],
    has_vectors: bool,
    deletions: DeletedCrops,
    counts: Counter[str],
) -> list[JobProblem]:
    """Store a batch, add its outcomes to the counts, and return its problems."""
    require_free_disk(runtime.settings)
    crop_ids = [sent.crop.record.crop_id for sent in batch]
    # Pictures of other crops are neither embedded nor written beside those of stored crops.
    missing = await runtime.galleries.read(
        runtime.record.crops.missing_among, gallery.gallery_id, crop_ids, deletions
    )
    wanted = [sent for sent in batch if sent.crop.record.crop_id in missing]
    others = [sent.crop for sent in batch if sent.crop.record.crop_id not in missing]
    crops = await runtime.pools.imports.run(export.read_pictures, wanted)
    problems: list[JobProblem] = []
    embedder = gallery.embedder
    if not has_vectors:
        pipeline = runtime.models[embedder].pipeline
        embedded = await _embed(runtime.admission, pipeline, crops)
        positions = {crop_id: number for number, crop_id in enumerate(crop_ids, counts["done"])}
        for crop, outcome in zip(crops, embedded, strict=True):
            if isinstance(outcome, CropProblem):
                crop_id = crop.record.crop_id
                problems.append(
                    JobProblem(
                        position=positions[crop_id],
                        source=crop_id,
                        code=outcome.code,
                        detail=outcome.detail,
                    )
                )
        crops = list(_with_vectors(crops, embedded))

    async def commit(crops: Sequence[ArchivedCrop]) -> CommittedEnrollment:
        enroll = runtime.record.crops.enroll_exported
        return await runtime.galleries.change(
            "enroll",
            gallery,
            lambda gallery_id: enroll(gallery_id, embedder, crops, job.job_id, deletions),
        )

    store = store_crops(runtime, gallery, [*crops, *others], commit)
    committed = await runtime.sections.run(store)
    failpoint("export-import.batch-stored")
    duplicates = sum(crop.duplicate for crop in committed.landed)
    counts.update(
        done=len(batch),
        landed=len(committed.landed) - duplicates,
        duplicates=duplicates,
        refused=len(problems),
        deleted=committed.deleted,
    )
    return problems


async def _embed(
    admission: Admission, pipeline: Pipeline, crops: Sequence[ArchivedCrop]
) -> Sequence[Embedded]:
    files = [crop.picture or b"" for crop in crops]

    async def embed() -> Sequence[Embedded]:
        async with admission.admit(pipeline.cost(files)):
            return await pipeline.embed(files)

    return await runner.wait_while_busy(embed) if files else []


def _with_vectors(
    crops: Sequence[ArchivedCrop], embedded: Sequence[Embedded]
) -> Iterator[ArchivedCrop]:
    for crop, outcome in zip(crops, embedded, strict=True):
        if not isinstance(outcome, CropProblem):
            yield replace(crop, vector=outcome.vector)
