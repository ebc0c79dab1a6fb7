"""Queries: rank a gallery by images of one person, by its crops or by a vector."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Coroutine, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from gmn_client.models import (
    QueryAnswer,
    RankedCrop,
    RefusedImage,
    SearchVerdict,
    SimilarIdentities,
    SimilarIdentity,
    Timing,
)
from model.crops.decode import CropProblem
from model.crops.frames import ImageFile
from service.engine.admission import search_cost
from service.engine.batcher import Embedded, EmbeddedImage, PreparedImage
from service.engine.images import PicturePolicy, results
from service.engine.networks import LoadedModel
from service.errors import (
    InvalidField,
    UnknownCrop,
    UnknownGallery,
    UnknownIdentity,
    UnknownTrack,
    UnusableImages,
    refused_image,
)
from service.gallery.gallery import Gallery
from service.record.record import Record
from service.runtime import Runtime
from service.search.filters import Filter
from service.search.options import (
    MOST_ASKING,
    RERANK_DEPTH,
    GroupBy,
    QueryOptions,
    read_vector,
)
from service.search.ranking import EmbedderChanged, Proposal, Ranking, Search
from service.settings import QualityPolicy

# Upper bound on the rounds of a search that finds deleted crops, and growth of its depth per round.
ROUNDS = 6
DEEPER = 4
# Number of crops of an identity that search for others; their mean score counts.
BEST_CROPS = 8
# A larger file is kept as its thumbnail, which bounds the size of kept pictures.
KEPT_PICTURE_BYTES = 256 * 1024
# Upper bound on the characters of camera names in an error.
MAX_NAMED = 200
Result = TypeVar("Result")


@dataclass(frozen=True)
class AnsweredQuery:
    """The answer to one query, and the parts of the query to be kept with it.

    Attributes:
        images: number of images in the query.
        prepared: first image with a picture to keep; None unless `keep_picture` is set.
        crop_ids: ids of the gallery's crops that were searched by.
    """

    answer: QueryAnswer
    images: int
    prepared: PreparedImage | None = None
    crop_ids: tuple[str, ...] = ()


async def run_query(
    runtime: Runtime,
    gallery: Gallery,
    images: Sequence[ImageFile],
    options: QueryOptions,
    sample: bool = True,
    began: float | None = None,
) -> list[AnsweredQuery | RefusedImage]:
    """Answer a query by images of one person, by crops of the gallery or by a vector.

    A score is the mean over the images. An unusable image is skipped and named in `warnings`. Crops
    searched by are not among their own results. With `mode=separate` there is one answer or problem
    for each image, in order. All answers use the same model and calibration; if one query fails,
    all fail.

    Args:
        sample: a search by one image may contribute to the gallery's calibration.
        began: arrival time of the request, by `time.perf_counter`.

    Raises:
        UnusableImages: no image of the only query is usable.
        UnknownGallery, UnknownCrop, UnknownTrack, NeedsReindex, InvalidField, QueueFull, TooCostly:
            nothing was searched.
    """
    began = began or time.perf_counter()
    separate = bool(images) and options.mode == "separate"
    model = runtime.models[gallery.embedder]
    cost = model.pipeline.cost(images) + cost_of_search(model, gallery, images, options)
    runtime.admission.require_affordable(
        cost,
        "images, boxes, rerank_depth, top_k",
        "fewer or smaller images or boxes, or a smaller rerank_depth or top_k",
    )
    async with runtime.admission.admit(cost):
        await model.pipeline.open_frame(images)
        while True:
            search = begin_search(runtime, gallery, images, options, sample)
            # If the gallery changes its embedder, repeat all queries so that one model answers all.
            with contextlib.suppress(EmbedderChanged):
                if options.crop_id or options.track:
                    search = await search_by_crops(runtime, search)
                if separate:
                    return await _answer_each(runtime, search, images, began)
                embedding = submit_images(runtime, search, images)
                return [await answer_search(runtime, search, embedding, began)]


def begin_search(
    runtime: Runtime,
    gallery: Gallery,
    images: Sequence[ImageFile],
    options: QueryOptions,
    sample: bool,
) -> Search:
    """Return a search by the vector in the options, or one whose features are not known yet.

    Args:
        sample: as in `run_query`.

    Raises:
        NeedsReindex: no loaded model has the gallery's embedder.
        InvalidField: the scoring or the vector is invalid.
    """
    current = runtime.calibrations.current(gallery, options.scoring)
    of_one_image = len(images) == 1 or (bool(images) and options.mode == "separate")
    calibrates = sample and of_one_image and gallery.settings.calibration == "on"
    search = Search(gallery, current, options, sample=calibrates)
    if options.vector is not None:
        search = replace(search, queries=_sent_vector(options, gallery.name, current.model))
    return search


async def search_by_crops(runtime: Runtime, search: Search) -> Search:
    """Return the search with the features of the crops to search by.

    Raises:
        UnknownCrop, UnknownTrack, UnknownIdentity: the gallery does not have them.
        InvalidField: several cameras have a track with this id.
        EmbedderChanged: the gallery has another embedder than the search.
    """
    embedder, search = await runtime.galleries.read(_with_query_crops, runtime.record, search)
    if embedder != search.current.model.embedder:
        await runtime.galleries.catch_up()
        raise EmbedderChanged
    return search


def _with_query_crops(record: Record, search: Search) -> tuple[str, Search]:
    gallery = search.gallery
    options = search.options
    number = gallery.gallery_id
    excluded: Iterable[int]
    unknown = UnknownTrack(gallery.name, options.track)
    if isinstance(options, SimilarOptions):
        unknown = UnknownIdentity(gallery.name, options.identity)
        excluded, best = record.people.rows(number, options.identity, BEST_CROPS)
        crops = list(record.crops.by_row(number, best).values())
    elif options.track is not None:
        camera = _camera_of_track(record, gallery, options.track, options.camera)
        slots = record.tracks.spread(number, options.track, camera, MOST_ASKING)
        crops = list(record.crops.by_row(number, slots).values())
        excluded = record.tracks.slots(number, options.track, camera)
    else:
        crops = list(record.crops.by_id(number, options.crop_id).values())
        excluded = [crop.row_id for crop in crops]
    embedder, vectors = record.crops.vectors_of(number, crops)
    # A crop removed since it was read has no vector.
    crops = [crop for crop in crops if crop.row_id in vectors]
    present = {crop.crop_id for crop in crops}
    for crop_id in options.crop_id:
        if crop_id not in present:
            raise UnknownCrop(gallery.name, crop_id)
    if not crops:
        raise unknown
    search = replace(
        search,
        queries=np.stack([vectors[crop.row_id] for crop in crops]),
        query_crops=tuple(crops),
        own=frozenset(excluded),
    )
    return embedder, search


def _camera_of_track(
    record: Record, gallery: Gallery, track: str, camera: str | None
) -> str | None:
    cameras = record.tracks.cameras(gallery.gallery_id, track)
    if not cameras or (camera is not None and camera not in cameras):
        raise UnknownTrack(gallery.name, track)
    if camera is None and len(cameras) > 1:
        camera_names = ", ".join(sorted(camera for camera in cameras if camera is not None))
        raise InvalidField(
            f"track: several cameras have a track {track!r}, which may be of different people; "
            f"send its camera too: {camera_names[:MAX_NAMED]}"
        )
    return camera or cameras[0]


def cost_of_search(
    model: LoadedModel, gallery: Gallery, images: Sequence[ImageFile], options: QueryOptions
) -> float:
    by_cosine = model.chosen_scoring(options.scoring) == "cosine"
    depth = 0 if by_cosine else min(options.rerank_depth, gallery.crops)
    answers = max(1, len(images)) if options.mode == "separate" else 1
    results = answers * min(options.top_k, gallery.crops)
    asking = MOST_ASKING if options.track else len(options.crop_id)
    return search_cost(max(len(images), asking), depth, results, options.include_vector)


async def _answer_each(
    runtime: Runtime, search: Search, images: Sequence[ImageFile], began: float
) -> list[AnsweredQuery | RefusedImage]:
    async def answer(image: ImageFile) -> AnsweredQuery | RefusedImage:
        try:
            embedding = submit_images(runtime, search, [image])
            return await answer_search(runtime, search, embedding, began)
        except UnusableImages as error:
            return refused_image(error.first)

    return await gather_all(answer(image) for image in images)


async def gather_all(work: Iterable[Coroutine[Any, Any, Result]]) -> list[Result]:
    """Return the results in order; if one raises, cancel the others and re-raise its error."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(part) for part in work]
    except ExceptionGroup as errors:
        # The HTTP layer answers service errors, but not exception groups.
        raise errors.exceptions[0] from None
    return [task.result() for task in tasks]


