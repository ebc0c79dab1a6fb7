"""The calibration of an artefact: probabilities of scores, and thresholds of false-alarm rates."""

from __future__ import annotations

import math
from bisect import bisect_left
from itertools import pairwise
from typing import Literal, NotRequired

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator
from typing_extensions import TypedDict

from model.arrays import Array, sigmoid
from model.stored import Metadata, is_absent

Scoring = Literal["cosine", "mnet"]
SCORINGS: tuple[Scoring, ...] = ("cosine", "mnet")
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
            thresholds of a gallery without names rest. None if too few people showed it; then
            `DEFAULT_TAIL_SHAPE` takes its place.
    """

    slope: float
    intercept: float
    impostor_tail: tuple[TailPoint, ...] = Field(min_length=2)
    tail_shape: float | None = Field(None, exclude_if=is_absent)

    @model_validator(mode="after")
    def _points_in_order(self) -> ScoringCalibration:
        for common, rare in pairwise(self.impostor_tail):
            if common.share < rare.share or common.score > rare.score:
                raise ValueError(
                    "impostor_tail must run from common, low scores to rare, high ones"
                )
        return self

    def log_likelihood_ratios(self, scores: NDArray[np.floating]) -> Array:
        """Compute the log of genuine over impostor likelihood for each score, same shape."""
        return np.asarray(self.slope * scores + self.intercept, dtype=np.float64)

    def probability(self, scores: NDArray[np.floating]) -> Array:
        """Compute the probability at even odds that a pair with each score shows one person."""
        return sigmoid(self.log_likelihood_ratios(scores))

    def pair_threshold(self, far: float) -> float:
        """Return the score that a share `far` of the pairs of different people reaches.

        Beyond its rarest point the tail continues exponentially, with the rise of its last decade.
        """
        rarity = [-math.log(point.share) for point in self.impostor_tail]
        scores = [point.score for point in self.impostor_tail]
        asked = -math.log(far)
        decade = bisect_left(rarity, rarity[-1] - math.log(10.0))
        first = min(decade, len(rarity) - 2)
        rise = (scores[-1] - scores[first]) / max(rarity[-1] - rarity[first], 1e-9)
        return float(np.interp(asked, rarity, scores)) + rise * max(asked - rarity[-1], 0.0)

    def search_threshold(self, far: float, gallery_size: float) -> float:
        """Return the score that the best of `gallery_size` other people reaches in a share `far`.

        It solves 1 − (1 − F̄(t))^K = far with the impostor tail F̄, as if scores within one gallery
        were independent. They are not quite, so that the true rate is lower.
        """
        per_pair = -math.expm1(math.log1p(-far) / max(1, gallery_size))
        return self.pair_threshold(per_pair)

    def operating_points(self, gallery_size: int) -> dict[str, float]:
        """Return all thresholds by the names of their operating points."""
        searches = {
            name: self.search_threshold(far, gallery_size)
            for name, far in SEARCH_OPERATING_POINTS.items()
        }
        pairs = {name: self.pair_threshold(far) for name, far in PAIR_OPERATING_POINTS.items()}
        return searches | pairs


class Scorings(TypedDict):
    """The calibration of each scoring; an artefact without M-Net has cosine alone."""

    cosine: ScoringCalibration
    mnet: NotRequired[ScoringCalibration]


class Calibration(Metadata):
    """The calibrations of all scorings, and their data.

    Attributes:
        genuine_pairs, impostor_pairs: number of pairs of one person and of different people.
        data: description of the data in words.
    """

    scorings: Scorings
    genuine_pairs: int
    impostor_pairs: int
    data: str
