"""Query: rank a gallery by likeness to one person, by image or by a crop that it holds."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from gmn_client.models import QueryAnswer, SeparateAnswers, Timing
from model.crops.decode import CropProblem
from service.engine.batcher import EmbeddedImage
from service.errors import UnknownCrop, UnusableImages, refused_image
from service.gallery.gallery import Gallery
from service.runtime import Runtime
from service.search.options import QueryOptions
from service.search.ranking import Ranking, Search
from service.settings import QualityPolicy

# Where many crops were deleted that memory still shows, each search looks at more of them.
ROUNDS = 6
DEEPER = 4
# What one query by images comes to: None where the gallery went over to another embedder meanwhile,
# so that the images are embedded again.
Outcome = QueryAnswer | list[CropProblem] | None


async def query_by_images(
    runtime: Runtime,
    gallery: Gallery,
    images: Sequence[bytes],
    options: QueryOptions,
    sample: bool = True,
) -> QueryAnswer:
    """One query by one or several images of one person; a score is the mean over the images.

    An image that cannot be used is left out, and `warnings` names it. With `sample` the search
    counts for the gallery's calibration.

    Raises:
        UnusableImages: every image is.
        UnknownGallery, NeedsReindex, InvalidField, QueueFull: nothing was searched.
    """
    began = time.perf_counter()
    answer: Outcome = None
    with runtime.admission.image_slots(len(images)):
        while answer is None:
            search = _begin(runtime, gallery, options, sample and len(images) == 1)
            answer = await _query(runtime, search, images, began)
    if isinstance(answer, list):
        raise UnusableImages(answer)
    return answer


async def query_each(
    runtime: Runtime,
    gallery: Gallery,
    images: Sequence[bytes],
    options: QueryOptions,
    sample: bool = True,
) -> SeparateAnswers:
    """One answer per image, in order, by one calibration; a bad image is its own problem.

    Where one fails for another reason the others are cancelled.

    Raises:
        UnknownGallery, NeedsReindex, InvalidField, QueueFull: nothing was searched.
    """
    began = time.perf_counter()
    answers: list[Outcome] = [None]
    with runtime.admission.image_slots(len(images)):
        while None in answers:
            search = _begin(runtime, gallery, options, sample)
            try:
                async with asyncio.TaskGroup() as group:
                    queries = [
                        group.create_task(_query(runtime, search, [image], began))
                        for image in images
                    ]
            except ExceptionGroup as failed:
                raise failed.exceptions[0] from None
            answers = [query.result() for query in queries]
    return SeparateAnswers(
        results=[refused_image(one[0]) if isinstance(one, list) else one for one in answers if one]
    )


async def query_by_crop(
    runtime: Runtime, gallery: Gallery, crop_id: str, options: QueryOptions
) -> QueryAnswer:
    """More like a crop of this gallery, which is itself left out.

    Raises:
        UnknownGallery, UnknownCrop, NeedsReindex, InvalidField, QueueFull: nothing was
            searched.
    """
    began = submitted = time.perf_counter()
    ranking: Ranking | None = None
    with runtime.admission.image_slots(1):
        while ranking is None:
            search = replace(_begin(runtime, gallery, options, sample=False), crop_id=crop_id)
            submitted = time.perf_counter()
            ranking = await run_search(runtime, search)
    return _answer(ranking, began, submitted)


async def run_search(runtime: Runtime, search: Search) -> Ranking | None:
    """Searches on the device thread until no result is a crop that another process deleted.

    Each further search leaves out what was deleted: a deleted crop neither takes a place nor lets a
    farther one miss its own. Where the record does not answer, the ranking is of memory and stale.

    Returns:
        None where the gallery went over to another embedder since the search began.

    Raises:
        UnknownGallery: the gallery was deleted.
        UnknownCrop: the crop of the query was.
    """
    gone: frozenset[int] = frozenset()
    top_k = places = search.options.top_k
    rounds = 0
    while True:
        ranking = await runtime.device.run(search.run, places, gone)
        if ranking is None:
            return None
        crop = ranking.query_crop
        labels = [*ranking.labels, crop] if crop else ranking.labels
        found = await runtime.galleries.confirm(search.gallery, labels)
        if crop and crop.row_id in found.gone:
            raise UnknownCrop(search.gallery.name, crop.crop_id)
        gone |= found.gone
        rounds += 1
        if not found.gone or rounds == ROUNDS:
            break
        places *= DEEPER
    if gone:
        shown = zip(ranking.results, ranking.labels, strict=True)
        kept = [one for one, label in shown if label.row_id not in gone][:top_k]
        results = [one.model_copy(update={"rank": rank}) for rank, one in enumerate(kept, 1)]
        ranking = replace(ranking, results=results)
    return replace(ranking, stale=True) if found.stale else ranking


def _begin(runtime: Runtime, gallery: Gallery, options: QueryOptions, sample: bool) -> Search:
    """A search by the model and the calibration of this moment."""
    current = runtime.calibrations.current(gallery, options.scoring)
    sample = sample and gallery.settings.calibration == "on"
    return Search(gallery, current, options, sample=sample)


async def _query(
    runtime: Runtime, search: Search, images: Sequence[bytes], began: float
) -> Outcome:
    """Answers one query by images; where none is usable, their problems are the answer."""
    # A query is answered also where its images are poor.
    quality: QualityPolicy = "off" if runtime.settings.quality == "off" else "warn"
    outcomes = await search.current.model.pipeline.embed(images, quality)
    usable: list[EmbeddedImage] = []
    problems: list[CropProblem] = []
    warnings: list[str] = []
    for number, one in enumerate(outcomes, 1):
        name = f"image {number}: " if len(images) > 1 else ""
        if isinstance(one, CropProblem):
            problems.append(one)
            warnings.append(f"{name}left out of the search: {one.detail}")
        else:
            usable.append(one)
            for fault in one.faults:
                warnings.append(f"{name}{fault.detail}")
    if not usable:
        return problems
    submitted = time.perf_counter()
    queries = np.stack([image.vector for image in usable])
    ranking = await run_search(runtime, replace(search, queries=queries))
    if ranking is None:
        return None
    for problem in problems:
        runtime.metrics.problems.labels(problem.code).inc()
    if ranking.sample is not None:
        place = search.gallery.gallery_id, search.current.subject
        runtime.calibrations.record_search_scores(place, usable[0].vector, ranking.sample)
    return _answer(ranking, began, submitted, usable, warnings)


def _answer(
    ranking: Ranking,
    began: float,
    submitted: float,
    images: Sequence[EmbeddedImage] = (),
    warnings: Sequence[str] = (),
) -> QueryAnswer:
    """The answer of a ranking that was submitted then, by the times of the slowest image."""
    best = ranking.results[0] if ranking.results else None
    decode = queue = embed = 0.0
    for image in images:
        decode, queue = max(decode, image.decode), max(queue, image.queue)
        embed = max(embed, image.embed)
    return QueryAnswer(
        gallery_version=ranking.gallery_version,
        calibration_version=str(ranking.calibration.version),
        calibration=ranking.calibration,
        model=ranking.current.model.description.artefact_fingerprint,
        scoring=ranking.current.scoring,
        verdict=(best.verdict or "no_match") if best else "nothing_searched",
        warnings=list(warnings),
        results=list(ranking.results),
        candidates_scored=ranking.candidates_scored,
        timing_ms=Timing(
            decode=decode * 1e3,
            queue=(queue + ranking.began - submitted) * 1e3,
            embed=embed * 1e3,
            search=ranking.search_seconds * 1e3,
            rerank=ranking.rerank_seconds * 1e3,
            total=(time.perf_counter() - began) * 1e3,
        ),
        stale=ranking.stale,
    )