def submit_images(
    runtime: Runtime, search: Search, images: Sequence[ImageFile]
) -> list[Future[Embedded]]:
    # Search by poor images too; their faults become warnings.
    quality: QualityPolicy = "off" if runtime.settings.quality == "off" else "warn"
    pictures = None
    if search.options.keep_picture:
        pictures = PicturePolicy(runtime.settings.keep_images, KEPT_PICTURE_BYTES)
    return search.current.model.pipeline.submit(images, quality, pictures)


async def answer_search(
    runtime: Runtime,
    search: Search,
    embedding: Sequence[Future[Embedded]],
    began: float,
) -> AnsweredQuery:
    """Search by the usable images or, if no images were sent, by the features of the search.

    Args:
        embedding: futures of the embedded images, which other searches may await too.
        began: arrival time of the request, by `time.perf_counter`.

    Raises:
        UnusableImages: no image is usable.
        EmbedderChanged, UnknownGallery, UnknownCrop: as in `run_search`.
    """
    arrived = time.perf_counter()
    ranked = None
    if len(embedding) == 1 and search.gallery.outside_index is None:
        # The thread that embeds the image queues the search directly, bypassing the event loop.
        ranking_image = runtime.device.submit_after(embedding[0], search.rank_embedded)
        (ranked,) = await results([ranking_image])
    outcomes = await results(embedding)
    usable = [outcome for outcome in outcomes if isinstance(outcome, EmbeddedImage)]
    problems = [outcome for outcome in outcomes if isinstance(outcome, CropProblem)]
    if problems and not usable:
        raise UnusableImages(problems)
    if usable:
        search = replace(search, queries=np.stack([image.vector for image in usable]))

    ranking, ranked_crops = await run_search(runtime, search, ranked)
    if search.options.group_by == "track":
        ranked_crops = await _with_spans(runtime, search.gallery, ranked_crops)
    verdict: SearchVerdict = "nothing_searched"
    if ranked_crops:
        verdict = ranked_crops[0].verdict or "no_match"
    for problem in problems:
        runtime.metrics.problems.labels(problem.code).inc()
    runtime.metrics.verdicts.labels(verdict).inc()
    if ranking.sample is not None:
        place = (search.gallery.gallery_id, search.current.subject)
        runtime.calibrations.record_search_scores(place, usable[0].vector, ranking.sample)

    answer = QueryAnswer(
        gallery_version=ranking.proposal.gallery_version,
        calibration_version=str(ranking.judge.state.version),
        calibration=ranking.judge.state,
        model=search.current.model.description.artefact_fingerprint,
        scoring=search.current.scoring,
        verdict=verdict,
        warnings=_warnings(outcomes),
        results=ranked_crops,
        candidates_scored=ranking.candidates_scored,
        timing_ms=_timing(began, arrived, usable, ranking),
    )
    prepared = (image.prepared for image in usable if image.prepared.picture)
    crop_ids = tuple(crop.crop_id for crop in search.query_crops)
    return AnsweredQuery(answer, len(embedding), next(prepared, None), crop_ids)


