"""Blend the calibration of an adapted artefact with that of the artefact it started from.

A calibration on nine people alone gave 16 to 28% false alarms where 1% was asked for
(docs/calibration.md). The start's calibration was fitted to many more people, but to other scores.
It is rescaled by the impostor pairs of the held-out people, which both artefacts have scored.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple

import numpy as np

from model.calibration import SCORINGS, Calibration, Scoring, ScoringCalibration
from training.evaluation.scoring import SearchScores
from training.evaluation.tails import combined_tail

PEOPLE_OF_START = 50


class Moments(NamedTuple):
    """Mean and standard deviation of the scores of impostor pairs."""

    mean: float
    deviation: float


def impostor_moments(
    domains: Collection[SearchScores],
    calibration: Calibration,
) -> dict[Scoring, Moments]:
    """Compute the moments of each scoring over the cross-camera impostor pairs of all domains."""
    moments: dict[Scoring, Moments] = {}
    for scoring in SCORINGS:
        if scoring not in calibration.scorings:
            continue
        sums = np.zeros(3)
        for domain in domains:
            for scores in domain.impostor_scores(scoring):
                values = scores.astype(np.float64)
                sums += [len(values), values.sum(), np.square(values).sum()]
        mean, square = sums[1:] / max(1.0, sums[0])
        moments[scoring] = Moments(float(mean), float(max(square - mean**2, 0.0) ** 0.5))
    return moments


def blended(
    new: Calibration,
    after: Mapping[Scoring, Moments],
    start: Calibration,
    before: Mapping[Scoring, Moments],
    people: int,
) -> Calibration:
    """Mix two calibrations: of n people the new one weighs n / (n + 50), the start's the rest.

    Args:
        new: the calibration that was fitted to the people held out.
        after: the moments of their impostor pairs by the new scores.
        start: the calibration of the artefact that was adapted. For a scoring that it lacks, its
            cosine is used.
        before: the moments of the same pairs by the start's scores.
        people: the number of people held out.
    """
    weight = people / (people + PEOPLE_OF_START)
    scorings: dict[Scoring, ScoringCalibration] = {}
    for scoring in after:
        fitted = new.scorings[scoring]
        source: Scoring = scoring if scoring in before else "cosine"
        scale = after[scoring].deviation / max(before[source].deviation, 1e-9)
        offset = after[scoring].mean - scale * before[source].mean
        scorings[scoring] = fitted
        if scale > 0.0:
            scorings[scoring] = _mixed(fitted, start.scorings[source], weight, scale, offset)
    shares = f"{round(100 * weight)}% of {people}"
    data = f"{new.data} ({shares} people, else the start's: {start.data})"
    return new.model_copy(update={"scorings": scorings, "data": data})


def _mixed(
    new: ScoringCalibration,
    start: ScoringCalibration,
    weight: float,
    scale: float,
    offset: float,
) -> ScoringCalibration:
    """Average thresholds at equal false-alarm shares, and log likelihood ratios at equal scores.

    The start's are those of its scores moved to scale·s + offset; the scale is positive.
    """

    def mean(of_new: float, of_start: float) -> float:
        return weight * of_new + (1.0 - weight) * of_start

    shapes = [shape for shape in (new.tail_shape, start.tail_shape) if shape is not None]
    return ScoringCalibration(
        slope=mean(new.slope, start.slope / scale),
        intercept=mean(new.intercept, start.intercept - start.slope * offset / scale),
        impostor_tail=combined_tail(
            [new, start], lambda scores: mean(scores[0], scale * scores[1] + offset)
        ),
        tail_shape=mean(shapes[0], shapes[-1]) if shapes else None,
    )
