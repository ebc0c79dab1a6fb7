"""The service's scores of pairs are M-Net's, for every M-Net and both runtimes."""

import numpy as np
import pytest
import torch

from model.architecture import MetricNetworkConfig
from model.artefact import Artefact, load_artefact
from model.metric_network import MetricNetwork
from model.runtimes import OpenVinoRuntime
from model.torch_runtime import TorchRuntime
from model.weights import round_as_stored, stored_tensors
from service.engine.networks import PAIRS_PER_PASS, Networks


@pytest.fixture(params=["two", "linear"])
def layers(request):
    return request.param


@pytest.fixture(params=["square", "abs", "raw"])
def artefact(request, layers, tiny_artefact):
    """Return the tiny artefact with another M-Net, whose BatchNorm has seen pairs."""
    tiny = load_artefact(tiny_artefact)
    dimension = tiny.description.embedder.dimension
    torch.manual_seed(0)
    config = MetricNetworkConfig(layers=layers, pair_feature=request.param)
    network = MetricNetwork(dimension, config)
    with torch.no_grad():
        network(torch.rand(64, dimension))
    round_as_stored(network)
    description = tiny.description.model_copy(update={"metric_network": config})
    return Artefact(description, tiny.tensors | stored_tensors("metric_network", network))


@pytest.fixture(scope="module", params=[TorchRuntime, OpenVinoRuntime])
def runtime(request, tiny_artefact):
    """Return the embedder in a runtime, built once: it is the same beside each M-Net."""
    return request.param(load_artefact(tiny_artefact), "float32")


def test_the_service_scores_a_pair_by_the_pair_feature_of_its_m_net(runtime, artefact):
    network = artefact.require_metric_network()
    served = Networks(artefact, runtime)
    query = 3 * torch.randn(1, network.dimension)
    candidates = torch.randn(4, network.dimension)
    pairs = network.pair_features(network.comparable(query), network.comparable(candidates))
    expected = network.scores(pairs).detach().numpy()
    found = served.pair_scores(query.numpy(), candidates.numpy())
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_a_score_is_equal_to_the_last_digit_among_any_other_candidates(runtime, artefact):
    served = Networks(artefact, runtime)
    random = np.random.default_rng(0)
    query = random.normal(size=(1, served.dimension)).astype(np.float32)
    candidates = random.normal(size=(PAIRS_PER_PASS + 40, served.dimension)).astype(np.float32)
    together = served.pair_scores(query, candidates)
    for place in (0, 77, PAIRS_PER_PASS + 39):
        alone = served.pair_scores(query, candidates[place : place + 1])
        assert alone[0] == together[place]
