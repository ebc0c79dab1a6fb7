"""Asked against obtained false alarms on other cameras, before and after re-calibration."""

import numpy as np
import pytest

from training.evaluation.calibrating import collect_pairs, fit_from_pairs
from training.evaluation.measuring import calibrated_result
from training.evaluation.ranking import PairLabels, rank_queries
from training.evaluation.recalibrating import crops_per_person, recalibrated, searched_cosines

PEOPLE = 300


def search(centre: float, seed: int):
    """Cosines of 300 people under one camera with the same under another, closer by `centre`."""
    random = np.random.default_rng(seed)
    latent = random.normal(0.0, 0.18, (PEOPLE, PEOPLE)) + np.eye(PEOPLE) * 0.8
    people = np.arange(PEOPLE)
    labels = PairLabels(people, np.zeros_like(people), people, np.ones_like(people))
    return (centre + (1 - centre) * np.tanh(latent)).astype(np.float32), labels


@pytest.fixture(scope="module")
def calibration():
    cosine, labels = search(0.0, seed=1)
    return fit_from_pairs([collect_pairs(cosine, 10 * cosine, labels)], "drawn")


def test_a_report_shows_both_sides_of_it(calibration) -> None:
    cosine, labels = search(0.4, seed=2)
    moved = recalibrated(calibration, lambda rows: cosine[rows], labels, 10.0)
    metrics = rank_queries(lambda rows: cosine[rows], labels)
    result = calibrated_result(
        lambda rows: cosine[rows],
        labels,
        metrics,
        calibration.scorings["cosine"],
        moved.scorings["cosine"],
    )
    before, after = (
        next(point for point in points if point.name == "far_1e-2")
        for points in (result.operating_points, result.recalibrated_operating_points)
    )
    assert before.false_alarm_rate.mean > 0.3
    assert after.false_alarm_rate.mean < 2e-2
    assert after.detection_rate.mean > 0.2


def test_too_few_searches_are_left_as_they_are(calibration) -> None:
    cosine, labels = search(0.4, seed=3)
    few = labels.part(np.arange(10), np.arange(PEOPLE))
    assert recalibrated(calibration, lambda rows: cosine[:10][rows], few, 10.0) is None


def test_what_the_protocol_takes_out_of_a_gallery_is_not_looked_at() -> None:
    labels = PairLabels(
        np.array([1, 2]), np.array([0, 0]), np.array([1, 1, 2, -1]), np.array([0, 1, 1, 1])
    )
    cosines, size = searched_cosines(lambda _: np.ones((1, 4), np.float32), labels)
    assert np.isnan(cosines).tolist() == [[True, False, False, True], [False, False, False, True]]
    assert size == 2
    assert crops_per_person(labels) == 1.5
