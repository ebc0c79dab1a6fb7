"""TAR@FAR counts what it says: genuine pairs accepted, at most so many impostor pairs with them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.evaluation.metrics import PairLabels
from training.evaluation.verification import true_accept_rates


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
    results = true_accept_rates(lambda rows: scores[rows], labels, (0.3, 0.1, 0.001), block)
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
