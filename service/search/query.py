"""Queries: rank galleries by images of one person, by crops or by a vector."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Collection, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

import numpy as np

from gmn_client.models import (
    GalleriesAnswer,
    GalleryAnswer,
    QueryAnswer,
    RankedCrop,
    RefusedGallery,
    RefusedImage,
    SearchVerdict,
    SimilarIdentities,
    SimilarIdentity,
    Timing,
)
from model.calibration import SEARCH_OPERATING_POINTS
from model.crops.decode import CropProblem
from model.crops.frames import ImageFile
from service.engine.admission import PER_PAIR, PER_RESULT, PER_VECTOR, Admission
from service.engine.device import Embedded, EmbeddedImage, PreparedImage
from service.engine.images import PicturePolicy, Pipeline
from service.engine.networks import LoadedModel
from service.errors import (
    AnswerTooLarge,
    IndexUnavailable,
    InvalidField,
    NeedsReindex,
    ServiceError,
    UnknownGallery,
    UnusableImages,
    refused_image,
)
from service.gallery.gallery import Gallery
from service.gallery.registry import GalleryRegistry
from service.index.filters import SearchFilter
from service.ops.metrics import Metrics
from service.record.record import Record
from service.search.calibration import CurrentCalibration, GalleryCalibrations
from service.search.find import (
    AtOnce,
    Found,
    InTurns,
    SearchIsLong,
    find,
    finish_at_once,
    run_search,
)
from service.search.options import OperatingPoint, QueryOptions
from service.search.query_features import NO_FEATURES, read_query_features
from service.search.ranking import Ranking, Search, SearchOutdated
from service.search.times import QueryTimes, TimeEvidence
from service.settings import QualityPolicy, Settings

# A larger file is kept as its thumbnail, which bounds the size of kept pictures.
KEPT_PICTURE_BYTES = 256 * 1024
# Errors of one gallery that do not prevent the others from answering.
GALLERY_ERRORS = (NeedsReindex, UnknownGallery, IndexUnavailable, InvalidField)
Result = TypeVar("Result")
BEST_FIRST: Sequence[SearchVerdict] = ("match", "uncertain", "no_match", "nothing_searched")


@dataclass(frozen=True)
class AnsweredQuery:
    """The answers to one query, and the parts of the query to be kept with it.

    Attributes:
        names: names of all galleries, in the order of the query.
        answers: answers of the galleries that were searched, by name, in the same order.
        problems: problems of the other galleries, by name.
        images: number of images in the query.
        prepared: first image with a picture to keep; None unless `keep_picture` is set.
        crop_ids: ids of the crops that were searched by.
        calibrations: what the answers were judged by, by name of the gallery.
    """

    names: Sequence[str]
    answers: Mapping[str, QueryAnswer]
    problems: Mapping[str, ServiceError]
    images: int
    prepared: PreparedImage | None
    crop_ids: tuple[str, ...]
    calibrations: Mapping[str, CurrentCalibration]

    @property
    def answer(self) -> QueryAnswer:
        (answer,) = self.answers.values()
        return answer

    @property
    def timing_ms(self) -> Timing:
        """Return the timing of the slowest gallery."""
        timings = [answer.timing_ms for answer in self.answers.values()]
        return max(timings, key=lambda timing: timing.total)

    def merged(self, top_k: int, operating_point: OperatingPoint) -> GalleriesAnswer:
        """Merge the rankings by probability; ties keep the order of the galleries."""
        answers = self.answers
        problems = self.problems
        warnings = [warning for answer in answers.values() for warning in answer.warnings]
        for name, problem in problems.items():
            warnings.append(f"gallery {name!r} was not searched: {problem.detail}")
        ranked = [(name, crop) for name, answer in answers.items() for crop in answer.results]
        best = sorted(ranked, key=_sort_key)[:top_k]
        far = SEARCH_OPERATING_POINTS[operating_point]
        return GalleriesAnswer(
            verdict=min((answer.verdict for answer in answers.values()), key=BEST_FIRST.index),
            far=far,
            gallery_far=far / len(self.names),
            warnings=list(dict.fromkeys(warnings)),
            results=[
                crop.model_copy(update={"rank": rank, "gallery": name})
                for rank, (name, crop) in enumerate(best, 1)
            ],
            galleries=[
                GalleryAnswer(gallery=name, **dict(answers[name]))
                if name in answers
                else RefusedGallery(gallery=name, problem=problems[name].document())
                for name in self.names
            ],
            timing_ms=self.timing_ms,
        )


def _sort_key(ranked: tuple[str, RankedCrop]) -> tuple[float, float]:
    _, crop = ranked
    # Crops without a score come last.
    probability = -1.0 if crop.probability is None else crop.probability
    return -probability, -crop.cosine


@dataclass(frozen=True)
class GalleriesQuery:
    """A query of galleries by images of one person, by crops of one gallery or by a vector.

    A score is the mean over the images. An unusable image is skipped and named in `warnings`. Crops
    searched by are not among their own results. Each embedder embeds the images once. The false
    alarms of the galleries add up, so each is searched at an equal share of the rate. A gallery
    that cannot be searched has a problem in the answer, next to the results of the others. With
    `mode=separate` each image is a query of its own; all use the same models and calibrations.

    Attributes:
        names: distinct names of the galleries.
        sample: a search by one image may contribute to a gallery's calibration.
        began: arrival time of the request, by `time.perf_counter`.
        home: name of the gallery of the crops to search by; the first one by default.
        metadata_sizes: characters of metadata in the results of each search.
    """

    names: Sequence[str]
    images: Sequence[ImageFile]
    options: QueryOptions
    sample: bool = True
    began: float = field(default_factory=time.perf_counter)
    home: str | None = None
    metadata_sizes: Counter[object] = field(default_factory=Counter)

    def estimate_cost(self, searches: Collection[Search]) -> float:
        options = self.options
        images = self.images
        pipelines = {search.current.model.pipeline for search in searches}
        cost = sum(pipeline.cost(images) for pipeline in pipelines)
        answers = len(images) if options.mode == "separate" else 1
        per_result = PER_RESULT + PER_VECTOR if options.include_vector else PER_RESULT
        for search in searches:
            crops = search.gallery.crops
            by_cosine = search.current.scoring == "cosine"
            depth = 0 if by_cosine else min(options.rerank_depth, crops)
            results = answers * min(options.top_k, crops)
            query_count = max(1, len(images), len(search.queries))
            cost += PER_PAIR * query_count * depth + per_result * results
        return cost

    def is_short(self, searches: Collection[Search], images: Sequence[ImageFile]) -> bool:
        """Return whether one call can do everything in a few milliseconds."""
        if len(self.names) > 1 or len(images) > 1:
            return False
        (search,) = searches
        pipeline = search.current.model.pipeline
        return (
            pipeline.embeds_at_once
            and all(pipeline.threads_for(image) is pipeline.threads for image in images)
            and search.is_short
        )


@dataclass(frozen=True)
class GallerySearch:
    """Answers queries of galleries.

    Attributes:
        times: what the galleries have learned about times.
        model: the served model, whose pipeline opens the frames of all queries.
        at_once, in_turns: run the steps of short and of long searches.
    """

    settings: Settings
    record: Record
    galleries: GalleryRegistry
    calibrations: GalleryCalibrations
    times: TimeEvidence
    model: LoadedModel
    admission: Admission
    metrics: Metrics
    at_once: AtOnce
    in_turns: InTurns

    async def answer(self, query: GalleriesQuery) -> list[AnsweredQuery | RefusedImage]:
        """Search the galleries.

        Returns:
            One answer; with `mode=separate` an answer or a problem for each image, in order.

        Raises:
            UnusableImages: no image of the only query is usable.
            UnknownCrop, UnknownTrack, UnknownIdentity, QueueFull, TooCostly: nothing was searched.
            ServiceError: the problem of the first gallery if none can answer.
        """
        admission = self.admission
        fields = "images, boxes, rerank_depth, top_k"
        remedy = "fewer or smaller images or boxes, or a smaller rerank_depth or top_k"
        if len(query.names) > 1:
            fields = f"galleries, {fields}"
            remedy = f"fewer galleries, {remedy}"
        queries: list[Sequence[ImageFile]] = [query.images]
        if query.options.mode == "separate":
            queries = [[image] for image in query.images]
        while True:
            # If a gallery changes its embedder or its means meanwhile, repeat all queries, so that
            # one model answers all.
            with contextlib.suppress(SearchOutdated):
                searches, problems = await self._plan_searches(query)
                cost = query.estimate_cost(searches.values())
                admission.require_affordable(cost, fields, remedy)
                async with admission.admit(cost):
                    await self.model.pipeline.open_frame(query.images)
                    return await gather_all(
                        self._answer(query, searches, problems, images) for images in queries
                    )

    async def _plan_searches(
        self, query: GalleriesQuery
    ) -> tuple[dict[str, Search], dict[str, ServiceError]]:
        """Return the search of each gallery, and the problem of each that cannot be searched."""
        options = query.options
        features = NO_FEATURES
        if not query.images:
            home = query.home or query.names[0]
            features = await read_query_features(self.record, self.galleries, options, home)
        of_one_image = len(query.images) == 1 or options.mode == "separate"
        searches: dict[str, Search] = {}
        problems: dict[str, ServiceError] = {}
        for name in query.names:
            try:
                gallery = await self.galleries.find(name)
                times = QueryTimes.of(self.times.of(gallery), options, features.crops)
                current = self.calibrations.current(gallery, options.scoring, bool(times))
                if not query.images:
                    current.model.require_vectors(
                        features.fields, features.embedder, features.vectors, name
                    )
                searches[name] = Search(
                    gallery,
                    current,
                    options,
                    queries=features.vectors,
                    query_crops=features.crops,
                    without=features.slots if features.gallery is gallery else frozenset(),
                    sample=query.sample and of_one_image and current.learns,
                    galleries=len(query.names),
                    times=times,
                )
            except GALLERY_ERRORS as error:
                problems[name] = error
        if not searches:
            raise problems[query.names[0]]
        return searches, problems

    async def _answer(
        self,
        query: GalleriesQuery,
        searches: Mapping[str, Search],
        unsearched: Mapping[str, ServiceError],
        images: Sequence[ImageFile],
    ) -> AnsweredQuery | RefusedImage:
        arrived = time.perf_counter()
        # Search by poor images too; their faults become warnings.
        quality: QualityPolicy = "off" if self.settings.quality == "off" else "warn"
        policy = None
        if query.options.keep_picture:
            settings = self.settings
            policy = PicturePolicy(settings.keep_images, settings.keep_metadata, KEPT_PICTURE_BYTES)
        found: Found | None = None
        embedded: dict[Pipeline, list[Embedded]]
        if query.is_short(searches.values(), images):
            (search,) = searches.values()
            pipeline = search.current.model.pipeline
            embed_and_find = partial(self._embed_and_find, search, images, quality, policy)
            outcomes, found = await pipeline.threads.run(embed_and_find)
            embedded = {pipeline: outcomes}
        else:
            pipelines = dict.fromkeys(search.current.model.pipeline for search in searches.values())
            outcomes_of_pipelines = await gather_all(
                pipeline.embed(images, quality, policy) for pipeline in pipelines
            )
            embedded = dict(zip(pipelines, outcomes_of_pipelines, strict=True))
        for outcomes in embedded.values():
            refused = [image for image in outcomes if isinstance(image, CropProblem)]
            if refused and len(refused) == len(images):
                if query.options.mode == "separate":
                    return refused_image(refused[0])
                raise UnusableImages(refused)
            for problem in refused:
                self.metrics.problems.labels(problem.code).inc()

        answers_of_galleries = await gather_all(
            self._answer_gallery(
                query, search, embedded[search.current.model.pipeline], arrived, found
            )
            for search in searches.values()
        )
        answers: dict[str, QueryAnswer] = {}
        problems = dict(unsearched)
        for name, answer in zip(searches, answers_of_galleries, strict=True):
            if isinstance(answer, QueryAnswer):
                answers[name] = answer
            else:
                problems[name] = answer
        if not answers:
            raise problems[query.names[0]]

        first = next(iter(searches.values()))
        prepared = [
            image.prepared
            for image in embedded[first.current.model.pipeline]
            if isinstance(image, EmbeddedImage) and image.prepared.picture
        ]
        return AnsweredQuery(
            names=query.names,
            answers=answers,
            problems=problems,
            images=len(images),
            prepared=prepared[0] if prepared else None,
            crop_ids=tuple(crop.crop_id for crop in first.query_crops),
            calibrations={name: search.current for name, search in searches.items()},
        )

    def _embed_and_find(
        self,
        search: Search,
        images: Sequence[ImageFile],
        quality: QualityPolicy,
        policy: PicturePolicy | None,
    ) -> tuple[list[Embedded], Found | None]:
        """Embed an image, if there is one, and search by it, on this thread; blocks.

        Returns:
            The outcome of the image, and the result of the search: None if the image cannot be
            used, or if the search turned out to be long.
        """
        pipeline = search.current.model.pipeline
        outcomes = [pipeline.embed_now(image, quality, policy) for image in images]
        for outcome in outcomes:
            if isinstance(outcome, CropProblem):
                return outcomes, None
            search = replace(search, queries=outcome.vector[None])
        try:
            return outcomes, finish_at_once(find(search, self.at_once))
        except SearchIsLong:
            return outcomes, None

    async def _answer_gallery(
        self,
        query: GalleriesQuery,
        search: Search,
        outcomes: Sequence[Embedded],
        arrived: float,
        found: Found | None,
    ) -> QueryAnswer | ServiceError:
        """Search by the usable images or, if no images were sent, by the features of the search.

        Args:
            arrived: start of the embedding, by `time.perf_counter`.
            found: result of the search, if it was short.

        Returns:
            The answer, or the error of this gallery alone.

        Raises:
            SearchOutdated, UnknownCrop: as in `run_search`.
        """
        usable = [outcome for outcome in outcomes if isinstance(outcome, EmbeddedImage)]
        if usable:
            search = replace(search, queries=np.stack([image.vector for image in usable]))
        try:
            ranking, ranked_crops = await run_search(
                self.in_turns, search, query.metadata_sizes, found
            )
        except AnswerTooLarge:
            raise
        except GALLERY_ERRORS as error:
            return error
        if ranking.sample is not None:
            key = (search.gallery.gallery_id, search.current.score_kind)
            self.calibrations.record_search_scores(key, usable[0].vector, ranking.sample)
        warnings = []
        for position, outcome in enumerate(outcomes, 1):
            prefix = f"image {position}: " if len(outcomes) > 1 else ""
            if isinstance(outcome, CropProblem):
                warnings.append(f"{prefix}left out of the search: {outcome.detail}")
            else:
                warnings += [f"{prefix}{fault.detail}" for fault in outcome.faults]
        verdict: SearchVerdict = "nothing_searched"
        if ranked_crops:
            verdict = ranked_crops[0].verdict or "no_match"
        return QueryAnswer(
            gallery_version=ranking.gallery_version,
            calibration_version=str(ranking.judge.state.version),
            calibration=ranking.judge.state,
            model=search.current.model.description.artefact_fingerprint,
            scoring=search.current.scoring,
            verdict=verdict,
            needed=ranking.judge.needed,
            warnings=warnings,
            results=ranked_crops,
            crops_searched=ranking.crops_searched,
            people_searched=ranking.people_searched,
            candidates_scored=ranking.candidates_scored,
            likelihood_people=search.likelihood.people if search.likelihood else None,
            timing_ms=_measure_timing(query.began, arrived, usable, ranking),
        )

    async def find_similar(self, gallery: Gallery, identity: str, limit: int) -> SimilarIdentities:
        """Search a gallery by the best crops of an identity, and return the most similar others.

        Each identity has the score of its most similar crop. The search does not contribute to the
        calibration.

        Raises:
            UnknownIdentity: no crop has this identity.
            NeedsReindex, QueueFull, IndexUnavailable: nothing was searched.
        """
        options = QueryOptions(
            identity=identity, wanted=SearchFilter(named=True), group_by="identity", top_k=limit
        )
        queries = await self.answer(GalleriesQuery([gallery.name], [], options))
        similar = {
            crop.identity: crop
            for query in queries
            if isinstance(query, AnsweredQuery)
            for crop in query.answer.results
            if crop.identity and crop.verdict
        }
        counts = await self.galleries.read(
            self.record.people.counts, gallery.gallery_id, list(similar)
        )
        return SimilarIdentities(
            results=[
                SimilarIdentity.model_validate({**dict(crop), "crops": counts[name]})
                for name, crop in similar.items()
                if name in counts
            ]
        )


async def gather_all(work: Iterable[Coroutine[Any, Any, Result]]) -> list[Result]:
    """Return the results in order; if one raises, cancel the others and re-raise its error."""
    parts = list(work)
    if len(parts) == 1:
        return [await parts[0]]
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(part) for part in parts]
    except ExceptionGroup as errors:
        # The HTTP layer answers service errors, but not exception groups.
        raise errors.exceptions[0] from None
    return [task.result() for task in tasks]


def _measure_timing(
    began: float, arrived: float, images: Sequence[EmbeddedImage], ranking: Ranking
) -> Timing:
    # Images are decoded and embedded in parallel, so the slowest one counts.
    decode = max((image.decode for image in images), default=0.0)
    embed = max((image.embed for image in images), default=0.0)
    return Timing(
        decode=(arrived - began + decode) * 1e3,
        # The remaining time before the search was spent waiting for a thread.
        queue=max(0.0, ranking.began - arrived - decode - embed) * 1e3,
        embed=embed * 1e3,
        search=(ranking.found - ranking.began) * 1e3,
        rerank=(ranking.ended - ranking.found) * 1e3,
        total=(time.perf_counter() - began) * 1e3,
    )