async def _with_spans(
    runtime: Runtime, gallery: Gallery, ranked_crops: Sequence[RankedCrop]
) -> list[RankedCrop]:
    tracks = [crop.track for crop in ranked_crops if crop.track is not None]
    spans = await runtime.galleries.read(runtime.record.tracks.spans, gallery.gallery_id, tracks)
    results = []
    for crop in ranked_crops:
        # None for a crop without a track, or if the track has changed since.
        span = spans.get((crop.track or "", crop.camera))
        results.append(crop.model_copy(update=span) if span else crop)
    return results


def _warnings(outcomes: Sequence[Embedded]) -> list[str]:
    warnings = []
    for number, outcome in enumerate(outcomes, 1):
        prefix = f"image {number}: " if len(outcomes) > 1 else ""
        if isinstance(outcome, CropProblem):
            warnings.append(f"{prefix}left out of the search: {outcome.detail}")
        else:
            warnings += [f"{prefix}{fault.detail}" for fault in outcome.faults]
    return warnings


def _timing(
    began: float, arrived: float, images: Sequence[EmbeddedImage], ranking: Ranking
) -> Timing:
    proposal = ranking.proposal
    # Images are decoded and embedded in parallel, so the slowest one counts.
    decode = max((image.decode for image in images), default=0.0)
    embed = max((image.embed for image in images), default=0.0)
    return Timing(
        decode=(arrived - began + decode) * 1e3,
        # The remaining time before the search was spent waiting for a thread.
        queue=max(0.0, proposal.began - arrived - decode - embed) * 1e3,
        embed=embed * 1e3,
        search=(proposal.ended - proposal.began) * 1e3,
        rerank=ranking.rerank_seconds * 1e3,
        total=(time.perf_counter() - began) * 1e3,
    )


