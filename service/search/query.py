"""Query: rank a gallery by likeness to one person, by image or by a crop that it holds."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from operator import attrgetter

import numpy as np
from numpy.typing import NDArray

from gmn_client.models import QueryAnswer, RefusedImage, Timing
from model.crops.decode import CropProblem
from model.crops.frames import ImageFile
from service.engine.batcher import EmbeddedImage
from service.engine.cost import search_cost
from service.engine.device import DeviceThread
from service.engine.images import Prepare
from service.engine.networks import LoadedModel
from service.errors import InvalidField, UnknownCrop, UnknownGallery, UnusableImages, refused_image
from service.gallery.gallery import Gallery
from service.runtime import Runtime
from service.search.options import QueryOptions
from service.search.ranking import Proposal, Ranking, Search
from service.settings import QualityPolicy

# Where many crops were deleted that memory still shows, each search looks at more of them.
ROUNDS = 6
DEEPER = 4
# Ten times what the largest features need; a longer text would keep the event loop.
MOST_CHARACTERS = 512 * 1024


async def run_query(
    runtime: Runtime,
    gallery: Gallery,
    images: Sequence[ImageFile],
    options: QueryOptions,
    sample: bool = True,
    began: float | None = None,
    prepare: Prepare | None = None,
) -> list[QueryAnswer | RefusedImage]:
    """One answer by images of one person, by a crop or by a vector; or one for each image.

    A score is the mean over the images. An image that cannot be used is left out, and `warnings`
    names it. A crop is itself left out. With `mode=separate` each image in order has an answer or
    its problem. All are by the model and the calibration of one moment; where one fails, so do all.

    Args:
        sample: whether a search by one image counts for the gallery's calibration.
        began: when the request was there, by `time.perf_counter`.
        prepare: called with each image that can be decoded, see `Pipeline.embed`.

    Raises:
        UnusableImages: every image of the only answer is.
        UnknownGallery, UnknownCrop, NeedsReindex, InvalidField, QueueFull, TooCostly: nothing was
            searched.
    """
    began = began or time.perf_counter()
    separate = bool(images) and options.mode == "separate"
    queries = [[one] for one in images] if separate else [images]
    model = runtime.calibrations.current(gallery, options.scoring).model
    cost = model.pipeline.cost(images) + _search_cost(model, gallery, images, options)
    runtime.admission.require_affordable(
        cost,
        "images, boxes, rerank_depth, top_k",
        "fewer or smaller images or boxes, or a smaller rerank_depth or top_k",
    )
    async with runtime.admission.admit(cost):
        await model.pipeline.open_frame(images)
        answers: list[QueryAnswer | list[CropProblem]] = []
        while len(answers) < len(queries):
            current = runtime.calibrations.current(gallery, options.scoring)
            kept = sample and len(queries[0]) == 1 and gallery.settings.calibration == "on"
            search = Search(gallery, current, options, sample=kept)
            if options.vector is not None:
                vector = _sent_vector(options, gallery.name, current.model)
                search = replace(search, queries=vector)
            try:
                async with asyncio.TaskGroup() as group:
                    tasks = [
                        group.create_task(_query(runtime, search, own, began, prepare))
                        for own in queries
                    ]
            except ExceptionGroup as failed:
                raise failed.exceptions[0] from None
            answers = [one for task in tasks if (one := task.result()) is not None]
    if isinstance(answers[0], list) and not separate:
        raise UnusableImages(answers[0])
    return [refused_image(one[0]) if isinstance(one, list) else one for one in answers]


def _search_cost(
    model: LoadedModel, gallery: Gallery, images: Sequence[ImageFile], options: QueryOptions
) -> float:
    by_cosine = model.chosen_scoring(options.scoring) == "cosine"
    depth = 0 if by_cosine else min(options.rerank_depth, gallery.crops)
    answers = max(1, len(images)) if options.mode == "separate" else 1
    results = answers * min(options.top_k, gallery.crops)
    return search_cost(len(images), depth, results, options.include_vector)


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
    while True:
        proposal = None
        if search.gallery.outside_index and runtime.outside:
            if search.gallery.embedder != search.current.model.embedder:
                return None
            try:
                proposal = await runtime.outside.run(search.propose, places, gone)
            except UnknownGallery as error:
                raise UnknownGallery(search.gallery.name) from error
        ranking = await _rank(runtime.device, search, places, gone, proposal)
        if ranking is None:
            return None
        crop = ranking.query_crop
        labels = [*ranking.labels, crop] if crop else ranking.labels
        found = await runtime.galleries.confirm(search.gallery, labels)
        if crop and crop.row_id in found.gone:
            raise UnknownCrop(search.gallery.name, crop.crop_id)
        gone |= found.gone
        places *= DEEPER
        if not found.gone or places >= top_k * DEEPER**ROUNDS:
            break
    results = ranking.answer.results
    if gone:
        shown = zip(results, ranking.labels, strict=True)
        kept = [one for one, label in shown if label.row_id not in gone][:top_k]
        results = [one.model_copy(update={"rank": rank}) for rank, one in enumerate(kept, 1)]
    answer = ranking.answer.model_copy(update={"results": results, "stale": found.stale})
    return replace(ranking, answer=answer)


async def _rank(
    device: DeviceThread,
    search: Search,
    places: int,
    gone: frozenset[int],
    proposal: Proposal | None,
) -> Ranking | None:
    """Rank on the device thread, with many pairs in slices between which others have their turn."""
    ranking = await device.run(search.rank, places, gone, proposal)
    if not isinstance(ranking, Proposal):
        return ranking
    began = time.perf_counter()
    logits = await search.current.model.networks.pair_scores_in_slices(
        device, ranking.queries, ranking.scored.vectors()
    )
    return await device.run(search.finish, ranking, places, logits, began)


async def _query(
    runtime: Runtime,
    search: Search,
    images: Sequence[ImageFile],
    began: float,
    prepare: Prepare | None,
) -> QueryAnswer | list[CropProblem] | None:
    """The answer to one query, or the problems of all its images.

    None where the gallery went over to another embedder, for which images are embedded again.
    """
    # A query is answered also where its images are poor.
    quality: QualityPolicy = "off" if runtime.settings.quality == "off" else "warn"
    arrived = time.perf_counter()
    outcomes = await search.current.model.pipeline.embed(images, quality, prepare)
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
    if problems and not usable:
        return problems
    if usable:
        search = replace(search, queries=np.stack(list(map(attrgetter("vector"), usable))))
    ranking = await run_search(runtime, search)
    if ranking is None:
        return None
    for problem in problems:
        runtime.metrics.problems.labels(problem.code).inc()
    if ranking.sample is not None:
        place = search.gallery.gallery_id, search.current.subject
        runtime.calibrations.record_search_scores(place, usable[0].vector, ranking.sample)
    answer = ranking.answer
    verdict = (answer.results[0].verdict or "no_match") if answer.results else "nothing_searched"
    runtime.metrics.verdicts.labels(verdict).inc()
    # Of the slowest image; what else went by before the search was waiting for a thread.
    spent = [(0.0, 0.0), *map(attrgetter("decode", "embed"), usable)]
    decode, embed = map(max, zip(*spent, strict=True))
    times = {
        "decode": (arrived - began + decode) * 1e3,
        "queue": max(0.0, ranking.began - arrived - decode - embed) * 1e3,
        "embed": embed * 1e3,
        "total": (time.perf_counter() - began) * 1e3,
    }
    timing = Timing.model_validate(dict(answer.timing_ms) | times)
    changes = {"verdict": verdict, "warnings": warnings, "timing_ms": timing}
    return answer.model_copy(update=changes)


def _sent_vector(options: QueryOptions, gallery: str, model: LoadedModel) -> NDArray[np.float32]:
    """The vector of a query, `(1, d)`.

    Args:
        gallery: the name of the one that is searched.
        model: whose vectors it holds.

    Raises:
        InvalidField: for a text that is no vector, or a vector of another embedder.
    """
    vector = _read_vector(options.vector or "")
    own = model.embedder
    sent_as = options.embedding_fingerprint
    if sent_as is None:
        raise InvalidField(
            "embedding_fingerprint: is missing; send the one that the vector was answered with"
        )
    dimension = model.networks.dimension
    if sent_as != own or vector.shape != (dimension,):
        raise InvalidField(
            f"vector, embedding_fingerprint: a vector of {len(vector)} dimensions is sent as of "
            f"embedder {sent_as[:12]!r}, and gallery {gallery!r} holds those of {own[:12]!r} "
            f"({model.name}, {dimension} dimensions), which others cannot be compared with; send "
            "the image, or a vector that this gallery or POST /v1/embeddings answers"
        )
    return vector[None]


def _read_vector(text: str) -> NDArray[np.float32]:
    vector = np.zeros(0, np.float32)
    try:
        if len(text) > MOST_CHARACTERS:
            raise ValueError
        with np.errstate(over="ignore"):
            if text.lstrip().startswith("["):
                vector = np.array(json.loads(text), np.float32)
            else:
                vector = np.frombuffer(base64.b64decode(text, validate=True), "<f4")
    except (ValueError, TypeError, RecursionError):
        pass
    if vector.ndim != 1 or not np.isfinite(vector).all() or not vector.any():
        raise InvalidField(
            f"vector: {text[:40]!r} is no vector; send a JSON array of finite numbers that are not "
            "all 0, or their float32 bytes, little-endian, in base64"
        )
    return vector.astype(np.float32)
