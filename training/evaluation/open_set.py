"""Open-set search: what a threshold answers when the person is absent, and when they are there.

FPIR is the share of searches for an absent person that are answered with a match; DIR the share of
searches for a present one whose best answer is that person and reaches the threshold (ISO 19795).

Thresholds are an artefact's own; or the best there is, the lowest at which the searches of people
who are not enrolled raise no more false alarms than asked, so that a ready-made model, which has no
calibration, is measured as an artefact is.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.calibration import SEARCH_OPERATING_POINTS, ScoringCalibration
from training.evaluation.intervals import LEVEL, Estimate, mean_interval
from training.evaluation.metrics import PairLabels, ScoreRows
from training.evaluation.results import HalfEnrolledResult, OperatingPointResult

FALSE_ALARM_RATE = 0.01
DRAWS = 10
RESAMPLES = 200
CURVE_POINTS = 100


class SearchExtremes(NamedTuple):
    """All that an open-set figure needs of every query, `(Q,)` each.

    Attributes:
        best_genuine: the best score of the person under another camera; −inf where there is none.
        best_impostor: the best score of anyone else; −inf where there is none.
        impostors: number of gallery images of anyone else.
        identities: whose query it is, for an interval over people.
    """

    best_genuine: NDArray[np.float32]
    best_impostor: NDArray[np.float32]
    impostors: NDArray[np.int64]
    identities: NDArray[np.int64]

    @property
    def present(self) -> NDArray[np.bool_]:
        """True if the person is in the gallery, `(Q,)`."""
        return np.asarray(np.isfinite(self.best_genuine))

    def thresholds(self, calibration: ScoringCalibration, asked: float) -> NDArray[np.float64]:
        """Each search's threshold of a false-alarm rate, by the size of its gallery, `(Q,)`."""
        distinct, which = np.unique(self.impostors, return_inverse=True)
        return np.array([calibration.search_threshold(asked, int(n)) for n in distinct])[which]

    def false_alarms(self, thresholds: NDArray[np.float64] | float) -> NDArray[np.float64]:
        """1 where a search without the person in the gallery is answered with a match, `(Q,)`."""
        return np.asarray(self.best_impostor >= thresholds, dtype=np.float64)

    def detections(self, thresholds: NDArray[np.float64] | float) -> NDArray[np.float64]:
        """1 where a search of a person present has the right match first, `(N,)`."""
        found = (self.best_genuine > self.best_impostor) & (self.best_genuine >= thresholds)
        return np.asarray(found[self.present], dtype=np.float64)


def search_extremes(score_rows: ScoreRows, labels: PairLabels) -> SearchExtremes:
    """Reads off every query's best scores, in bounded memory.

    Junk and images of the query's own identity and camera are in no gallery; images of others
    under the query's own camera are, unless the labels say that only other cameras count.
    """
    known = labels.gallery_identities[None, :] >= 0
    genuine, impostor, impostors = _best_scores(score_rows, labels, known)
    return SearchExtremes(genuine, impostor[0], impostors[0], labels.query_identities)


def operating_points(
    extremes: SearchExtremes, calibration: ScoringCalibration
) -> list[OperatingPointResult]:
    """Asked against obtained false-alarm rate, with the detection rate, at every operating point.

    The intervals are over people, since the searches for one person are alike.
    """
    usual_size = int(np.median(extremes.impostors))
    found = []
    for name, asked in SEARCH_OPERATING_POINTS.items():
        thresholds = extremes.thresholds(calibration, asked)
        alarms = extremes.false_alarms(thresholds)
        detections = extremes.detections(thresholds)
        found.append(
            OperatingPointResult(
                name=name,
                asked=asked,
                threshold=calibration.search_threshold(asked, usual_size),
                false_alarm_rate=mean_interval(alarms, extremes.identities),
                detection_rate=mean_interval(detections, extremes.identities[extremes.present]),
            )
        )
    return found


def detection_curve(extremes: SearchExtremes) -> list[tuple[float, float]]:
    """The DIR/FAR curve: false-alarm rates from 1/Q to 1, ascending, and the detection rate."""
    rates = np.geomspace(1.0 / len(extremes.best_impostor), 1.0, CURVE_POINTS)
    alarms = np.sort(extremes.best_impostor)[::-1].astype(np.float64)
    counts = np.clip((rates * len(alarms)).round().astype(int), 1, len(alarms))
    detected = [float(extremes.detections(alarms[count - 1]).mean()) for count in counts]
    return list(zip(rates.tolist(), detected, strict=True))