async def run_search(
    runtime: Runtime, search: Search, ranked: Ranking | Proposal | None = None
) -> tuple[Ranking, list[RankedCrop]]:
    """Search until the record has every result, and return the ranking with the results.

    Each further round excludes the crops found deleted, so that they do not displace other results.

    Args:
        ranked: the result of `search.rank`, if it was already called.

    Raises:
        EmbedderChanged: the gallery switched to another embedder after the search began.
        UnknownGallery: the gallery was deleted.
        UnknownCrop: a crop searched by was deleted.
    """
    # Crops of a track may be deleted during the search; crops named by id must exist.
    named = search.query_crops if search.options.crop_id else ()
    required = [crop.row_id for crop in named]
    deleted_rows: frozenset[int] = frozenset()
    for attempt in range(ROUNDS):
        search = replace(search, deeper=DEEPER**attempt, gone=deleted_rows)
        ranking = await _rank(runtime, search, ranked)
        ranked = None
        row_ids = ranking.best.row_ids.tolist()
        labels = await runtime.galleries.find_crops(search.gallery, row_ids + required)
        for crop in named:
            if crop.row_id not in labels:
                raise UnknownCrop(search.gallery.name, crop.crop_id)
        deleted = frozenset(row_ids) - labels.keys()
        deleted_rows |= deleted
        if not deleted:
            break
    return ranking, search.results(ranking, labels)


async def _rank(runtime: Runtime, search: Search, ranked: Ranking | Proposal | None) -> Ranking:
    gallery = search.gallery
    if ranked is None:
        proposal = None
        if gallery.outside_index and runtime.outside:
            # Do not block the device thread with calls to an external index.
            if gallery.embedder != search.current.model.embedder:
                raise EmbedderChanged
            try:
                proposal = await runtime.outside.run(search.propose)
            except UnknownGallery as error:
                raise UnknownGallery(gallery.name) from error
        ranked = await runtime.device.run(search.rank, proposal)
    if isinstance(ranked, Ranking):
        return ranked
    # Many pairs are scored in slices, between which other work runs.
    began = time.perf_counter()
    logits = await search.current.model.networks.pair_scores_in_slices(
        runtime.device, search.queries, ranked.scored.vectors
    )
    return await runtime.device.run(search.finish, ranked, logits, began)


def _sent_vector(options: QueryOptions, gallery: str, model: LoadedModel) -> NDArray[np.float32]:
    """Return the vector sent with a query, `(1, d)`.

    Raises:
        InvalidField: the text is not a vector, or not one of the gallery's embedder.
    """
    vector = read_vector(options.vector or "")
    sent_as = options.embedding_fingerprint
    if sent_as is None:
        raise InvalidField(
            "embedding_fingerprint: is missing; send the one that was returned with the vector"
        )
    dimension = model.networks.dimension
    if sent_as != model.embedder or vector.shape != (dimension,):
        raise InvalidField(
            f"vector, embedding_fingerprint: a vector of {len(vector)} dimensions from embedder "
            f"{sent_as[:12]!r} cannot be compared with those of gallery {gallery!r}, which are "
            f"from {model.embedder[:12]!r} ({model.name}, {dimension} dimensions); send the image "
            "or a vector returned by this gallery or POST /v1/embeddings"
        )
    return vector[None]


class SimilarOptions(QueryOptions):
    """Options of a search among the named crops of others by the best crops of an identity."""

    identity: str
    group_by: GroupBy = "identity"

    def filter(self, cameras: Iterable[str | None], without: frozenset[int]) -> Filter:
        return replace(super().filter(cameras, without), named=True)


async def find_similar(
    runtime: Runtime, gallery: Gallery, identity: str, limit: int
) -> SimilarIdentities:
    """Rank other identities by similarity to one, judged like a search by its best crops.

    Each has the score of its most similar crop. The search does not contribute to the calibration.

    Raises:
        UnknownIdentity: no crop has this identity.
        NeedsReindex, QueueFull, IndexUnavailable: nothing was searched.
    """
    options = SimilarOptions(identity=identity, top_k=limit)
    results = None
    async with runtime.admission.admit(search_cost(BEST_CROPS, RERANK_DEPTH, limit, False)):
        while results is None:
            with contextlib.suppress(EmbedderChanged):
                search = begin_search(runtime, gallery, [], options, sample=False)
                search = await search_by_crops(runtime, search)
                _, results = await run_search(runtime, search)
    similar = {result.identity: result for result in results if result.identity and result.verdict}
    count = runtime.record.people.counts
    counts = await runtime.galleries.read(count, gallery.gallery_id, list(similar))
    return SimilarIdentities(
        results=[
            SimilarIdentity.model_validate({**dict(result), "crops": counts[name]})
            for name, result in similar.items()
            if name in counts
        ]
    )
