"""The calibration of an adapted artefact: its start's, and that of the few people held out.

A calibration on nine people, made alone, obtained 16 to 28% false alarms in place of 1%
(docs/calibration.md). The start's was fitted to many more, but to other scores: these are moved by
the impostor pairs of the held-out people, which both have scored.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple

import numpy as np

from model.calibration import Calibration, Scoring, ScoringCalibration
from training.evaluation.scoring import SearchScores
from training.evaluation.tails import combined_tail

PEOPLE_OF_START = 50


class Moments(NamedTuple):
    """Mean and standard deviation of the scores of different people's pairs."""

    mean: float
    deviation: float


def impostor_moments(
    domains: Collection[SearchScores],
    calibration: Calibration,
) -> dict[Scoring, Moments]:
    """Return moments of each scoring of a calibration, over all domains' cross-camera pairs."""
    found: dict[Scoring, Moments] = {}
    for scoring in calibration.scorings:
        sums = np.zeros(3)
        for domain in domains:
            for scores in domain.impostor_scores(scoring):
                values = scores.astype(np.float64)
                sums += [len(values), values.sum(), np.square(values).sum()]
        mean, square = sums[1:] / max(1.0, sums[0])
        found[scoring] = Moments(float(mean), float(max(square - mean**2, 0.0) ** 0.5))
    return found


def blended(
    new: Calibration,
    after: Mapping[Scoring, Moments],
    start: Calibration,
    before: Mapping[Scoring, Moments],
    people: int,
) -> Calibration:
    """Return the new calibration with weight n / (n + 50) for n people, and else the start's.

    Args:
        new: fitted to the people held out.
        after: moments of the same people's pairs, of the new scores.
        start: of the artefact that was adapted; a scoring that it lacks has its cosine's.
        before: moments of the same pairs, of the start's scores.
        people: how many are held out.
    """
    weight = people / (people + PEOPLE_OF_START)
    scorings: dict[Scoring, ScoringCalibration] = {}
    for scoring, fitted in new.scorings.items():
        source: Scoring = scoring if scoring in before else "cosine"
        scale = after[scoring].deviation / max(before[source].deviation, 1e-9)
        offset = after[scoring].mean - scale * before[source].mean
        scorings[scoring] = fitted
        if scale > 0.0:
            scorings[scoring] = _mixed(
                fitted,
                start.scorings[source].rescaled(scale, offset),
                weight,
            )
    shares = f"{round(100 * weight)}% of {people}"
    data = f"{new.data} ({shares} people, else the start's: {start.data})"
    return new.model_copy(update={"scorings": scorings, "data": data})


def _mixed(
    new: ScoringCalibration,
    start: ScoringCalibration,
    weight: float,
) -> ScoringCalibration:
    """Scores at equal shares, and logarithms of the ratio at equal scores, weighted."""

    def mean(both: list[float]) -> float:
        return weight * both[0] + (1.0 - weight) * both[1]

    shapes = [shape for shape in (new.tail_shape, start.tail_shape) if shape is not None]
    return ScoringCalibration(
        slope=mean([new.slope, start.slope]),
        intercept=mean([new.intercept, start.intercept]),
        impostor_tail=combined_tail([new, start], mean),
        tail_shape=mean([shapes[0], shapes[-1]]) if shapes else None,
    )
