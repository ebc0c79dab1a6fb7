"""What networks obtain on the people held out: ranking, and answers by thresholds."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from pydantic import BaseModel, ConfigDict

from model.calibration import SEARCH_OPERATING_POINTS, Calibration, Scoring
from training.evaluation.blending import Moments, impostor_moments
from training.evaluation.metrics import rank_queries
from training.evaluation.open_set import search_extremes, thresholds_of
from training.evaluation.pair_scores import SearchScores

OPERATING_POINT = "far_1e-2"


class Answers(BaseModel):
    """What the searches of one data set are answered at `OPERATING_POINT`, a 0 or 1 each.

    Attributes:
        alarms: whether a search without its person in the gallery would be answered `match`.
        found: whether the person is first and a `match`, of searches whose person is there.
        people, people_found: whose search each is, numbered.
    """

    model_config = ConfigDict(frozen=True)

    alarms: tuple[float, ...]
    found: tuple[float, ...]
    people: tuple[int, ...]
    people_found: tuple[int, ...]


class Quality(BaseModel):
    """What the held-out people's queries obtain.

    Attributes:
        name: whose networks these are.
        precisions: average precision by scoring and data set, a value per query, 0 to 1.
        people: by data set, whose query each is, numbered.
        answers: by scoring and data set; empty where there is no calibration.
        impostors: by scoring, moments of the scores of different people; empty likewise.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    precisions: dict[Scoring, dict[str, tuple[float, ...]]]
    people: dict[str, tuple[int, ...]]
    answers: dict[Scoring, dict[str, Answers]]
    impostors: dict[Scoring, Moments]

    @property
    def best(self) -> tuple[Scoring, float]:
        """The scoring with the highest mean mAP over the data sets, and that mean."""
        means = {
            scoring: float(np.mean([np.mean(values) for values in sets.values()]))
            for scoring, sets in self.precisions.items()
        }
        scoring = max(means, key=lambda name: means[name])
        return scoring, means[scoring]


def measure(
    name: str, scores: Mapping[str, SearchScores], calibration: Calibration | None
) -> Quality:
    """Measures by cosine and, where there is an M-Net, by its scores.

    Args:
        name: whose networks these are.
        scores: by data set, of its search.
        calibration: gives the thresholds; None where there is none.
    """
    precisions: dict[Scoring, dict[str, tuple[float, ...]]] = {}
    answers: dict[Scoring, dict[str, Answers]] = {}
    people: dict[str, tuple[int, ...]] = {}
    for dataset, own in scores.items():
        for scoring, rows in own.by_scoring.items():
            found = rank_queries(rows, own.labels)
            precisions.setdefault(scoring, {})[dataset] = tuple(found.average_precision.tolist())
            people[dataset] = tuple(own.labels.query_identities[found.queries].tolist())
            if calibration is not None:
                answers.setdefault(scoring, {})[dataset] = _answers(own, scoring, calibration)
    return Quality(
        name=name,
        precisions=precisions,
        people=people,
        answers=answers,
        impostors=impostor_moments(scores.values(), calibration) if calibration else {},
    )


def _answers(scores: SearchScores, scoring: Scoring, calibration: Calibration) -> Answers:
    extremes = search_extremes(scores.rows(calibration.fusion, scoring), scores.labels)
    asked = SEARCH_OPERATING_POINTS[OPERATING_POINT]
    one = calibration.scorings[scoring]
    thresholds = thresholds_of(one, asked, extremes.impostors)
    present = np.isfinite(extremes.best_genuine)
    return Answers(
        alarms=tuple(extremes.false_alarms(thresholds).tolist()),
        found=tuple(extremes.detections(thresholds).tolist()),
        people=tuple(extremes.identities.tolist()),
        people_found=tuple(extremes.identities[present].tolist()),
    )
