"""Scores of genuine and impostor pairs: their histograms, and how true their probabilities are."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from model.calibration import ScoringCalibration
from training.evaluation.metrics import PairLabels, ScoreRows, blocks
from training.evaluation.results import ScoreDistribution

BINS = 80
CALIBRATION_BINS = 15


def score_distribution(score_rows: ScoreRows, labels: PairLabels) -> ScoreDistribution:
    """Histograms of all cross-camera pairs' scores, in bounded memory."""
    ends = [
        (scores.min(), scores.max())
        for pair in _pairs(score_rows, labels)
        for scores in pair
        if len(scores)
    ]
    low, high = float(min(low for low, _ in ends)), float(max(high for _, high in ends))
    edges = np.linspace(low, high if high > low else low + 1.0, BINS + 1)
    counts = np.zeros((2, BINS), dtype=np.int64)
    for pair in _pairs(score_rows, labels):
        for row, scores in enumerate(pair):
            counts[row] += np.histogram(scores.astype(np.float64), edges)[0]
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
    for pair in _pairs(score_rows, labels):
        for row, scores in enumerate(pair):
            logits = np.clip(calibration.log_likelihood_ratios(scores), -60.0, 60.0)
            probability = 1.0 / (1.0 + np.exp(-logits))
            bins = np.minimum((probability * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
            counts[row] += np.bincount(bins, minlength=CALIBRATION_BINS)
            predicted[row] += np.bincount(bins, weights=probability, minlength=CALIBRATION_BINS)
    totals = np.maximum(counts.sum(axis=1, keepdims=True), 1.0)
    true_share, predicted_share = 0.5 * counts / totals, 0.5 * predicted / totals
    return float(np.abs(predicted_share.sum(axis=0) - true_share[0]).sum())


def _pairs(
    score_rows: ScoreRows, labels: PairLabels
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Blocks of genuine and impostor scores."""
    for block in blocks(labels):
        scores = score_rows(block)
        genuine, impostor = labels.across_cameras(block)
        yield scores[genuine], scores[impostor]
