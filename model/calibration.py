"""From a score to a probability, and from an asked false-alarm rate to a threshold."""

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
# A scoring of versions before 0.5.0, which artefacts and records of theirs name.
WITHDRAWN_SCORING = "fused"
SEARCH_OPERATING_POINTS = {"far_1e-1": 1e-1, "far_1e-2": 1e-2, "far_1e-3": 1e-3}
# ξ where an artefact has none fitted: what most embedders measured have.
DEFAULT_TAIL_SHAPE = -0.05
PAIR_OPERATING_POINTS = {"pair_far_1e-2": 1e-2, "pair_far_1e-3": 1e-3, "pair_far_1e-4": 1e-4}


class TailPoint(Metadata):
    """One point of the impostor tail: `share` of different-person pairs score at least `score`."""

    share: float = Field(gt=0.0, le=1.0)
    score: float


class ScoringCalibration(Metadata):
    """The meaning of one scoring's numbers.

    Attributes:
        slope, intercept: slope·score + intercept is the log of genuine over impostor likelihood,
            by Platt scaling.
        impostor_tail: the upper tail of the scores of different people, rarest last.
        tail_shape: ξ of the tail of a search's best scores of other people, which the thresholds
            of a gallery without names rest on; None in older artefacts, and where too few people
            showed it: `DEFAULT_TAIL_SHAPE` then.
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
        """Return the calibration of scores scale·s + offset in place of s, with a scale above 0."""
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
        """Return the log of genuine over impostor likelihood of each score, same shape."""
        return np.asarray(self.slope * scores + self.intercept, dtype=np.float64)

    def probability(self, score: float) -> float:
        """Probability that a pair with this score shows one person, 0 to 1, at even odds."""
        logit = self.slope * score + self.intercept
        bounded = max(-60.0, min(60.0, logit))
        return 1.0 / (1.0 + math.exp(-bounded))

    def pair_threshold(self, far: float) -> float:
        """Return the score that a share `far` of different-person pairs reaches.

        Beyond the rarest pair seen the tail is continued exponentially, from its last decade.
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
        return scores[-1] + rise / run * (asked - rarity[-1])

    def search_threshold(self, far: float, gallery_size: float) -> float:
        """Return the score that the best of `gallery_size` others reaches in a share `far`.

        1 − (1 − F̄(t))^K = far with F̄ the impostor tail: scores against one gallery are taken as
        independent. They are not quite, so that the true rate is lower.
        """
        per_pair = -math.expm1(math.log1p(-far) / max(1, gallery_size))
        return self.pair_threshold(per_pair)


class Calibration(Metadata):
    """Every scoring's calibration, and the data; without M-Net cosine alone."""

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

    def operating_points(self, scoring: Scoring, gallery_size: int) -> dict[str, float]:
        """Thresholds of one scoring by the name of their operating point."""
        calibration = self.scorings[scoring]
        thresholds = {}
        for name, far in SEARCH_OPERATING_POINTS.items():
            thresholds[name] = calibration.search_threshold(far, gallery_size)
        for name, far in PAIR_OPERATING_POINTS.items():
            thresholds[name] = calibration.pair_threshold(far)
        return thresholds
