"""The service's scores of pairs are M-Net's, for every kind of pair feature."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from model.artefact import load_artefact
from model.metric_network import MetricNetwork, MetricNetworkConfig
from model.runtimes import TorchRuntime
from service.engine.networks import Networks


@pytest.mark.parametrize("kind", ["square", "abs", "raw"])
def test_the_service_scores_a_pair_by_the_pair_feature_of_its_m_net(kind, tiny_artefact) -> None:
    artefact = load_artefact(tiny_artefact)
    dimension = artefact.description.embedder.dimension
    torch.manual_seed(0)
    network = MetricNetwork(dimension, MetricNetworkConfig(pair_feature=kind)).eval()
    artefact = replace(artefact, metric_network=network)
    served = Networks(artefact, TorchRuntime(artefact, "float32", torch.device("cpu")))
    query = 3 * torch.randn(1, dimension)
    candidates = torch.randn(4, dimension)
    pairs = network.pair_features(network.comparable(query), network.comparable(candidates))
    expected = network.scores(pairs).detach().numpy()
    found = served.pair_scores(query.numpy(), candidates.numpy())
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-4)
