"""The scores of pairs under different cameras: histograms, true probabilities, and TAR@FAR.

Genuine pairs are the positives: two crops of one person. All figures are exact and in bounded
memory: of the impostor scores only the highest are kept, one in a hundred.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from model.calibration import ScoringCalibration
from training.evaluation.intervals import mean_interval
from training.evaluation.metrics import PairLabels, ScoreRows, scored_pairs
from training.evaluation.results import ScoreDistribution, VerificationResult

BINS = 80
CALIBRATION_BINS = 15
FALSE_ACCEPT_RATES = (1e-2, 1e-3, 1e-4)


def score_distribution(score_rows: ScoreRows, labels: PairLabels) -> ScoreDistribution:
    """Histograms of all cross-camera pairs' scores."""
    ends = [
        (scores.min(), scores.max())
        for pair in scored_pairs(score_rows, labels)
        for scores in pair
        if len(scores)
    ]
    low = float(min(low for low, _ in ends))
    high = float(max(high for _, high in ends))
    edges = np.linspace(low, high if high > low else low + 1.0, BINS + 1)
    counts = np.zeros((2, BINS), dtype=np.int64)
    for pair in scored_pairs(score_rows, labels):
        counts += [np.histogram(scores.astype(np.float64), edges)[0] for scores in pair]
    return ScoreDistribution(
        edges=edges.tolist(), genuine=counts[0].tolist(), impostor=counts[1].tolist()
    )


def expected_calibration_error(
    score_rows: ScoreRows, labels: PairLabels, calibration: ScoringCalibration
) -> float:
    """Mean distance between the predicted probability and the share that came true, 0 to 1.

    Over 15 equal bins of probability (Guo et al., ICML 2017), with genuine and impostor pairs
    weighing one half each, as the probability is defined.
    """
    counts = np.zeros((2, CALIBRATION_BINS))
    predicted = np.zeros((2, CALIBRATION_BINS))
    for pair in scored_pairs(score_rows, labels):
        for row, scores in enumerate(pair):
            logits = np.clip(calibration.log_likelihood_ratios(scores), -60.0, 60.0)
            probability = 1.0 / (1.0 + np.exp(-logits))
            bins = np.minimum((probability * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
            counts[row] += np.bincount(bins, minlength=CALIBRATION_BINS)
            predicted[row] += np.bincount(bins, weights=probability, minlength=CALIBRATION_BINS)
    totals = np.maximum(counts.sum(axis=1, keepdims=True), 1.0)
    true_share = 0.5 * counts / totals
    predicted_share = 0.5 * predicted / totals
    return float(np.abs(predicted_share.sum(axis=0) - true_share[0]).sum())


def true_accept_rates(
    score_rows: ScoreRows, labels: PairLabels, rates: tuple[float, ...] = FALSE_ACCEPT_RATES
) -> list[VerificationResult]:
    """Return the share of genuine pairs accepted at each false accept rate, with its interval.

    The threshold is the lowest that accepts no more impostor pairs than asked. A rate that is less
    than one of the impostor pairs cannot be measured and is left out.

    Args:
        score_rows, labels: of one search.
        rates: asked false accept rates, over 0 and under 1.
    """
    kept = int(max(rates) * len(labels.query_identities) * len(labels.gallery_identities)) + 1
    highest = np.empty(0, np.float32)
    genuine: list[NDArray[np.float32]] = []
    people: list[NDArray[np.int64]] = []
    impostors = 0
    for rows in labels.blocks():
        scores = score_rows(rows)
        same, other = labels.across_cameras(rows)
        genuine.append(scores[same])
        people.append(np.repeat(labels.query_identities[rows], same.sum(axis=1)))
        impostors += int(other.sum())
        highest = np.concatenate([highest, scores[other]])
        if len(highest) > kept:
            highest = np.partition(highest, len(highest) - kept)[-kept:]
    highest = np.sort(highest)[::-1]
    accepted = np.concatenate(genuine)
    whose = np.concatenate(people)
    results = []
    for rate in rates:
        # A share such as 0.01 is a little under its decimal in binary.
        allowed = int(rate * impostors * (1.0 + 1e-9))
        if allowed < 1 or not len(accepted):
            continue
        refused = highest[allowed]
        results.append(
            VerificationResult(
                asked=rate,
                threshold=float(np.nextafter(refused, np.float32(np.inf))),
                false_accept_rate=float(np.count_nonzero(highest > refused) / impostors),
                true_accept_rate=mean_interval((accepted > refused).astype(np.float64), whose),
            )
        )
    return results
