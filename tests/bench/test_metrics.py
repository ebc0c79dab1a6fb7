"""Both sides of `gmn bench metrics` find the same figures, on the people that it draws."""

import numpy as np
import pytest

from bench.metrics import drawn_search, straightforward_means
from training.evaluation.ranking import rank_queries
from training.evaluation.scoring import cosine_rows


@pytest.mark.parametrize("ties", [False, True])
def test_both_implementations_find_the_same_figures(ties: bool) -> None:
    features, labels = drawn_search(queries=40, gallery=600, people=30)
    scores = cosine_rows(features[:40], features[40:])(slice(0, 40))
    if ties:
        scores = np.round(scores, 1)
    ours = rank_queries(lambda rows: scores[rows], labels).means()
    assert ours == pytest.approx(straightforward_means(scores, labels))
    assert 0.1 < ours["mAP"] < 1.0
