"""Reindex: embed a gallery's kept crops with the loaded model, beside the old; switch at once."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from gmn_client.models import JobProblem
from model.crops.decode import CropProblem
from service.engine.pipeline import EmbeddedImage
from service.errors import DeviceFull, GalleryConflict, QueueFull
from service.gallery.gallery import Gallery
from service.jobs.jobs import CUT_OFF, Progress, create_job, new_job_id
from service.lifecycle.pictures import stored_picture
from service.ops.failpoints import CommitSteps, Failpoint, passed
from service.ops.pulse import beat
from service.record.job_records import Job
from service.record.records import StoredCrop
from service.runtime import Runtime

CROPS_PER_BATCH = 32
PATIENCE_SECONDS = 0.05
REINDEX = CommitSteps.of("reindex")


@dataclass(frozen=True)
class _Embedded:
    vectors: list[tuple[int, NDArray[np.float32]]]
    problems: list[JobProblem]


async def begin_reindex(runtime: Runtime, gallery: str) -> Job:
    """Begins to embed a gallery anew; a reindex under way is answered as it is.

    Raises:
        GalleryConflict: for a gallery that the loaded model filled.
        UnknownGallery: there is none of that name.
    """
    target, store = runtime.galleries.get(gallery), runtime.galleries.store
    under_way = await runtime.galleries.read(
        lambda: store.jobs.unfinished(target.gallery_id, "reindex")
    )
    if under_way is not None:
        return under_way
    if not target.outdated:
        raise GalleryConflict(
            f"gallery {gallery!r} holds vectors of the loaded model already; serve with another "
            "artefact to embed it anew"
        )
    parameters = {"from": target.embedding_fingerprint, "to": runtime.model.embedder}

    async def section() -> Job:
        async with runtime.audit.trail("begin_reindex", gallery=gallery):
            return await create_job(runtime, target, "reindex", parameters, new_job_id())

    return await runtime.sections.run(section)


async def run_reindex(
    runtime: Runtime, gallery: Gallery, job: Job, progress: Progress
) -> str | None:
    """Embeds what has no vector yet, until nothing is missing, then switches.

    Until then the old vectors are searched, where the model that made them is loaded too; crops
    that are enrolled meanwhile are embedded by both.

    Raises:
        GalleryConflict: where crops cannot be embedded, or another process's model is wanted;
            nothing was switched.
        Cancelled: where somebody asked it to stop.
    """
    store, newest = runtime.galleries.store, runtime.model.embedder
    if not gallery.outdated:
        if job.parameters.get("to", newest) != newest:
            raise GalleryConflict(
                "this reindex leads to another model than the process serves that took it up; let "
                "every process on the record serve the same artefact, and reindex again"
            )
        return "the gallery holds vectors of the loaded model already"
    await runtime.galleries.write(lambda: store.staged.begin(gallery.gallery_id, newest))
    passed(Failpoint.REINDEX__BEGUN)
    try:
        failed = 0
        while True:
            failed += await _embed_missing(runtime, gallery, progress)
            if failed:
                raise GalleryConflict(
                    f"{failed} crops cannot be embedded anew, GET /v1/jobs/{job.job_id}/report "
                    "names them; delete them and reindex again, nothing was switched"
                )
            if await _switch(runtime, gallery):
                return None
    except CUT_OFF:
        # Whoever goes on needs what is embedded already.
        raise
    except BaseException:
        await runtime.galleries.write(lambda: store.staged.drop(gallery.gallery_id))
        raise


async def _embed_missing(runtime: Runtime, gallery: Gallery, progress: Progress) -> int:
    """Embeds every crop that has no vector of the newest model; answers how many cannot be."""
    staged, number = runtime.galleries.store.staged, gallery.gallery_id
    size = min(CROPS_PER_BATCH, runtime.settings.max_images_per_request)
    after, failed = 0, 0
    while True:
        crops = await runtime.galleries.read(partial(staged.missing, number, after, size))
        if not crops:
            return failed
        after = crops[-1].row_id
        embedded = await _embed(runtime, gallery, crops)
        failed += len(embedded.problems)
        passed(Failpoint.REINDEX__BATCH_EMBEDDED)
        await runtime.galleries.write(partial(staged.add, number, embedded.vectors))
        passed(Failpoint.REINDEX__BATCH_KEPT)
        done = await runtime.galleries.read(partial(staged.count, number))
        counts = {"total": max(done, gallery.crops), "done": done, "refused": failed}
        await progress.note(counts, embedded.problems)


async def _embed(runtime: Runtime, gallery: Gallery, crops: Sequence[StoredCrop]) -> _Embedded:
    pictures = await runtime.galleries.read(
        lambda: [stored_picture(runtime, gallery.gallery_id, crop) for crop in crops]
    )
    found = [(crop, picture) for crop, picture in zip(crops, pictures, strict=True) if picture]
    without = [crop for crop, picture in zip(crops, pictures, strict=True) if picture is None]
    store, rows = runtime.galleries.store, [crop.row_id for crop in without]
    # A crop that was deleted meanwhile has lost its picture with it, and needs none.
    there = await runtime.galleries.read(lambda: store.crops.by_row(gallery.gallery_id, rows))
    problems = [
        _problem(
            crop,
            "unknown_picture",
            "its picture was not kept" if crop.content_type is None else "its picture is missing",
        )
        for crop in without
        if crop.row_id in there
    ]
    vectors: list[tuple[int, NDArray[np.float32]]] = []
    outcomes = await _embed_patiently(runtime, [picture.content for _, picture in found])
    for (crop, _), outcome in zip(found, outcomes, strict=True):
        if isinstance(outcome, EmbeddedImage):
            vectors.append((crop.row_id, outcome.vector))
        else:
            problems.append(_problem(crop, outcome.code, outcome.detail))
    return _Embedded(vectors, problems)


def _problem(crop: StoredCrop, code: str, detail: str) -> JobProblem:
    return JobProblem(position=crop.row_id, source=crop.crop_id, code=code, detail=detail)


async def _embed_patiently(
    runtime: Runtime, images: Sequence[bytes]
) -> list[EmbeddedImage | CropProblem]:
    """A reindex waits for its turn where a client would be told to come back."""
    while True:
        try:
            with runtime.admission.places(len(images)):
                return await runtime.pipeline.embed(images)
        except (QueueFull, DeviceFull):
            beat()
            await asyncio.sleep(PATIENCE_SECONDS)


async def _switch(runtime: Runtime, gallery: Gallery) -> bool:
    """Goes over to the new vectors; False where a crop came in that has none yet."""
    staged = runtime.galleries.store.staged
    switched = await runtime.galleries.replace(
        REINDEX, gallery, lambda: staged.switch(gallery.gallery_id)
    )
    return switched is not None
