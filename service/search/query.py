"""Query: rank a gallery by likeness to one person, by image or by a crop that it holds."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from gmn_client.models import QueryAnswer, SeparateAnswers, Timing
from model.crops.decode import CropProblem
from model.problems import InputProblem
from service.engine.batcher import EmbeddedImage
from service.errors import UnknownCrop, UnusableImages, refused_image
from service.gallery.gallery import Gallery
from service.runtime import Runtime
from service.search.calibration import CurrentCalibration
from service.search.options import QueryOptions
from service.search.ranking import Ranking, rank
from service.settings import QualityPolicy

# Where many crops were deleted that memory still shows, each search asks for more of them.
ROUNDS = 6
DEEPER = 4


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
    (answer,) = await _query(runtime, gallery, [images], options, sample and len(images) == 1)
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

    Raises:
        UnknownGallery, NeedsReindex, InvalidField, QueueFull: nothing was searched.
    """
    answers = await _query(runtime, gallery, [[image] for image in images], options, sample)
    return SeparateAnswers(
        results=[refused_image(one[0]) if isinstance(one, list) else one for one in answers]
    )


async def query_by_crop(
    runtime: Runtime, gallery: Gallery, crop_id: str, options: QueryOptions
) -> QueryAnswer:
    """More like a crop of this gallery, which is itself left out.

    Raises:
        UnknownGallery, UnknownCrop, NeedsReindex, InvalidField, QueueFull: nothing was
            searched.
    """
    began = time.perf_counter()

    def search(deeper: QueryOptions, without: frozenset[int]) -> Ranking:
        table = gallery.index.table
        row = table.row_of(crop_id)
        if row is None:
            raise UnknownCrop(gallery.name, crop_id)
        label = table.label(row)
        ranking = rank(
            gallery,
            runtime.calibrations.current(gallery, options.scoring),
            table.vectors[np.array([row])],
            deeper,
            deeper.filter(label.camera, without | {label.row_id}),
        )
        return replace(ranking, asked=label)

    with runtime.admission.image_slots(1):
        asked = time.perf_counter()
        ranking = await drop_deleted_results(runtime, gallery, options, search)
    return _answer(ranking, began, asked)


async def drop_deleted_results(
    runtime: Runtime,
    gallery: Gallery,
    options: QueryOptions,
    search: Callable[[QueryOptions, frozenset[int]], Ranking],
) -> Ranking:
    """Searches on the device thread until no result is a crop that another process deleted.

    Each further search leaves out what was deleted: a deleted crop neither takes a place nor lets a
    farther one miss its own. Where the record does not answer, the ranking is of memory and stale.

    Raises:
        UnknownGallery: the gallery was deleted.
        UnknownCrop: the crop that was asked about was.
    """
    gone: frozenset[int] = frozenset()
    places = options.top_k
    for _ in range(ROUNDS):
        deeper = options.model_copy(update={"top_k": places})
        ranking = await asyncio.wrap_future(runtime.device.submit(search, deeper, gone))
        asked = [ranking.asked] if ranking.asked else []
        found = await runtime.galleries.confirm(gallery, [*ranking.labels, *asked])
        if ranking.asked and ranking.asked.row_id in found.gone:
            raise UnknownCrop(gallery.name, ranking.asked.crop_id)
        gone |= found.gone
        if not found.gone:
            break
        places *= DEEPER
    if gone:
        shown = zip(ranking.results, ranking.labels, strict=True)
        kept = [one for one, label in shown if label.row_id not in gone][: options.top_k]
        results = [one.model_copy(update={"rank": rank}) for rank, one in enumerate(kept, 1)]
        ranking = replace(ranking, results=results)
    return replace(ranking, stale=found.stale)


class _Switched(InputProblem):
    """The gallery went over to another embedder between the embedding and the search.

    Nothing failed: the device thread logs no `InputProblem`, and the query is embedded again.
    """


async def _query(
    runtime: Runtime,
    gallery: Gallery,
    queries: Sequence[Sequence[bytes]],
    options: QueryOptions,
    sample: bool,
) -> list[QueryAnswer | list[CropProblem]]:
    """Answers queries of one or several images each, by one model and one calibration.

    A query without a usable image is answered by the problems of its images.
    """
    began = time.perf_counter()
    sample = sample and gallery.settings.calibration == "on"
    with runtime.admission.image_slots(sum(map(len, queries))):
        while True:
            current = runtime.calibrations.current(gallery, options.scoring)
            ask = partial(_query_once, runtime, gallery, current, options, sample, began)
            with contextlib.suppress(_Switched):
                return await asyncio.gather(*map(ask, queries))


async def _query_once(
    runtime: Runtime,
    gallery: Gallery,
    current: CurrentCalibration,
    options: QueryOptions,
    sample: bool,
    began: float,
    images: Sequence[bytes],
) -> QueryAnswer | list[CropProblem]:
    # A query is answered also where its images are poor.
    quality: QualityPolicy = "off" if runtime.settings.quality == "off" else "warn"
    outcomes = await current.model.pipeline.embed(images, quality)
    usable = [one for one in outcomes if isinstance(one, EmbeddedImage)]
    problems = [one for one in outcomes if isinstance(one, CropProblem)]
    if not usable:
        return problems
    asked = time.perf_counter()

    def search(deeper: QueryOptions, without: frozenset[int]) -> Ranking:
        if gallery.embedder != current.model.embedder:
            raise _Switched
        vectors = np.stack([image.vector for image in usable])
        wanted = deeper.filter(deeper.camera, without)
        return rank(gallery, current, vectors, deeper, wanted, sample)

    ranking = await drop_deleted_results(runtime, gallery, options, search)
    for problem in problems:
        runtime.metrics.problems.labels(problem.code).inc()
    if ranking.sample is not None:
        place = gallery.gallery_id, current.subject
        runtime.calibrations.record_search_scores(place, usable[0].vector, ranking.sample)
    return _answer(ranking, began, asked, usable, _warnings(outcomes))


def _answer(
    ranking: Ranking,
    began: float,
    asked: float,
    images: Sequence[EmbeddedImage] = (),
    warnings: Sequence[str] = (),
) -> QueryAnswer:
    """The answer of a ranking that was asked for at `asked`, by the times of the slowest image."""
    seconds = {
        "decode": max((image.decode for image in images), default=0.0),
        "queue": max((image.queue for image in images), default=0.0) + ranking.began - asked,
        "embed": max((image.embed for image in images), default=0.0),
        "search": ranking.search_seconds,
        "rerank": ranking.rerank_seconds,
        "total": time.perf_counter() - began,
    }
    return QueryAnswer(
        gallery_version=ranking.gallery_version,
        calibration_version=str(ranking.calibration.version),
        calibration=ranking.calibration,
        model=ranking.current.model.description.artefact_fingerprint,
        scoring=ranking.current.scoring,
        verdict=ranking.verdict,
        warnings=list(warnings),
        results=list(ranking.results),
        candidates_scored=ranking.candidates_scored,
        timing_ms=Timing(**{stage: value * 1e3 for stage, value in seconds.items()}),
        stale=ranking.stale,
    )


def _warnings(images: Sequence[EmbeddedImage | CropProblem]) -> list[str]:
    """The faults of images, and which cannot be used; of several each is named by its place."""
    warnings: list[str] = []
    for number, one in enumerate(images, 1):
        image = f"image {number}: " if len(images) > 1 else ""
        if isinstance(one, CropProblem):
            warnings.append(f"{image}left out of the search: {one.detail}")
        else:
            warnings += [f"{image}{fault.detail}" for fault in one.faults]
    return warnings
