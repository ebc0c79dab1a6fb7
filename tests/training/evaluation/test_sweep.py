"""Figures of thresholds count what they say: searches, pairs, and people enrolled by halves."""

from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.calibration import ScoringCalibration, TailPoint
from training.evaluation.metrics import PairLabels, integer_labels
from training.evaluation.sweep import half_enrolled, histograms, sweep

PEOPLE = 1200


@given(st.integers(0, 2**32), st.booleans(), st.integers(1, 60))
def test_the_best_scores_are_those_of_a_search_written_out(seed, other_cameras_only, block):
    random = np.random.default_rng(seed)
    labels = drawn_labels(random, other_cameras_only)
    scores = random.normal(size=(15, 30)).astype(np.float32)
    with patch("training.evaluation.metrics.SCORES_PER_BLOCK", block):
        found = sweep(lambda rows: scores[rows], labels)
    for query in range(15):
        genuine = []
        impostor = []
        for column in range(30):
            own = labels.gallery_identities[column] == labels.query_identities[query]
            same_camera = labels.gallery_cameras[column] == labels.query_cameras[query]
            if own and not same_camera:
                genuine.append(scores[query, column])
            absent = labels.gallery_identities[column] < 0 or (other_cameras_only and same_camera)
            if not own and not absent:
                impostor.append(scores[query, column])
        assert found.best_genuine[query] == max(genuine, default=-np.inf)
        assert found.best_impostor[query] == max(impostor, default=-np.inf)
        assert found.impostors[query] == len(impostor)


def test_a_person_who_is_outranked_or_below_the_threshold_is_not_detected():
    labels = PairLabels(
        np.array([0, 1, 2]), np.array([0, 0, 0]), np.array([0, 1, 2]), np.array([1, 1, 1])
    )
    scores = np.array([[0.9, 0.1, 0.0], [0.8, 0.7, 0.0], [0.1, 0.0, 0.3]], dtype=np.float32)
    extremes = sweep(lambda rows: scores[rows], labels)
    assert extremes.detections(0.5).tolist() == [1.0, 0.0, 0.0]
    assert extremes.false_alarms(0.5).tolist() == [0.0, 1.0, 0.0]


def one_crop_each(people, extra=()):
    names = [f"{number:04d}" for number in range(people)]
    gallery = [*names, *extra]
    return integer_labels(names, ["a"] * people, gallery, ["b"] * len(gallery))


def rows(scores):
    return lambda block: scores[block].astype(np.float32)


def test_a_scoring_that_keeps_people_apart_finds_everybody():
    found = half_enrolled(sweep(rows(np.eye(40)), one_crop_each(40)))
    assert found.enrolled == 20
    assert (found.detection_rate.mean, found.detection_rate.low) == (1.0, 1.0)
    assert (found.miss_rate.mean, found.miss_rate.high) == (0.0, 0.0)
    # Too few people have no figure.
    assert half_enrolled(sweep(rows(np.eye(3)), one_crop_each(3))) is None


def test_the_share_found_is_that_above_the_hundredth_false_alarm():
    """Strangers reach 0.5 but for three in a thousand; a tenth of the people exceed that."""
    people = 1000
    scores = np.full((people, people), 0.1)
    np.fill_diagonal(scores, np.where(np.arange(people) % 10 == 0, 0.9, 0.4))
    scores[1:4] = np.where(np.eye(people, dtype=bool)[1:4], scores[1:4], 0.95)
    scores[4:400] = np.where(np.eye(people, dtype=bool)[4:400], scores[4:400], 0.5)
    result = half_enrolled(sweep(rows(scores), one_crop_each(people)))
    found = result.detection_rate
    assert found.mean == pytest.approx(0.1, abs=0.02)
    assert found.low < found.mean < found.high
    # Nobody is hidden behind another person here: who is not found does not reach the threshold.
    assert result.miss_rate.mean == pytest.approx(1.0 - found.mean)


def test_a_person_behind_another_one_is_not_found_but_is_no_miss():
    """Person 0 reaches the threshold, but looks less like themselves than like person 1."""
    people = 40
    scores = np.eye(people)
    scores[0, 1] = 2.0
    swept = sweep(rows(scores), one_crop_each(people))
    result = half_enrolled(swept)
    # With both enrolled, one search of twenty has the wrong person first.
    assert result.detection_rate.mean < 1.0
    assert result.miss_rate.mean < 1.0 - result.detection_rate.mean


def test_junk_and_people_who_are_not_searched_for_are_not_enrolled():
    scores = np.hstack([np.eye(40), np.full((40, 2), 5.0)])
    found = half_enrolled(sweep(rows(scores), one_crop_each(40, ("-1", "other"))))
    assert found.detection_rate.mean == 1.0


def drawn_labels(random, other_cameras_only=False):
    """Draw four people, three cameras and junk: 15 queries, 30 crops of the gallery."""
    return PairLabels(
        random.integers(0, 4, 15),
        random.integers(0, 3, 15),
        random.integers(-1, 4, 30),
        random.integers(0, 3, 30),
        other_cameras_only,
    )


def test_true_probabilities_have_nearly_no_calibration_error_and_too_sure_ones_a_large_one():
    """Scores are N(0, 1) of two people and N(3, 1) of one, whose posterior is known."""
    people = np.arange(PEOPLE)
    labels = PairLabels(people, 0 * people, people, 0 * people + 1)
    scores = np.random.default_rng(1).normal(size=(PEOPLE, PEOPLE)) + 3.0 * np.eye(PEOPLE)
    tail = (TailPoint(share=1.0, score=-5.0), TailPoint(share=0.1, score=5.0))
    errors = []
    for intercept in (-4.5, 0.0):
        fitted = ScoringCalibration(slope=3.0, intercept=intercept, impostor_tail=tail)
        _, error = histograms(rows(scores), labels, sweep(rows(scores), labels), fitted)
        errors.append(error)
    assert errors[0] < 0.02
    assert errors[1] > 0.1
