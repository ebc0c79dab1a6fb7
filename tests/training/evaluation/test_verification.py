"""TAR@FAR is the share of genuine pairs above the lowest threshold that keeps to the rate."""

from unittest.mock import patch

import numpy as np
import pytest

from training.evaluation.metrics import PairLabels
from training.evaluation.sweep import sweep, true_accept_rates

RATES = (0.3, 0.1, 0.001)


@pytest.mark.parametrize("block", [1, 40, 10_000])
@pytest.mark.parametrize("decimals", [0, 6])
def test_the_threshold_is_the_lowest_that_keeps_to_the_rate(block, decimals):
    random = np.random.default_rng(block + decimals)
    labels = PairLabels(
        random.integers(0, 5, 15),
        random.integers(0, 3, 15),
        random.integers(0, 5, 30),
        random.integers(0, 3, 30),
    )
    scores = random.normal(size=(15, 30)).round(decimals).astype(np.float32)
    genuine, impostor = labels.across_cameras(slice(0, 15))
    with (
        patch("training.evaluation.metrics.SCORES_PER_BLOCK", block),
        patch("training.evaluation.sweep.FALSE_ACCEPT_RATES", RATES),
    ):
        results = true_accept_rates(sweep(lambda rows: scores[rows], labels))
    # Some 300 impostor pairs cannot show one in a thousand.
    assert [result.asked for result in results] == [0.3, 0.1]
    for result in results:
        accepted = scores >= result.threshold
        assert result.true_accept_rate.mean == pytest.approx(accepted[genuine].mean())
        assert result.false_accept_rate == pytest.approx(accepted[impostor].mean())
        assert result.false_accept_rate <= result.asked
        next_lower = scores[impostor][~accepted[impostor]].max()
        assert (scores[impostor] >= next_lower).mean() > result.asked
