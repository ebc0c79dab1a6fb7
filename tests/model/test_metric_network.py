"""M-Net, pair features and the reference pair scorer."""

import pytest
import torch

from model.architecture import MetricNetworkConfig
from model.metric_network import (
    MetricNetwork,
    cosine_similarities,
    score_pairs,
)
from model.problems import InputProblem

DIMENSION = 24
KINDS = [
    MetricNetworkConfig(layers=layers, pair_feature=feature, hidden=16)
    for layers in ("two", "linear")
    for feature in ("square", "abs", "raw")
]


def trained_like(config):
    torch.manual_seed(0)
    network = MetricNetwork(DIMENSION, config)
    for _ in range(3):
        network(torch.rand(40, DIMENSION))
    return network.eval()


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        # d times the squared difference of unit features, and √d times the absolute one.
        ("square", [0.32, 1.28]),
        ("abs", [0.4 * 2**0.5, 0.8 * 2**0.5]),
        # The squared difference of the features themselves.
        ("raw", [0.0, 16.0]),
    ],
)
def test_pair_features_are_differences_of_each_coordinate(kind, expected):
    network = MetricNetwork(2, MetricNetworkConfig(pair_feature=kind))
    first = network.comparable(torch.tensor([3.0, 0.0]))
    second = network.comparable(torch.tensor([3.0, 4.0]))
    assert torch.allclose(network.pair_features(first, second), torch.tensor(expected))


@pytest.mark.parametrize("config", KINDS, ids=str)
def test_scores_are_symmetric(config):
    network = trained_like(config)
    features = torch.randn(9, DIMENSION)
    scores = score_pairs(network, features, features)
    assert torch.equal(scores, scores.T)


@pytest.mark.parametrize("config", KINDS, ids=str)
def test_scores_depend_on_the_length_of_a_feature_by_raw_pairs_alone(
    config,
):
    network = trained_like(config)
    features = torch.randn(9, DIMENSION)
    scores, of_longer = (score_pairs(network, by * features, features) for by in (1, 7))
    assert torch.allclose(of_longer, scores, atol=1e-5) == (config.pair_feature != "raw")


@pytest.mark.parametrize("chunk", [1, 7, 40, 10_000])
@pytest.mark.parametrize("config", KINDS, ids=str)
def test_chunks_do_not_change_a_score(config, chunk, monkeypatch):
    network = trained_like(config)
    queries = torch.randn(5, DIMENSION)
    gallery = torch.randn(11, DIMENSION)
    direct = torch.stack(
        [
            network.scores(
                network.pair_features(network.comparable(query), network.comparable(gallery))
            )
            for query in queries
        ]
    )
    monkeypatch.setattr("model.metric_network.pairs_in_a_chunk", lambda _: chunk)
    scores = score_pairs(network, queries, gallery)
    assert scores.shape == (5, 11)
    # Raw differences are not bounded: their scores have larger errors of rounding.
    size = float(direct.detach().abs().max()) if config.pair_feature == "raw" else 1.0
    assert torch.allclose(scores, direct, atol=1e-5 * size)


def test_no_candidates_give_an_empty_answer():
    network = trained_like(MetricNetworkConfig(hidden=16))
    scores = score_pairs(network, torch.randn(2, DIMENSION), torch.empty(0, DIMENSION))
    assert scores.shape == (2, 0)


def test_features_of_another_size_are_refused_by_name():
    network = trained_like(MetricNetworkConfig(hidden=16))
    with pytest.raises(InputProblem, match=r"gallery have shape \(3, 7\).*same artefact"):
        score_pairs(network, torch.randn(2, DIMENSION), torch.randn(3, 7))


def test_scoring_with_a_network_in_training_mode_is_refused():
    network = trained_like(MetricNetworkConfig(hidden=16)).train()
    with pytest.raises(InputProblem, match="training mode"):
        score_pairs(network, torch.randn(2, DIMENSION), torch.randn(3, DIMENSION))


def test_perturbation_is_off_until_switched_on():
    torch.manual_seed(0)
    network = MetricNetwork(DIMENSION, MetricNetworkConfig(layers="linear")).train()
    pairs = torch.rand(6, DIMENSION)
    assert torch.equal(network(pairs), network(pairs))
    network.perturbing = True
    assert not torch.equal(network(pairs), network(pairs))


def test_perturbation_is_off_in_evaluation_whatever_was_switched():
    network = trained_like(MetricNetworkConfig(hidden=16))
    pairs = torch.rand(6, DIMENSION)
    before = network(pairs)
    network.perturbing = True
    assert torch.equal(network(pairs), before)


def test_cosine_of_a_feature_with_itself_is_one():
    features = torch.randn(4, DIMENSION)
    assert torch.allclose(cosine_similarities(features, 3 * features).diagonal(), torch.ones(4))
