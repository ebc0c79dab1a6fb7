"""An M-Net that begins at the cosine ranks as the cosine does, before anything is learnt."""

import pytest
import torch

from model.architecture import MetricNetworkConfig
from model.artefact import load_artefact
from model.metric_network import MetricNetwork, cosine_similarities, score_pairs, unit_features
from model.problems import InputProblem
from training.datasets.drawn import draw_people
from training.metric_start import add_cosine, keep_cosine_unit, start_at_cosine
from training.recipe import read_recipe
from training.run import prepare_run

PEOPLE = 12
CROPS = 4
SIZE = 96


def draw_features(seed, likeness=1.0):
    """Draw features `(48, 96)` of twelve people whose crops are alike; one is there twice."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(PEOPLE, 1, SIZE, generator=generator)
    spread = torch.randn(PEOPLE, CROPS, SIZE, generator=generator) / likeness
    features = (centres + spread).flatten(0, 1)
    features[1] = features[0]
    return features


def estimate_statistics(network, features):
    """BatchNorm's statistics of all pairs, without training."""
    units = unit_features(features)
    first, second = torch.triu_indices(len(units), len(units), offset=1)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm1d):
            module.momentum = None
    network.train()(network.pair_features(units[first], units[second]))
    network.eval()


@pytest.mark.parametrize("layers", ["two", "linear"])
@pytest.mark.parametrize("likeness", [0.5, 20.0])
def test_it_ranks_as_the_cosine_does(layers, likeness):
    torch.manual_seed(3)
    network = MetricNetwork(SIZE, MetricNetworkConfig(layers=layers, hidden=32))
    start_at_cosine(network)
    estimate_statistics(network, draw_features(1, likeness))
    queries = draw_features(2, likeness)
    gallery = draw_features(3, likeness)
    gallery[7] = 2.5 * queries[7]
    cosines = cosine_similarities(queries, gallery)
    scores = score_pairs(network, queries, gallery)
    slope = (scores.max() - scores.min()) / (cosines.max() - cosines.min())
    assert slope > 0
    line = scores.min() + slope * (cosines - cosines.min())
    torch.testing.assert_close(scores, line, atol=1e-3, rtol=1e-4)
    # Cosines that differ by little more than the precision of float32 are left out.
    for cosine, score in zip(cosines, scores, strict=True):
        ordered = cosine[score.argsort()]
        assert bool((ordered.diff() > -1e-5).all())


def test_an_m_net_on_absolute_differences_is_refused():
    network = MetricNetwork(SIZE, MetricNetworkConfig(pair_feature="abs"))
    with pytest.raises(InputProblem, match=r"pair_feature=square, or metric_network_start=random"):
        start_at_cosine(network)


RECORDS = draw_people(11, 2, 8, cameras_per_domain=2, crops_per_camera=1).records


@pytest.mark.parametrize(
    ("settings", "is_cosine"),
    [
        ((), False),
        (("metric_network_start=cosine",), True),
        (("metric_network.hidden=24",), True),
        (("metric_network.hidden=24", "metric_network.pair_feature=abs"), False),
    ],
)
def test_an_artefacts_m_net_is_kept_or_replaced_by_one_at_the_cosine(
    settings, is_cosine, tiny_artefact, tmp_path
):
    path = tmp_path / "mine.toml"
    path.write_text("[sampling]\nidentities = 4\nimages = 2\n")
    chosen = read_recipe(str(path), [f"initial_weights={tiny_artefact}", *settings])
    networks = prepare_run(chosen, RECORDS, tmp_path).networks
    output = networks.metric_network.classifier[-1].weight
    assert (int((output[1] != 0).sum()) == 1) == is_cosine
    kept = load_artefact(tiny_artefact).metric_network
    same = kept is not None and torch.equal(
        networks.metric_network.classifier[-1].bias, kept.classifier[-1].bias
    )
    assert same == (not settings)


@pytest.mark.parametrize("layers", ["two", "linear"])
def test_the_cosine_is_added_to_a_trained_network_with_the_given_slope(layers):
    torch.manual_seed(3)
    network = MetricNetwork(SIZE, MetricNetworkConfig(layers=layers, hidden=32))
    start_at_cosine(network)
    handles = keep_cosine_unit(network)
    features = unit_features(draw_features(1))
    first, second = torch.triu_indices(len(features), len(features), offset=1)
    pairs = network.pair_features(features[first], features[second])
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-2)
    for _ in range(10):
        optimiser.zero_grad()
        network.scores(pairs).square().mean().backward()
        optimiser.step()
    for handle in handles:
        handle.remove()
    estimate_statistics(network, draw_features(2))
    queries = draw_features(4)
    gallery = draw_features(5)
    before = score_pairs(network, queries, gallery)
    cosines = cosine_similarities(queries, gallery)
    add_cosine(network, 7.5)
    added = score_pairs(network, queries, gallery) - before - 7.5 * cosines
    torch.testing.assert_close(added, added.mean().expand_as(added), atol=2e-3, rtol=0)
