"""M-Net fitted over a finished embedder."""

import math

import numpy as np
import pytest
import torch

from model.artefact import load_artefact
from model.metric_network import MetricNetwork, score_pairs, unit_features
from model.problems import InputProblem
from tests.training.runs import FAST_BACKBONE
from training.datasets.drawn import draw_people
from training.evaluation.metrics import PairLabels, rank_queries
from training.metric_fit import (
    compare,
    cosine_anchor_loss,
    fit_to_views,
    pair_ranking_loss,
    with_nearest,
)
from training.recipe import read_recipe
from training.train import train

DIMENSION = 16


def recipe(*settings):
    return read_recipe(
        "small-gmn",
        ["initial_weights=none", f"embedder.head.dimension={DIMENSION}", *settings],
    )


def camera_dependent_views(people, seed):
    """Draw features: one half is the person's, the other the light of that moment."""
    random = torch.Generator().manual_seed(seed)
    numbers = torch.arange(people).repeat_interleave(4)
    own = torch.randn(people, DIMENSION // 2, generator=random)[numbers]
    light = torch.randn(len(numbers), DIMENSION // 2, generator=random)
    features = torch.cat((own + 0.3 * torch.randn(own.shape, generator=random), light), dim=1)
    return with_nearest(unit_features(features), numbers, torch.arange(4).repeat(people))


def mean_average_precision(scores, views):
    people = views.people.numpy()
    cameras = np.tile(np.arange(4), len(people) // 4)
    labels = PairLabels(people, cameras, people, cameras)
    return rank_queries(scores.numpy().__getitem__, labels).means()["mAP"]


@pytest.mark.slow
def test_the_fit_learns_which_part_of_a_feature_to_trust_for_people_it_has_not_seen():
    settings = ("metric_fit.steps=300", "metric_fit.learning_rate=1e-3")
    fresh = camera_dependent_views(30, 2)
    means = [mean_average_precision(fresh.units @ fresh.units.T, fresh)]
    for weight in (3, 0):
        chosen = recipe(*settings, f"metric_fit.cosine_weight={weight}")
        fitted = fit_to_views([camera_dependent_views(60, 1)], chosen)
        assert not fitted.training
        means.append(mean_average_precision(score_pairs(fitted, fresh.units, fresh.units), fresh))
    cosine, near_it, far_from_it = means
    assert cosine + 0.01 < near_it < far_from_it
    assert far_from_it > cosine + 0.05


def test_a_seed_gives_one_metric_network():
    views = [camera_dependent_views(20, 1), camera_dependent_views(20, 3)]
    first, second, other = (
        fit_to_views(views, recipe("metric_fit.steps=6", f"seed={seed}")).state_dict()
        for seed in (0, 0, 1)
    )
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_what_a_search_would_not_be_judged_by_is_not_counted():
    units = unit_features(torch.randn(12, DIMENSION, generator=torch.Generator().manual_seed(3)))
    people = torch.tensor([0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3])
    cameras = torch.tensor([0, 0, 1, 0, 1, 1, 0, 0, 0, 0, 1, 2])
    views = with_nearest(units, people, cameras)
    metric_network = MetricNetwork(DIMENSION, recipe().metric_network)
    for seed in range(5):
        compared = compare(metric_network, views, (0, seed))
        distances = 2 - 2 * compared.cosines
        assert torch.allclose(compared.pairs.mean(-1), distances, atol=1e-5)
        # Two crops of one person under one camera, or a crop and itself.
        assert not bool((compared.counted & (distances < 1e-6)).any())
        positives = (compared.same & compared.counted).any(dim=1)
        assert 0 < int(positives.sum()) < len(positives)


@pytest.mark.slow
def test_a_run_ends_with_the_fitted_metric_network_over_its_embedder(tmp_path):
    people = draw_people(11, 1, 16, cameras_per_domain=2, crops_per_camera=2)
    settings = (
        *(FAST_BACKBONE, "preprocessing.height=32", "preprocessing.width=32"),
        *("sampling.identities=4", "sampling.images=2", "held_out.fraction=0.3"),
        *("optimisation.epochs=1", "optimisation.warm_up_epochs=0", "precision=float32"),
    )
    found = {}
    for steps in (0, 4):
        chosen = recipe(*settings, f"metric_fit.steps={steps}")
        train(chosen, [people], tmp_path / f"{steps}", notice=lambda _: None)
        found[steps] = load_artefact(tmp_path / f"{steps}" / "model.safetensors")
    assert len({artefact.description.embedding_fingerprint for artefact in found.values()}) == 1
    joint, fitted = (artefact.metric_network for artefact in found.values())
    assert joint is not None
    assert fitted is not None
    old = joint.state_dict()
    new = fitted.state_dict()
    assert not torch.equal(old["classifier.0.weight"], new["classifier.0.weight"])
    assert new["classifier.1.running_var"].isfinite().all()


def test_a_fit_on_absolute_differences_is_refused_by_name():
    with pytest.raises(InputProblem, match=r"metric_network\.pair_feature=square.*steps=0"):
        recipe("metric_fit.steps=1", "metric_network.pair_feature=abs")


def test_each_positive_pair_is_compared_with_its_query_s_negatives():
    scores = torch.tensor([[2.0, 1.0, 0.5], [0.0, 3.0, 9.0]])
    same = torch.tensor([[True, False, False], [False, True, True]])
    counted = torch.tensor([[True, True, True], [True, True, False]])
    first = math.log(1 + math.exp(1.0 - 2.0) + math.exp(0.5 - 2.0))
    second = math.log(1 + math.exp(0.0 - 3.0))
    found = pair_ranking_loss(scores, same, counted)
    assert found.item() == pytest.approx((first + second) / 2, rel=1e-5)


@pytest.mark.parametrize("same", [True, False])
def test_queries_that_rank_nothing_add_nothing(same):
    scores = torch.randn(3, 4, requires_grad=True)
    of_one = torch.full((3, 4), same)
    loss = pair_ranking_loss(scores, of_one, torch.ones_like(of_one))
    loss.backward()
    assert loss.item() == 0.0
    assert scores.grad is not None
    assert torch.equal(scores.grad, torch.zeros(3, 4))


def test_scores_that_are_the_cosine_in_other_units_are_near_it():
    cosines = torch.rand(50)
    assert cosine_anchor_loss(40 * cosines - 7, cosines).item() == pytest.approx(0.0, abs=1e-6)
    assert cosine_anchor_loss(-cosines, cosines).item() > 1.0
