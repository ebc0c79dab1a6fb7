"""The calibration of an artefact: probabilities of scores, and thresholds of false-alarm rates."""

from __future__ import annotations

import math
from bisect import bisect_left
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator, model_validator

from model.arrays import Array
from model.stored import Metadata, is_absent

Scoring = Literal["cosine", "mnet"]
SCORINGS: tuple[Scoring, ...] = ("cosine", "mnet")
# Artefacts and records of versions before 0.5.0 name this scoring.
WITHDRAWN_SCORING = "fused"
SEARCH_OPERATING_POINTS = {"far_1e-1": 1e-1, "far_1e-2": 1e-2, "far_1e-3": 1e-3}
# ξ of artefacts that have none: most of the embedders that were measured are close to it.
DEFAULT_TAIL_SHAPE = -0.05
PAIR_OPERATING_POINTS = {"pair_far_1e-2": 1e-2, "pair_far_1e-3": 1e-3, "pair_far_1e-4": 1e-4}


class TailPoint(Metadata):
    """A point of the impostor tail: a `share` of the pairs of different people reach `score`."""

    share: float = Field(gt=0.0, le=1.0)
    score: float


class ScoringCalibration(Metadata):
    """The calibration of one scoring.

    Attributes:
        slope, intercept: slope·score + intercept is the log of genuine over impostor likelihood,
            by Platt scaling.
        impostor_tail: upper tail of the scores of different people, rarest last.
        tail_shape: ξ of the tail of the best scores of other people in a search, on which the
            thresholds of a gallery without names rest. None in older artefacts and if too few
            people showed it; `DEFAULT_TAIL_SHAPE` takes its place.
    """

    slope: float
    intercept: float
    impostor_tail: tuple[TailPoint, ...] = Field(min_length=2)
    tail_shape: float | None = Field(
        None,
        ge=-0.5,
        le=0.5,
        exclude_if=is_absent,
    )

    @model_validator(mode="after")
    def _points_in_order(self) -> ScoringCalibration:
        for common, rare in pairwise(self.impostor_tail):
            if common.share < rare.share or common.score > rare.score:
                raise ValueError(
                    "impostor_tail must run from common, low scores to rare, high ones"
                )
        return self

    def rescaled(self, scale: float, offset: float) -> ScoringCalibration:
        """Return the calibration of scores scale·s + offset instead of s; the scale is positive."""
        tail = tuple(
            TailPoint(share=point.share, score=scale * point.score + offset)
            for point in self.impostor_tail
        )
        return self.model_copy(
            update={
                "slope": self.slope / scale,
                "intercept": self.intercept - self.slope * offset / scale,
                "impostor_tail": tail,
            }
        )

    def log_likelihood_ratios(self, scores: NDArray[np.floating]) -> Array:
        """Compute the log of genuine over impostor likelihood for each score, same shape."""
        return np.asarray(self.slope * scores + self.intercept, dtype=np.float64)

    def probability(self, score: float) -> float:
        """Return the probability at even odds that a pair with this score shows one person."""
        logit = self.slope * score + self.intercept
        bounded = max(-60.0, min(60.0, logit))
        return 1.0 / (1.0 + math.exp(-bounded))

    def pair_threshold(self, far: float) -> float:
        """Return the score that a share `far` of the pairs of different people reaches.

        Beyond its rarest point the tail continues exponentially, with the rise of its last decade.
        """
        points = self.impostor_tail
        rarity = [-math.log(point.share) for point in points]
        scores = [point.score for point in points]
        asked = -math.log(far)
        if asked <= rarity[-1]:
            return float(np.interp(asked, rarity, scores))
        decade = bisect_left(rarity, rarity[-1] - math.log(10.0))
        first = min(decade, len(points) - 2)
        run = max(rarity[-1] - rarity[first], 1e-9)
        rise = scores[-1] - scores[first]
        beyond = asked - rarity[-1]
        return scores[-1] + rise / run * beyond

    def search_threshold(self, far: float, gallery_size: float) -> float:
        """Return the score that the best of `gallery_size` other people reaches in a share `far`.

        It solves 1 − (1 − F̄(t))^K = far with the impostor tail F̄, as if scores within one gallery
        were independent. They are not quite, so that the true rate is lower.
        """
        per_pair = -math.expm1(math.log1p(-far) / max(1, gallery_size))
        return self.pair_threshold(per_pair)


class Calibration(Metadata):
    """The calibrations of all scorings, and their data; an artefact without M-Net has cosine alone.

    Attributes:
        genuine_pairs, impostor_pairs: number of pairs of one person and of different people.
        data: description of the data in words.
    """

    scorings: dict[Scoring, ScoringCalibration]
    genuine_pairs: int = Field(ge=1)
    impostor_pairs: int = Field(ge=1)
    data: str

    @field_validator("scorings", mode="before")
    @classmethod
    def _without_withdrawn(cls, stored: Any) -> Any:
        if not isinstance(stored, dict):
            return stored
        return {name: fit for name, fit in stored.items() if name != WITHDRAWN_SCORING}

    @model_validator(mode="after")
    def _complete(self) -> Calibration:
        if "cosine" not in self.scorings:
            raise ValueError("no calibration for cosine")
        return self

    def operating_points(
        self,
        scoring: Scoring,
        gallery_size: int,
    ) -> dict[str, float]:
        """Return the thresholds of one scoring by the names of their operating points."""
        calibration = self.scorings[scoring]
        thresholds = {}
        for name, far in SEARCH_OPERATING_POINTS.items():
            thresholds[name] = calibration.search_threshold(far, gallery_size)
        for name, far in PAIR_OPERATING_POINTS.items():
            thresholds[name] = calibration.pair_threshold(far)
        return thresholds
