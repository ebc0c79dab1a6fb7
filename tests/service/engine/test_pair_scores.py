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


def test_no_candidates_have_no_scores(runtime, artefact):
    served = Networks(artefact, runtime)
    nobody = np.zeros((0, served.dimension), np.float32)
    assert served.pair_scores(np.ones((1, served.dimension), np.float32), nobody).shape == (0,)


class _OnDevice(Networks):
    """The path of a GPU with PyTorch's tensors on the CPU, in passes of a size for a test."""

    def __init__(self, artefact):
        super().__init__(artefact, TorchRuntime(artefact, "float32"))
        self.device = "stand-in"
        self.pairs_per_pass = 64


def _drawn(networks, queries, candidates):
    random = np.random.default_rng(0)
    shapes = [(count, networks.dimension) for count in (queries, candidates)]
    return [random.normal(size=shape).astype(np.float32) for shape in shapes]


def test_on_a_device_m_net_gives_the_scores_of_the_cpu(runtime, artefact):
    on_cpu = Networks(artefact, runtime)
    queries, candidates = _drawn(on_cpu, 3, 150)
    expected = on_cpu.pair_scores(queries, candidates)
    found = _OnDevice(artefact).pair_scores(queries, candidates)
    assert found.dtype == np.float32
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_on_a_device_a_score_is_equal_to_the_last_digit_among_any_others(artefact):
    networks = _OnDevice(artefact)
    queries, candidates = _drawn(networks, 2, 150)
    together = networks.pair_scores(queries, candidates)
    for place in (0, 63, 64, 149):
        assert networks.pair_scores(queries, candidates[place : place + 1]) == together[place]
    np.testing.assert_array_equal(
        networks.pair_scores(queries, candidates[::-1].copy()), together[::-1]
    )


def test_on_a_device_all_scores_of_a_call_are_waited_for_once(artefact, monkeypatch):
    networks = _OnDevice(artefact)
    queries, candidates = _drawn(networks, 2, 150)
    copies = []
    copy = torch.Tensor.cpu

    def counted(tensor):
        copies.append(len(tensor))
        return copy(tensor)

    monkeypatch.setattr(torch.Tensor, "cpu", counted)
    networks.pair_scores(queries, candidates)
    assert copies == [150]


def test_on_a_device_a_vector_that_is_not_finite_has_no_score_and_changes_no_other(artefact):
    networks = _OnDevice(artefact)
    queries, candidates = _drawn(networks, 1, 70)
    whole = networks.pair_scores(queries, candidates)
    candidates[5] = np.nan
    scores = networks.pair_scores(queries, candidates)
    assert np.isnan(scores[5])
    others = np.arange(70) != 5
    np.testing.assert_array_equal(scores[others], whole[others])


def test_parts_of_candidates_are_whole_passes(artefact):
    networks = _OnDevice(artefact)
    parts = list(networks.slices_of(4, 600))
    assert [(part.start, part.stop) for part in parts] == [(0, 256), (256, 512), (512, 768)]
    assert next(networks.slices_of(100, 65)) == slice(0, 64)
