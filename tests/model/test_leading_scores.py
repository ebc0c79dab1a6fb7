"""Crops with and without names, as people."""

import numpy as np
import pytest

from model.calibration import ScoringCalibration, TailPoint
from model.search_calibration import JOINING_SHARE, leading_scores

TAIL = (TailPoint(share=1.0, score=0.0), TailPoint(share=0.001, score=0.5))


def units(*angles):
    return np.stack([np.cos(np.radians(angles)), np.sin(np.radians(angles))], axis=1)


def test_a_named_person_counts_once_and_unnamed_crops_that_look_alike_too():
    scores = np.array([0.9, 0.8, 0.7, 0.6, 0.5])
    names = np.array([3, 3, -1, -1, 7])

    leaders = leading_scores(scores, names, units(0, 90, 120, 125, 200), joins_at=0.6)

    assert leaders == (0.9, 0.7, 0.5)


def test_an_unnamed_crop_joins_the_named_person_that_it_looks_like():
    scores = np.array([0.9, 0.8, 0.7, 0.6])
    names = np.array([-1, 5, 5, 8])

    assert leading_scores(scores, names, units(0, 10, 90, 180), 0.6) == (0.9, 0.6)


def test_two_names_that_look_alike_stay_two():
    scores = np.array([0.9, 0.8])

    assert leading_scores(scores, np.array([1, 2]), units(0, 1), 0.6) == (0.9, 0.8)


def test_no_more_leaders_than_ranks_and_none_of_nothing():
    scores = np.arange(30.0)
    names = np.arange(30)

    assert len(leading_scores(scores, names, np.ones((30, 2)), 0.6)) == 9
    assert leading_scores(scores[:0], names[:0], np.ones((0, 2)), 0.6) == ()


def test_crops_join_from_the_cosine_that_one_pair_of_two_people_in_a_thousand_reaches():
    calibration = ScoringCalibration(slope=10.0, intercept=-1.0, impostor_tail=TAIL)

    assert calibration.pair_threshold(JOINING_SHARE) == pytest.approx(0.5)
