"""Queries of several galleries at once: each is searched separately, then results are merged."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

from pydantic import Field, model_validator

from gmn_client.models import (
    GalleriesAnswer,
    GalleryAnswer,
    QueryAnswer,
    RankedCrop,
    RefusedGallery,
    RefusedImage,
    SearchVerdict,
)
from model.calibration import SEARCH_OPERATING_POINTS
from model.crops.frames import ImageFile
from service.errors import (
    IndexUnavailable,
    InvalidField,
    NeedsReindex,
    ServiceError,
    UnknownGallery,
    UnusableImages,
    refused_image,
)
from service.runtime import Runtime
from service.search.options import Id, Names, QueryOptions
from service.search.query import (
    answer_search,
    begin_search,
    cost_of_search,
    gather_all,
    search_by_crops,
    submit_images,
)
from service.search.ranking import EmbedderChanged, Search

MOST_GALLERIES = 20
BEST_FIRST: Sequence[SearchVerdict] = ("match", "uncertain", "no_match", "nothing_searched")
# Errors of one gallery that do not prevent the others from answering.
OF_ONE_GALLERY = (NeedsReindex, UnknownGallery, IndexUnavailable, InvalidField)


class GalleriesOptions(QueryOptions):
    """Options of a query of several galleries."""

    galleries: Names = Field(
        (),
        max_length=MOST_GALLERIES,
        description="Repeated or comma-separated; default: all that the key may access.",
    )
    gallery: Id | None = Field(None, description="The gallery of `crop_id` or `track`.")

    @model_validator(mode="after")
    def _answered_by_several(self) -> Self:
        if bool(self.crop_id or self.track) != bool(self.gallery):
            raise InvalidField(
                "gallery: needs crop_id or track, and they need it; send both or neither"
            )
        if self.keep:
            raise InvalidField(
                "keep: a kept search belongs to one gallery; send the query to "
                "/v1/galleries/{gallery}/queries, or leave keep out"
            )
        if self.min_version:
            raise InvalidField(
                "min_version: each gallery counts its own versions; send min_versions, such as "
                '{"entrance": 12}'
            )
        return self


@dataclass(frozen=True)
class JointQuery:
    """A query of several galleries by images of one person, by crops of one gallery or by a vector.

    Each embedder embeds the images once. The false alarms of the galleries add up, so each gallery
    is searched at an equal share of the rate. A gallery that cannot answer is listed with its
    problem, and the others answer. With `mode=separate` each image is a query of its own.

    Attributes:
        names: distinct names of the galleries.
        sample, began: as in `run_query`.
    """

    runtime: Runtime
    names: Sequence[str]
    images: Sequence[ImageFile]
    options: GalleriesOptions
    sample: bool
    began: float

    async def answer(self) -> list[GalleriesAnswer | RefusedImage]:
        """Search the galleries and merge their results.

        Returns:
            One answer; with `mode=separate` an answer or a problem for each image, in order.

        Raises:
            UnknownCrop, UnknownTrack, UnusableImages, QueueFull, TooCostly: nothing was searched.
            ServiceError: the problem of the first gallery if none can answer.
        """
        admission = self.runtime.admission
        while True:
            # If a gallery changes its embedder, search all of them again.
            with contextlib.suppress(EmbedderChanged):
                searches, problems = await self._begin()
                cost = sum(
                    search.current.model.pipeline.cost(self.images)
                    for search in _by_embedder(searches).values()
                )
                for search in searches.values():
                    model = search.current.model
                    cost += cost_of_search(model, search.gallery, self.images, self.options)
                admission.require_affordable(
                    cost,
                    "galleries, images, boxes, rerank_depth, top_k",
                    "fewer galleries, fewer or smaller images or boxes, or a smaller rerank_depth "
                    "or top_k",
                )
                async with admission.admit(cost):
                    await self.runtime.model.pipeline.open_frame(self.images)
                    if self.options.mode != "separate" or not self.images:
                        return [await self._answer(searches, problems, self.images)]
                    return await gather_all(
                        self._answer_image(searches, problems, image) for image in self.images
                    )

    async def _begin(self) -> tuple[dict[str, Search], dict[str, ServiceError]]:
        options = self.options
        source = None
        if options.gallery:
            home = await self.runtime.galleries.find(options.gallery)
            search = begin_search(self.runtime, home, self.images, options, self.sample)
            source = await search_by_crops(self.runtime, search)

        searches: dict[str, Search] = {}
        problems: dict[str, ServiceError] = {}
        for name in self.names:
            try:
                gallery = await self.runtime.galleries.find(name)
                search = begin_search(self.runtime, gallery, self.images, options, self.sample)
                if source is not None:
                    search = _search_by_crops_of(source, search)
                searches[name] = replace(search, galleries=len(self.names))
            except OF_ONE_GALLERY as error:
                problems[name] = error
        if not searches:
            raise problems[self.names[0]]
        return searches, problems

    async def _answer_image(
        self,
        searches: Mapping[str, Search],
        problems: Mapping[str, ServiceError],
        image: ImageFile,
    ) -> GalleriesAnswer | RefusedImage:
        try:
            return await self._answer(searches, problems, [image])
        except UnusableImages as error:
            return refused_image(error.first)

    async def _answer(
        self,
        searches: Mapping[str, Search],
        unsearched: Mapping[str, ServiceError],
        images: Sequence[ImageFile],
    ) -> GalleriesAnswer:
        runtime = self.runtime
        embeddings = {
            embedder: submit_images(runtime, search, images)
            for embedder, search in _by_embedder(searches).items()
        }
        problems = dict(unsearched)

        async def search_gallery(name: str, search: Search) -> QueryAnswer | None:
            embedding = embeddings[search.current.model.embedder]
            try:
                answered = await answer_search(runtime, search, embedding, self.began)
            except OF_ONE_GALLERY as error:
                problems[name] = error
                return None
            return answered.answer

        found = await gather_all(search_gallery(*searched) for searched in searches.items())
        answers = {name: answer for name, answer in zip(searches, found, strict=True) if answer}
        if not answers:
            raise problems[self.names[0]]
        warnings = [warning for answer in answers.values() for warning in answer.warnings]
        for name, refused in problems.items():
            runtime.metrics.problems.labels(refused.code).inc()
            warnings.append(f"gallery {name!r} was not searched: {refused.detail}")
        far = SEARCH_OPERATING_POINTS[self.options.operating_point]
        return GalleriesAnswer(
            verdict=min((answer.verdict for answer in answers.values()), key=BEST_FIRST.index),
            far=far,
            gallery_far=far / len(self.names),
            warnings=list(dict.fromkeys(warnings)),
            results=_merged(answers, self.options.top_k),
            galleries=[
                GalleryAnswer(gallery=name, **dict(answers[name]))
                if name in answers
                else RefusedGallery(gallery=name, problem=problems[name].document())
                for name in self.names
            ],
            timing_ms=max(
                (answer.timing_ms for answer in answers.values()), key=lambda timing: timing.total
            ),
        )


def _by_embedder(searches: Mapping[str, Search]) -> dict[str, Search]:
    return {search.current.model.embedder: search for search in searches.values()}


def _search_by_crops_of(source: Search, search: Search) -> Search:
    """Return the search with the features of crops that may belong to another gallery.

    Raises:
        InvalidField: the features were made by another embedder.
    """
    home = source.gallery
    if search.gallery is home:
        return source
    if search.current.model is not source.current.model:
        raise InvalidField(
            f"gallery: the vectors of gallery {search.gallery.name!r} are from another embedder "
            f"than those of {home.name!r} and cannot be compared; send the image"
        )
    # The crops searched by need not exist in this gallery.
    options = search.options.model_copy(update={"crop_id": ()})
    crops = source.query_crops
    return replace(search, queries=source.queries, query_crops=crops, options=options)


def _merged(answers: Mapping[str, QueryAnswer], top_k: int) -> list[RankedCrop]:
    """Merge rankings by probability; ties keep the order of the galleries."""
    ranked = [(name, crop) for name, answer in answers.items() for crop in answer.results]
    best = sorted(ranked, key=lambda crop: _place(crop[1]))
    return [
        crop.model_copy(update={"rank": rank, "gallery": name})
        for rank, (name, crop) in enumerate(best[:top_k], 1)
    ]


def _place(crop: RankedCrop) -> tuple[bool, float, float]:
    # Crops without a score come last.
    return crop.probability is None, -(crop.probability or 0.0), -crop.cosine
