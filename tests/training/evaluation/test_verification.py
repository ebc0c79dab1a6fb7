"""TAR@FAR counts what it says: genuine pairs accepted, at most so many impostor pairs with them."""

from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.calibration import ScoringCalibration, TailPoint
from training.evaluation.metrics import PairLabels
from training.evaluation.verification import (
    expected_calibration_error,
    score_distribution,
    true_accept_rates,
)

PEOPLE = 1200


def drawn_labels(random: np.random.Generator, queries: int, gallery: int) -> PairLabels:
    return PairLabels(
        random.integers(0, 5, queries),
        random.integers(0, 3, queries),
        random.integers(-1, 5, gallery),
        random.integers(0, 3, gallery),
    )


@given(st.integers(0, 2**32), st.booleans(), st.integers(1, 200))
def test_the_threshold_is_the_lowest_that_keeps_to_the_rate(seed, ties, block):
    random = np.random.default_rng(seed)
    labels = drawn_labels(random, 15, 30)
    scores = random.normal(size=(15, 30)).astype(np.float32)
    if ties:
        scores = np.round(scores)
    genuine, impostor = labels.across_cameras(slice(0, 15))
    with patch("training.evaluation.metrics.SCORES_PER_BLOCK", block):
        results = true_accept_rates(lambda rows: scores[rows], labels, (0.3, 0.1, 0.001))
    measurable = [rate for rate in (0.3, 0.1, 0.001) if rate * impostor.sum() >= 1]
    assert [result.asked for result in results] == (measurable if genuine.any() else [])
    for result in results:
        accepted = scores >= result.threshold
        assert result.true_accept_rate.mean == pytest.approx(accepted[genuine].mean())
        assert result.false_accept_rate == pytest.approx(accepted[impostor].mean())
        assert result.false_accept_rate <= result.asked
        lower = scores[impostor][~accepted[impostor]].max()
        assert (scores[impostor] >= lower).mean() > result.asked


def test_genuine_pairs_are_the_positives():
    labels = PairLabels(
        np.array([0, 1]), np.array([0, 0]), np.repeat([0, 1], 50), np.ones(100, dtype=np.int64)
    )
    scores = np.where(labels.across_cameras(slice(0, 2))[0], 1.0, 0.0).astype(np.float32)
    (result,) = true_accept_rates(lambda rows: scores[rows], labels, (0.01,))
    assert result.true_accept_rate.mean == 1.0
    assert result.false_accept_rate == 0.0


@pytest.fixture(scope="module")
def search() -> tuple[np.ndarray, PairLabels]:
    """Scores N(0, 1) of two people and N(3, 1) of one, whose posterior is known."""
    people = np.arange(PEOPLE)
    labels = PairLabels(people, np.zeros_like(people), people, np.ones_like(people))
    scores = np.random.default_rng(1).normal(size=(PEOPLE, PEOPLE)) + 3.0 * np.eye(PEOPLE)
    return scores.astype(np.float32), labels


def calibrated(slope: float, intercept: float) -> ScoringCalibration:
    tail = (TailPoint(share=1.0, score=-5.0), TailPoint(share=0.1, score=5.0))
    return ScoringCalibration(slope=slope, intercept=intercept, impostor_tail=tail)


def test_true_probabilities_have_nearly_no_calibration_error(search):
    scores, labels = search
    error = expected_calibration_error(lambda rows: scores[rows], labels, calibrated(3.0, -4.5))
    assert error < 0.02


def test_probabilities_that_are_too_sure_have_a_large_one(search):
    scores, labels = search
    error = expected_calibration_error(lambda rows: scores[rows], labels, calibrated(3.0, 0.0))
    assert error > 0.1


def test_the_distribution_holds_every_pair_across_cameras_once(search):
    scores, labels = search
    distribution = score_distribution(lambda rows: scores[rows], labels)
    assert sum(distribution.genuine) == PEOPLE
    assert sum(distribution.impostor) == PEOPLE * (PEOPLE - 1)
    assert distribution.edges[0] == pytest.approx(scores.min())
    assert distribution.edges[-1] == pytest.approx(scores.max())
