"""Crops with and without names, as people."""

import numpy as np
import pytest

from model.calibration import ScoringCalibration, TailPoint
from service.index.candidates import Candidates
from service.search.calibration import JOINING_SHARE
from service.search.ranking import leading_scores

TAIL = (TailPoint(share=1.0, score=0.0), TailPoint(share=0.001, score=0.5))


@pytest.mark.parametrize(
    ("angles", "groups", "scores", "leading"),
    [
        pytest.param(
            *([0, 90, 120, 125, 200], [3, 3, -1, -2, 7], [0.9, 0.8, 0.7, 0.6, 0.5]),
            (0.9, 0.7, 0.5),
            id="a named person counts once, and unnamed crops that look alike too",
        ),
        pytest.param(
            *([0, 10, 90, 180], [-1, 5, 5, 8], [0.9, 0.8, 0.7, 0.6]),
            (0.9, 0.6),
            id="an unnamed crop joins the named person that it looks like",
        ),
        pytest.param(
            *([0, 1], [1, 2], [0.9, 0.8]), (0.9, 0.8), id="two names that look alike stay two"
        ),
        pytest.param(
            *([0, 90, 180], [1, 2, 3], [0.5, np.nan, 0.6]),
            (0.6, 0.5),
            id="a crop without a score does not lead",
        ),
        pytest.param(
            *(range(30), range(30), range(30)),
            (*range(29, 20, -1),),
            id="no more lead than there are ranks",
        ),
    ],
)
def test_people_lead_by_their_best_crop(angles, groups, scores, leading):
    """Give the crops vectors at these angles; each crop without a name has a negative group."""
    vectors = np.stack([np.cos(np.radians(angles)), np.sin(np.radians(angles))], axis=1)
    codes = np.array(groups, np.int64)
    none = np.zeros(len(codes))
    crops = Candidates(codes, none, codes, codes, vectors, len(codes))
    assert leading_scores(crops, np.array(scores, float), joins_at=0.6) == leading


def test_crops_join_from_the_cosine_that_one_pair_of_two_people_in_a_thousand_reaches():
    calibration = ScoringCalibration(slope=10.0, intercept=-1.0, impostor_tail=TAIL)
    assert calibration.pair_threshold(JOINING_SHARE) == pytest.approx(0.5)
