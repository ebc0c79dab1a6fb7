"""M-Net fitted over a finished embedder."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch

from model.artefact import load_artefact
from model.metric_network import MetricNetwork, unit_features
from model.problems import InputProblem
from training.datasets.drawn import draw_people
from training.metric_fit import Views, chosen_records, compare, fit_to_views, with_nearest
from training.recipe import Recipe, read_recipe
from training.train import train

DIMENSION = 16


def recipe(*settings: str) -> Recipe:
    return read_recipe(
        "small-gmn",
        ["initial_weights=none", f"embedder.head.dimension={DIMENSION}", *settings],
    )


def camera_dependent_views(people: int, seed: int) -> Views:
    """Features of which one half is the person's, and the other the light of that moment."""
    random = torch.Generator().manual_seed(seed)
    numbers = torch.arange(people).repeat_interleave(4)
    own = torch.randn(people, DIMENSION // 2, generator=random)[numbers]
    light = torch.randn(len(numbers), DIMENSION // 2, generator=random)
    features = torch.cat((own + 0.3 * torch.randn(own.shape, generator=random), light), dim=1)
    return with_nearest(unit_features(features), numbers, torch.arange(4).repeat(people))


def mean_average_precision(scores: torch.Tensor, views: Views) -> float:
    hits = []
    for query, row in enumerate(scores):
        others = torch.arange(len(row)) != query
        order = row[others].argsort(descending=True)
        found = (views.people[others][order] == views.people[query]).nonzero().flatten() + 1
        hits.append(float((torch.arange(1, len(found) + 1) / found).mean()))
    return sum(hits) / len(hits)


def pair_scores(metric_network: MetricNetwork, views: Views) -> torch.Tensor:
    units = views.units
    pairs = metric_network.pair_features(units[:, None], units[None])
    with torch.no_grad():
        return metric_network.scores(pairs.flatten(0, 1)).view(len(units), len(units))


@pytest.mark.slow
def test_the_fit_learns_which_part_of_a_feature_to_trust_for_people_it_has_not_seen() -> None:
    settings = ("metric_fit.steps=300", "metric_fit.learning_rate=1e-3")
    fresh = camera_dependent_views(30, 2)
    means = [mean_average_precision(fresh.units @ fresh.units.T, fresh)]
    for weight in (3, 0):
        chosen = recipe(*settings, f"metric_fit.cosine_weight={weight}")
        fitted = fit_to_views([camera_dependent_views(60, 1)], chosen)
        assert not fitted.training
        means.append(mean_average_precision(pair_scores(fitted, fresh), fresh))
    cosine, near_it, far_from_it = means
    assert cosine + 0.01 < near_it < far_from_it
    assert far_from_it > cosine + 0.05


def test_a_strong_anchor_leaves_the_order_of_the_cosine() -> None:
    settings = ("metric_fit.steps=50", "metric_fit.cosine_anchor=1000")
    fitted = fit_to_views([camera_dependent_views(40, 1)], recipe(*settings))
    fresh = camera_dependent_views(20, 2)
    scores = pair_scores(fitted, fresh).flatten()
    cosines = (fresh.units @ fresh.units.T).flatten()
    assert float(torch.corrcoef(torch.stack((scores, cosines)))[0, 1]) > 0.98


def test_a_seed_gives_one_metric_network() -> None:
    views = [camera_dependent_views(20, 1), camera_dependent_views(20, 3)]
    first, second, other = (
        fit_to_views(views, recipe("metric_fit.steps=6", f"seed={seed}")).state_dict()
        for seed in (0, 0, 1)
    )
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_what_a_search_would_not_be_judged_by_is_not_counted() -> None:
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


def test_whole_people_take_part_up_to_a_number_of_crops() -> None:
    records = draw_people(5, 2, 10, cameras_per_domain=2, crops_per_camera=2).records
    some = chosen_records(records, recipe("metric_fit.crops=30"))
    counts = Counter(record.person for record in some)
    assert 30 <= len(some) < len(records)
    assert set(counts.values()) == {4}
    assert chosen_records(records, recipe("metric_fit.crops=1000")) == sorted(
        records, key=lambda record: record.dataset
    )
    assert some != chosen_records(records, recipe("metric_fit.crops=30", "seed=1"))


@pytest.mark.slow
def test_a_run_ends_with_the_fitted_metric_network_over_its_embedder(tmp_path: Path) -> None:
    people = draw_people(11, 1, 16, cameras_per_domain=2, crops_per_camera=2)
    settings = (
        *("embedder.backbone=resnet18", "preprocessing.height=32", "preprocessing.width=32"),
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


def test_a_fit_on_absolute_differences_is_refused_by_name() -> None:
    with pytest.raises(InputProblem, match=r"metric_network\.pair_feature=square.*steps=0"):
        recipe("metric_fit.steps=1", "metric_network.pair_feature=abs")
