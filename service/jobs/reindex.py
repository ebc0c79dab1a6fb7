"""Reindex: embed a gallery's stored crops with the loaded model, then switch to the new vectors."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

from gmn_client.models import JobProblem
from model.crops.decode import CropProblem
from model.wording import counted
from service.engine.device import EmbeddedImage
from service.errors import GalleryConflict, ServiceError
from service.gallery.gallery import Gallery
from service.jobs.import_files import BYTES_PER_BATCH
from service.jobs.runner import RETRYABLE, create_job, save_job, wait_while_busy, yield_turn
from service.ops.data_directory import failpoint
from service.record.jobs import Job
from service.record.values import StoredCrop
from service.record.vectors import Vector
from service.runtime import Runtime

CROPS_PER_BATCH = 32
# Upper bound on the damaged crops that are named.
MOST_NAMED = 10
UP_TO_DATE = "the gallery already has vectors of the loaded model"


async def begin_reindex(runtime: Runtime, gallery: Gallery, key_id: str) -> Job:
    """Create the job that reindexes a gallery, or return the unfinished one.

    Raises:
        GalleryConflict: the gallery already has vectors of the loaded model.
        UnknownGallery: the gallery was just deleted.
    """
    unfinished = runtime.record.jobs.unfinished
    running = await runtime.galleries.read(unfinished, gallery.gallery_id, "reindex")
    if running is not None:
        return running
    if not gallery.outdated:
        raise GalleryConflict(
            f"gallery {gallery.name!r} already has vectors of the loaded model; serve "
            "another artefact to embed it again"
        )
    parameters = {"from": gallery.embedding_fingerprint, "to": runtime.model.embedder}
    return await runtime.audited.run(
        "begin_reindex",
        lambda _: create_job(runtime, gallery, "reindex", parameters, key_id),
        gallery=gallery.name,
    )


async def run_reindex(runtime: Runtime, gallery: Gallery, job: Job) -> str | None:
    """Embed crops that have no new vector, then switch; raise `GalleryConflict`."""
    began = time.monotonic()
    store = runtime.record
    newest = runtime.model.embedder
    if not gallery.outdated:
        if job.parameters.get("to", newest) != newest:
            raise GalleryConflict(
                "this reindex leads to another model than the one that this process serves; let "
                "every process on the record serve the same artefact, and reindex again"
            )
        return UP_TO_DATE
    try:
        while gallery.outdated:
            # Start again in each round, because a restore drops the staged vectors.
            await runtime.galleries.write(store.staged.begin, gallery.gallery_id, newest)
            failpoint("reindex.begun")
            await _embed_missing(runtime, gallery, job, began)
            switched = runtime.galleries.change("reindex", gallery, store.staged.switch)
            if await switched is not None:
                return None
            # A crop was enrolled that has no new vector yet.
        # A restore brought crops of the loaded model, or all crops were deleted.
        return UP_TO_DATE
    finally:
        # The process that resumes the job will use the staged vectors.
        if not isinstance(sys.exception(), RETRYABLE):
            await runtime.galleries.write(store.staged.begin, gallery.gallery_id, None)


async def _embed_missing(runtime: Runtime, gallery: Gallery, job: Job, began: float) -> None:
    """Embed crops that have no vector of the newest model.

    Args:
        began: beginning of the turn, by `time.monotonic`.

    Raises:
        GalleryConflict: some cannot be embedded.
        TurnOver: the next turn embeds the others.
    """
    staged = runtime.record.staged
    gallery_id = gallery.gallery_id
    size = min(CROPS_PER_BATCH, runtime.settings.max_images_per_request)
    read = runtime.galleries.read
    after = 0
    failed = 0
    while crops := await read(staged.missing, gallery_id, after, size):
        after = crops[-1].slot
        vectors, problems = await _embed(runtime, gallery, crops)
        failed += len(problems)
        failpoint("reindex.batch-embedded")
        await runtime.galleries.write(staged.add, gallery_id, vectors)
        failpoint("reindex.batch-kept")
        entry = await read(runtime.record.galleries.get, gallery_id)
        done = entry.staged_crops if entry else 0
        counts = {"total": max(done, gallery.crops), "done": done, "refused": failed}
        await save_job(runtime, job, counts, problems)
        await yield_turn(runtime, job, began)
    if failed:
        raise GalleryConflict(
            f"{counted(failed, 'crop')} could not be embedded, "
            f"GET /v1/jobs/{job.job_id}/report names what to delete; then reindex again, "
            "nothing was switched"
        )
    if damaged := (await read(runtime.record.damaged_crops)).get(gallery_id):
        named = ", ".join(damaged[:MOST_NAMED])
        raise GalleryConflict(
            f"{counted(len(damaged), 'damaged crop was', 'damaged crops were')} left out: {named}; "
            "delete what is named and reindex again, nothing was switched"
        )


async def _embed(
    runtime: Runtime, gallery: Gallery, crops: Sequence[StoredCrop]
) -> tuple[dict[int, Vector], list[JobProblem]]:
    images: list[tuple[StoredCrop, bytes]] = []
    vectors: dict[int, Vector] = {}
    problems: list[JobProblem] = []

    def refuse(crop: StoredCrop, code: str, detail: str) -> None:
        problem = JobProblem(position=crop.slot, source=crop.crop_id, code=code, detail=detail)
        problems.append(problem)

    async def embed() -> list[EmbeddedImage | CropProblem]:
        pipeline = runtime.model.pipeline
        files = [content for _, content in images]
        async with runtime.admission.admit(pipeline.cost(files)):
            return await pipeline.embed(files)

    async def embed_images() -> None:
        for (crop, _), outcome in zip(images, await wait_while_busy(embed), strict=True):
            if isinstance(outcome, EmbeddedImage):
                vectors[crop.slot] = outcome.vector
            else:
                refuse(crop, outcome.code, outcome.detail)
        images.clear()

    for crop in crops:
        try:
            picture = await runtime.pictures.read(gallery.gallery_id, crop)
        except RETRYABLE:
            raise
        except ServiceError as error:
            refuse(crop, error.code, "its picture is damaged")
            continue
        by_slot = runtime.record.crops.by_slot
        if picture is not None:
            images.append((crop, picture.content))
            if sum(len(content) for _, content in images) >= BYTES_PER_BATCH:
                await embed_images()
        # A crop deleted in the meantime has no picture either, which is not a problem.
        elif await runtime.galleries.read(by_slot, gallery.gallery_id, [crop.slot]):
            missing = "was not kept" if crop.content_type is None else "is missing"
            refuse(crop, "unknown_picture", f"its picture {missing}")
    await embed_images()
    return vectors, problems