def half_enrolled(score_rows: ScoreRows, labels: PairLabels) -> HalfEnrolledResult | None:
    """Detection at `FALSE_ALARM_RATE` obtained, with half of the people enrolled and all searched.

    Only crops of people with queries are enrolled: junk and distractors are not.

    Returns:
        None where there are fewer than four people, or too few searches of each kind.
    """
    people, owner = np.unique(labels.query_identities, return_inverse=True)
    if len(people) < 4:
        return None
    random = np.random.default_rng(0)
    half = len(people) // 2
    chosen = np.zeros((DRAWS, len(people)), dtype=bool)
    for draw in chosen:
        draw[random.choice(len(people), half, replace=False)] = True
    place = np.searchsorted(people, labels.gallery_identities).clip(max=len(people) - 1)
    enrolled = chosen[:, place] & (people[place] == labels.gallery_identities)
    genuine, impostor, _ = _best_scores(score_rows, labels, enrolled)
    found = []
    for resample in range(RESAMPLES + 1):
        drawn = random.integers(0, len(people), len(people))
        counts = np.bincount(drawn, minlength=len(people)).astype(np.float64)
        weights = counts if resample else np.ones(len(people))
        rates = [
            _detection(genuine, others, own[owner], weights[owner])
            for others, own in zip(impostor, chosen, strict=True)
        ]
        # With few people a draw may lack enrolled people with a query, or strangers.
        found += [float(np.nanmean(rates))] if np.isfinite(rates).any() else []
    if len(found) < RESAMPLES // 2:
        return None
    low, high = np.quantile(found[1:], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return HalfEnrolledResult(
        enrolled=half,
        false_alarm_rate=FALSE_ALARM_RATE,
        detection_rate=Estimate(mean=found[0], low=float(low), high=float(high)),
    )


def _best_scores(
    score_rows: ScoreRows, labels: PairLabels, enrolled: NDArray[np.bool_]
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]:
    """Every query's best score of its own person and, for each choice of gallery rows, of others.

    Args:
        score_rows, labels: of one search.
        enrolled: the rows of the gallery that other people may have, `(k, G)`.

    Returns:
        The best genuine scores `(Q,)`; the best impostor scores and how many there are, `(k, Q)`.
    """
    queries = len(labels.query_identities)
    lowest = np.float32(-np.inf)
    genuine = np.empty(queries, dtype=np.float32)
    impostor = np.empty((len(enrolled), queries), dtype=np.float32)
    counts = np.empty((len(enrolled), queries), dtype=np.int64)
    for block in labels.blocks():
        scores = score_rows(block)
        own = labels.query_identities[block, None] == labels.gallery_identities[None, :]
        across = labels.query_cameras[block, None] != labels.gallery_cameras[None, :]
        genuine[block] = np.max(scores, axis=1, where=own & across, initial=lowest)
        others = ~own & across if labels.other_cameras_only else ~own
        for number, held in enumerate(enrolled):
            columns = np.flatnonzero(held)
            valid = others[:, columns]
            impostor[number, block] = np.max(
                scores[:, columns], axis=1, where=valid, initial=lowest
            )
            counts[number, block] = valid.sum(axis=1)
    return genuine, impostor, counts


def _detection(
    genuine: NDArray[np.float32],
    impostor: NDArray[np.float32],
    is_enrolled: NDArray[np.bool_],
    weights: NDArray[np.float64],
) -> float:
    """The detection rate of one draw at the best threshold; not a number without searches."""
    alarms = impostor[~is_enrolled]
    alarm_weights = weights[~is_enrolled]
    present = is_enrolled & np.isfinite(genuine)
    searches = float(weights[present].sum())
    if not alarm_weights.sum() or not searches:
        return float("nan")
    order = np.argsort(-alarms, kind="stable")
    above = np.cumsum(alarm_weights[order]) > FALSE_ALARM_RATE * alarm_weights.sum()
    # The highest score that must not alarm.
    limit = alarms[order][int(np.argmax(above))]
    found = present & (genuine > impostor) & (genuine > limit)
    return float(weights[found].sum()) / searches
