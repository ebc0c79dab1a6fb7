"""From scores to probabilities, thresholds and verdicts."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from model.calibration import Calibration, ScoringCalibration, TailPoint


def exponential_tail(rate=2.0, rarest=1e-4):
    """Impostor scores that exceed s with probability exp(−rate·s)."""
    shares = np.geomspace(1.0, rarest, 30)
    tail = tuple(TailPoint(share=share, score=-math.log(share) / rate) for share in shares)
    return ScoringCalibration(slope=1.0, intercept=0.0, impostor_tail=tail)


# Beyond the rarest pair, of 1e-4, the tail goes on exponentially.
@pytest.mark.parametrize("far", [0.5, 1e-2, 1e-4, 1e-8])
def test_a_pair_threshold_is_reached_by_the_asked_share(far):
    assert exponential_tail().pair_threshold(far) == pytest.approx(-math.log(far) / 2, rel=1e-3)


@given(far=st.floats(1e-4, 0.5), size=st.integers(1, 100_000))
def test_a_larger_gallery_never_lowers_the_threshold(far, size):
    calibration = exponential_tail()
    assert calibration.search_threshold(far, size + 1) >= calibration.search_threshold(far, size)


def test_a_tail_in_disorder_is_refused():
    points = (TailPoint(share=0.1, score=1.0), TailPoint(share=0.5, score=2.0))
    with pytest.raises(ValidationError, match="common, low scores to rare, high"):
        ScoringCalibration(slope=1, intercept=0, impostor_tail=points)


def test_a_scoring_without_calibration_is_refused():
    with pytest.raises(ValidationError, match=r"scorings\.cosine"):
        Calibration(
            scorings={"mnet": exponential_tail()},
            genuine_pairs=1,
            impostor_pairs=1,
            data="test",
        )


def test_operating_points_are_named_and_rise_with_rarity():
    points = exponential_tail().operating_points(gallery_size=100)
    assert points["far_1e-1"] < points["far_1e-2"] < points["far_1e-3"]
    assert points["pair_far_1e-2"] < points["pair_far_1e-3"] < points["pair_far_1e-4"]
