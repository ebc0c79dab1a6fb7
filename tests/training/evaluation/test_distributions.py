import numpy as np
import pytest

from model.calibration import ScoringCalibration, TailPoint
from training.evaluation.distributions import expected_calibration_error, score_distribution
from training.evaluation.metrics import PairLabels

PEOPLE = 1200


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
