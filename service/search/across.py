"""Queries of several galleries at once: their options, and the merged answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from pydantic import Field, model_validator

from gmn_client.models import (
    GalleriesAnswer,
    GalleryAnswer,
    RankedCrop,
    RefusedGallery,
    SearchVerdict,
)
from model.calibration import SEARCH_OPERATING_POINTS
from service.errors import InvalidField
from service.search.options import Id, Names, QueryOptions
from service.search.query import AnsweredQuery

MOST_GALLERIES = 20
BEST_FIRST: Sequence[SearchVerdict] = ("match", "uncertain", "no_match", "nothing_searched")


class GalleriesOptions(QueryOptions):
    """Options of a query of several galleries."""

    galleries: Names = Field((), max_length=MOST_GALLERIES)
    """Repeated or comma-separated; default: all that the key may access."""
    gallery: Id | None = None
    """The gallery of `crop_id` or `track`."""

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


def merge_answers(
    names: Sequence[str], query: AnsweredQuery, options: QueryOptions
) -> GalleriesAnswer:
    """Merge the rankings of galleries by probability; ties keep the order of the galleries.

    Args:
        names: all galleries of the query, in its order.
    """
    problems = query.problems
    answers = {name: query.answers[name] for name in names if name in query.answers}
    warnings = [warning for answer in answers.values() for warning in answer.warnings]
    for name, refused in problems.items():
        warnings.append(f"gallery {name!r} was not searched: {refused.detail}")
    far = SEARCH_OPERATING_POINTS[options.operating_point]
    ranked = [(name, crop) for name, answer in answers.items() for crop in answer.results]
    best = sorted(ranked, key=lambda crop: _place(crop[1]))[: options.top_k]
    return GalleriesAnswer(
        verdict=min((answer.verdict for answer in answers.values()), key=BEST_FIRST.index),
        far=far,
        gallery_far=far / len(names),
        warnings=list(dict.fromkeys(warnings)),
        results=[
            crop.model_copy(update={"rank": rank, "gallery": name})
            for rank, (name, crop) in enumerate(best, 1)
        ],
        galleries=[
            GalleryAnswer(gallery=name, **dict(answers[name]))
            if name in answers
            else RefusedGallery(gallery=name, problem=problems[name].document())
            for name in names
        ],
        timing_ms=max(
            (answer.timing_ms for answer in answers.values()), key=lambda timing: timing.total
        ),
    )


def _place(crop: RankedCrop) -> tuple[bool, float, float]:
    # Crops without a score come last.
    return crop.probability is None, -(crop.probability or 0.0), -crop.cosine
