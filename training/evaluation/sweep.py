"""Compute the figures of thresholds, in one pass over the scores of a search.

FPIR, the false-alarm rate, is the share of searches for an absent person that are answered with a
match. DIR, the detection rate, is the share of searches for a present person whose best answer is
that person and reaches the threshold (ISO 19795). FNIR, the miss rate, is the share of searches for
a present person who does not reach the threshold, at whatever rank (NIST IR 8271). TAR@FAR and the
histograms are over pairs under different cameras. They are exact, although only the highest
hundredth of impostor scores is kept.

Thresholds are those of an artefact. A ready-made model has none: for it, and for a comparison with
it, the best threshold is used, which is the lowest at which searches for people who are not
enrolled raise no more false alarms than asked.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.arrays import Array, Codes, Floats
from model.calibration import SEARCH_OPERATING_POINTS, ScoringCalibration
from training.evaluation.intervals import LEVEL, Estimate, mean_interval
from training.evaluation.metrics import PairLabels, ScoreRows
from training.evaluation.results import (
    HalfEnrolledResult,
    OperatingPointResult,
    ScoreDistribution,
    VerificationResult,
)

FALSE_ALARM_RATE = 0.01
FALSE_ACCEPT_RATES = (1e-2, 1e-3, 1e-4)
DRAWS = 10
RESAMPLES = 200
CURVE_POINTS = 100
BINS = 80
CALIBRATION_BINS = 15


@dataclass(frozen=True)
class Sweep:
    """The scores of a search that its figures need.

    Attributes:
        best_genuine: the best score of the person under another camera, `(Q,)`; −inf if there is
            none.
        best_impostor: the best score of other people, `(Q,)`; −inf if there is none.
        half_impostor: the same with a random half of the people enrolled, `(DRAWS, Q)`.
        impostors: the number of gallery images of other people, `(Q,)`.
        identities: the person of each query, `(Q,)`, for intervals over people.
        genuine, genuine_people: the scores of all genuine pairs under different cameras, and their
            people, `(n,)`.
        highest_impostors: the highest scores of impostor pairs under different cameras, descending.
        impostor_pairs: the number of all such impostor pairs.
        lowest, highest: the lowest and the highest score of pairs under different cameras.
    """

    best_genuine: Floats
    best_impostor: Floats
    half_impostor: Floats
    impostors: Codes
    identities: Codes
    genuine: Floats
    genuine_people: Codes
    highest_impostors: Floats
    impostor_pairs: int
    lowest: float
    highest: float

    @property
    def present(self) -> NDArray[np.bool_]:
        """Says which queries have their person in the gallery, `(Q,)`."""
        return np.asarray(np.isfinite(self.best_genuine))

    def thresholds(self, calibration: ScoringCalibration, asked: float) -> Array:
        """Return the threshold of each search, by false-alarm rate and gallery size, `(Q,)`."""
        distinct, which = np.unique(self.impostors, return_inverse=True)
        return np.array([calibration.search_threshold(asked, int(n)) for n in distinct])[which]

    def false_alarms(self, thresholds: Array | float) -> Array:
        """Return 1 for each search that would be a false alarm without its person, `(Q,)`."""
        return np.asarray(self.best_impostor >= thresholds, dtype=np.float64)

    def detections(self, thresholds: Array | float) -> Array:
        """Return 1 for each search for a present person that finds the person first, `(N,)`."""
        found = (self.best_genuine > self.best_impostor) & (self.best_genuine >= thresholds)
        return np.asarray(found[self.present], dtype=np.float64)


def sweep(score_rows: ScoreRows, labels: PairLabels) -> Sweep:
    """Collect the scores that the figures of a search need, in bounded memory.

    Junk, and images of the query's own identity and camera, are in no gallery. Images of other
    people under the query's camera are, unless the labels say that only other cameras count. The
    random halves are drawn from people with queries, so that distractors are never enrolled.
    """
    queries = len(labels.query_identities)
    gallery = labels.gallery_identities
    people = np.unique(labels.query_identities)
    place = np.searchsorted(people, gallery).clip(max=len(people) - 1)
    halves = _halves(len(people), np.random.default_rng(0))
    enrolled = np.vstack([gallery >= 0, halves[:, place] & (people[place] == gallery)])
    best_genuine = np.empty(queries, dtype=np.float32)
    best_impostor = np.empty((len(enrolled), queries), dtype=np.float32)
    impostors = np.empty(queries, dtype=np.int64)
    genuine: list[Floats] = []
    whose: list[Codes] = []
    highest = np.empty(0, np.float32)
    highest_count = int(max(FALSE_ACCEPT_RATES) * queries * len(gallery)) + 1
    impostor_pairs = 0
    lowest = np.inf
    nothing = np.float32(-np.inf)
    for block in labels.blocks():
        scores = score_rows(block)
        is_same_person = labels.query_identities[block, None] == gallery[None, :]
        across = labels.query_cameras[block, None] != labels.gallery_cameras[None, :]
        best_genuine[block] = np.max(scores, axis=1, where=is_same_person & across, initial=nothing)
        others = ~is_same_person & across if labels.other_cameras_only else ~is_same_person
        impostors[block] = (others & enrolled[0]).sum(axis=1)
        for number, held in enumerate(enrolled):
            columns = np.flatnonzero(held)
            best_impostor[number, block] = np.max(
                scores[:, columns], axis=1, where=others[:, columns], initial=nothing
            )
        same, other = labels.across_cameras(block)
        genuine.append(scores[same])
        whose.append(np.repeat(labels.query_identities[block], same.sum(axis=1)))
        different = scores[other]
        impostor_pairs += len(different)
        lowest = min(lowest, different.min(initial=np.inf), genuine[-1].min(initial=np.inf))
        highest = np.concatenate([highest, different])
        if len(highest) > highest_count:
            highest = np.partition(highest, len(highest) - highest_count)[-highest_count:]
    all_genuine = np.concatenate(genuine)
    return Sweep(
        best_genuine=best_genuine,
        best_impostor=best_impostor[0],
        half_impostor=best_impostor[1:],
        impostors=impostors,
        identities=labels.query_identities,
        genuine=all_genuine,
        genuine_people=np.concatenate(whose),
        highest_impostors=np.sort(highest)[::-1],
        impostor_pairs=impostor_pairs,
        lowest=float(lowest),
        highest=float(max(all_genuine.max(initial=nothing), highest.max(initial=nothing))),
    )


def _halves(people: int, random: np.random.Generator) -> NDArray[np.bool_]:
    """Draw random halves of the people, `(DRAWS, people)`."""
    chosen = np.zeros((DRAWS, people), dtype=bool)
    for draw in chosen:
        draw[random.choice(people, people // 2, replace=False)] = True
    return chosen


def operating_points(swept: Sweep, calibration: ScoringCalibration) -> list[OperatingPointResult]:
    """Measure the rates at the operating points, with intervals over people."""
    usual_size = int(np.median(swept.impostors))
    points = []
    for name, asked in SEARCH_OPERATING_POINTS.items():
        thresholds = swept.thresholds(calibration, asked)
        detections = swept.detections(thresholds)
        points.append(
            OperatingPointResult(
                name=name,
                asked=asked,
                threshold=calibration.search_threshold(asked, usual_size),
                false_alarm_rate=mean_interval(swept.false_alarms(thresholds), swept.identities),
                detection_rate=mean_interval(detections, swept.identities[swept.present]),
            )
        )
    return points


def detection_curve(swept: Sweep) -> list[tuple[float, float]]:
    """Return pairs of false-alarm rate, from 1/Q to 1 and ascending, and detection rate."""
    rates = np.geomspace(1.0 / len(swept.best_impostor), 1.0, CURVE_POINTS)
    alarms = np.sort(swept.best_impostor)[::-1].astype(np.float64)
    counts = np.clip((rates * len(alarms)).round().astype(int), 1, len(alarms))
    detected = [float(swept.detections(alarms[count - 1]).mean()) for count in counts]
    return list(zip(rates.tolist(), detected, strict=True))


def half_enrolled(swept: Sweep) -> HalfEnrolledResult | None:
    """Measure DIR and FNIR at `FALSE_ALARM_RATE` if half of the people are enrolled.

    Returns:
        The result; None if there are fewer than four people, or too few searches of each kind.
    """
    people, owner = np.unique(swept.identities, return_inverse=True)
    if len(people) < 4:
        return None
    random = np.random.default_rng(0)
    enrolled = _halves(len(people), random)[:, owner]
    # The means over the draws of both rates: of all people, then of each resample of them.
    means: list[Array] = []
    for resample in range(RESAMPLES + 1):
        drawn = random.integers(0, len(people), len(people))
        counts = np.bincount(drawn, minlength=len(people)).astype(np.float64)
        weights = counts if resample else np.ones(len(people))
        rates = np.array(
            [
                _detection_and_miss_rate(swept.best_genuine, impostor, is_enrolled, weights[owner])
                for impostor, is_enrolled in zip(swept.half_impostor, enrolled, strict=True)
            ]
        )
        # A draw of few people may have no searches for enrolled people, or none for strangers.
        if np.isfinite(rates).any():
            means.append(np.nanmean(rates, axis=0))
    if len(means) < RESAMPLES // 2:
        return None
    ends = np.quantile(means[1:], [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    detection_rate, miss_rate = (
        Estimate(mean=mean, low=low, high=high)
        for mean, low, high in np.vstack([means[:1], ends]).T.tolist()
    )
    return HalfEnrolledResult(
        enrolled=len(people) // 2,
        detection_rate=detection_rate,
        miss_rate=miss_rate,
    )


def _detection_and_miss_rate(
    genuine: Floats,
    impostor: Floats,
    is_enrolled: NDArray[np.bool_],
    weights: Array,
) -> tuple[float, float]:
    """Return DIR and FNIR of one draw at the best threshold; both NaN without searches."""
    alarms = impostor[~is_enrolled]
    alarm_weights = weights[~is_enrolled]
    present = is_enrolled & np.isfinite(genuine)
    searches = float(weights[present].sum())
    if not alarm_weights.sum() or not searches:
        return float("nan"), float("nan")
    order = np.argsort(-alarms, kind="stable")
    above = np.cumsum(alarm_weights[order]) > FALSE_ALARM_RATE * alarm_weights.sum()
    # The highest score that must not alarm.
    limit = alarms[order][int(np.argmax(above))]
    reaches = present & (genuine > limit)
    detected = reaches & (genuine > impostor)
    hits = float(weights[reaches].sum())
    return float(weights[detected].sum()) / searches, 1.0 - hits / searches


def true_accept_rates(swept: Sweep) -> list[VerificationResult]:
    """Return the share of accepted genuine pairs at each false accept rate.

    The threshold is the lowest that accepts no more impostor pairs than asked. Rates of less than
    one impostor pair cannot be measured and are left out.
    """
    results = []
    for rate in FALSE_ACCEPT_RATES:
        # The factor makes up for rounding: 0.01 of 100 pairs must allow one pair.
        allowed = int(rate * swept.impostor_pairs * (1.0 + 1e-9))
        if allowed < 1 or not len(swept.genuine):
            continue
        refused = swept.highest_impostors[allowed]
        accepted = (swept.genuine > refused).astype(np.float64)
        wrong = np.count_nonzero(swept.highest_impostors > refused)
        results.append(
            VerificationResult(
                asked=rate,
                threshold=float(np.nextafter(refused, np.float32(np.inf))),
                false_accept_rate=float(wrong / swept.impostor_pairs),
                true_accept_rate=mean_interval(accepted, swept.genuine_people),
            )
        )
    return results


def histograms(
    score_rows: ScoreRows, labels: PairLabels, swept: Sweep, calibration: ScoringCalibration
) -> tuple[ScoreDistribution, float]:
    """Return the distribution of scores, and the expected calibration error, 0 to 1.

    The error is the mean distance between predicted probabilities and the share of genuine pairs,
    over 15 equal bins of probability (Guo et al., ICML 2017). Genuine and impostor pairs weigh one
    half each, as the probability is defined.
    """
    high = swept.highest if swept.highest > swept.lowest else swept.lowest + 1.0
    edges = np.linspace(swept.lowest, high, BINS + 1)
    counts = np.zeros((2, BINS), dtype=np.int64)
    bin_counts = np.zeros((2, CALIBRATION_BINS))
    predicted = np.zeros((2, CALIBRATION_BINS))
    for block in labels.blocks():
        scores = score_rows(block)
        for row, mask in enumerate(labels.across_cameras(block)):
            of_kind = scores[mask]
            counts[row] += np.histogram(of_kind.astype(np.float64), edges)[0]
            probability = calibration.probability(of_kind)
            bins = np.minimum((probability * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
            bin_counts[row] += np.bincount(bins, minlength=CALIBRATION_BINS)
            predicted[row] += np.bincount(bins, weights=probability, minlength=CALIBRATION_BINS)
    totals = np.maximum(bin_counts.sum(axis=1, keepdims=True), 1.0)
    true_share = 0.5 * bin_counts / totals
    predicted_share = 0.5 * predicted / totals
    error = float(np.abs(predicted_share.sum(axis=0) - true_share[0]).sum())
    genuine, impostor = counts.tolist()
    return ScoreDistribution(edges=edges.tolist(), genuine=genuine, impostor=impostor), error
