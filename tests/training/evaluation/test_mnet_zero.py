"""M-Net's scores have their zero at equal error, wherever training left it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from model.architecture import MetricNetworkConfig
from model.metric_network import MetricNetwork, score_pairs
from training.evaluation.calibration import equal_error_score, settle_zero
from training.evaluation.embedding import SearchFeatures
from training.evaluation.metrics import PairLabels

PEOPLE = 60
DIMENSION = 16


def drawn_search(seed: int) -> tuple[SearchFeatures, PairLabels]:
    """Two crops of each person, under two cameras."""
    random = np.random.default_rng(seed)
    people = random.normal(size=(PEOPLE, DIMENSION))
    queries, gallery = (
        (people + random.normal(0.0, 0.5, people.shape)).astype(np.float32) for _ in range(2)
    )
    names = np.arange(PEOPLE)
    return SearchFeatures(queries, gallery), PairLabels(names, 0 * names, names, 0 * names + 1)


@pytest.fixture(params=["two", "linear"])
def metric_network(request: pytest.FixtureRequest) -> MetricNetwork:
    torch.manual_seed(3)
    config = MetricNetworkConfig(layers=request.param, hidden=8)
    network = MetricNetwork(DIMENSION, config).eval()
    with torch.no_grad():
        last = network.classifier[-1]
        assert isinstance(last, torch.nn.Linear)
        if request.param == "linear":
            # The nearer the features, the higher the score of "the same person".
            last.weight.copy_(torch.stack([torch.ones(DIMENSION), -torch.ones(DIMENSION)]))
        last.bias.copy_(torch.tensor([230.0, -220.0]))
    return network


def pair_scores(network: MetricNetwork, features: SearchFeatures) -> np.ndarray:
    return score_pairs(network, *(torch.from_numpy(feature) for feature in features)).numpy()


def test_as_many_pairs_of_one_person_lie_below_as_of_two_above() -> None:
    random = np.random.default_rng(1)
    genuine = random.normal(7.0, 1.0, 4000)
    impostors = random.normal(4.0, 1.0, 90_000)
    zero = equal_error_score(genuine, impostors)

    assert zero == pytest.approx(5.5, abs=0.05)
    assert (genuine < zero).mean() == pytest.approx((impostors >= zero).mean(), abs=1e-3)


@pytest.mark.parametrize("apart", [10.0, -10.0])
def test_kinds_that_do_not_overlap_are_parted_or_confused_in_the_middle(apart: float) -> None:
    assert abs(equal_error_score(np.full(3, apart), np.full(9, 0.0))) <= 10.0
    if apart > 0.0:
        assert equal_error_score(np.full(3, apart), np.full(9, 0.0)) == 5.0


def test_the_zero_moves_and_the_order_stays(metric_network: MetricNetwork) -> None:
    searches = [drawn_search(1), drawn_search(2)]
    before = [pair_scores(metric_network, features) for features, _ in searches]
    settle_zero(metric_network, searches)
    after = [pair_scores(metric_network, features) for features, _ in searches]

    same = np.eye(PEOPLE, dtype=bool)
    genuine, impostors = (
        np.concatenate([scores[mask] for scores in after]) for mask in (same, ~same)
    )
    assert (genuine < 0).mean() == pytest.approx((impostors >= 0).mean(), abs=0.01)
    moved = np.stack(before) - np.stack(after)
    assert moved == pytest.approx(np.full(moved.shape, moved.mean()), abs=1e-3)
    settle_zero(metric_network, searches)
    assert np.stack(after) == pytest.approx(
        np.stack([pair_scores(metric_network, features) for features, _ in searches]), abs=1e-3
    )
