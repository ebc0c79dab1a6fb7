"""Crops with and without names, as people."""

import numpy as np
import pytest

from model.calibration import ScoringCalibration, TailPoint
from service.search.calibration import JOINING_SHARE
from service.search.candidates import Candidates
from service.search.ranking import leading_scores

TAIL = (TailPoint(share=1.0, score=0.0), TailPoint(share=0.001, score=0.5))


def crops_at(angles, groups):
    """Return crops with vectors at these angles; each crop without a name has a negative group."""
    vectors = np.stack([np.cos(np.radians(angles)), np.sin(np.radians(angles))], axis=1)
    codes = np.array(groups, np.int64)
    none = np.zeros(len(codes))
    return Candidates(codes, none, codes, codes, vectors, len(codes))


def test_a_named_person_counts_once_and_unnamed_crops_that_look_alike_too():
    crops = crops_at([0, 90, 120, 125, 200], [3, 3, -1, -2, 7])
    scores = np.array([0.9, 0.8, 0.7, 0.6, 0.5])

    assert leading_scores(crops, scores, joins_at=0.6) == (0.9, 0.7, 0.5)


def test_an_unnamed_crop_joins_the_named_person_that_it_looks_like():
    crops = crops_at([0, 10, 90, 180], [-1, 5, 5, 8])
    scores = np.array([0.9, 0.8, 0.7, 0.6])

    assert leading_scores(crops, scores, 0.6) == (0.9, 0.6)


def test_two_names_that_look_alike_stay_two():
    assert leading_scores(crops_at([0, 1], [1, 2]), np.array([0.9, 0.8]), 0.6) == (0.9, 0.8)


def test_crops_without_a_score_do_not_lead():
    crops = crops_at([0, 90, 180], [1, 2, 3])

    assert leading_scores(crops, np.array([0.5, np.nan, 0.6]), 0.6) == (0.6, 0.5)


def test_no_more_leaders_than_ranks_and_none_of_nothing():
    crops = crops_at(range(30), range(30))

    assert len(leading_scores(crops, np.arange(30.0), 0.6)) == 9
    assert leading_scores(crops[:0], np.arange(0.0), 0.6) == ()


def test_crops_join_from_the_cosine_that_one_pair_of_two_people_in_a_thousand_reaches():
    calibration = ScoringCalibration(slope=10.0, intercept=-1.0, impostor_tail=TAIL)

    assert calibration.pair_threshold(JOINING_SHARE) == pytest.approx(0.5)
