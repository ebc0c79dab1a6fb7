"""A projection shortens the directions in which cameras change a person, and leaves all others."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from model.arrays import unit_rows
from model.artefact import load_artefact
from model.preprocessing import drawn_patterns
from model.problems import InputProblem
from model.runtimes import build_runtime
from training.datasets.registry import read_datasets
from training.projection import add_projection, fit_projection, scatter_between_cameras
from training.recipe import read_recipe
from training.train import train

DRAWN = "synthetic:5,identities=24,domains=1,cameras=2,crops=2"


def test_crops_deviate_from_those_of_their_person_by_other_cameras():
    units = np.array([[1, 0], [3, 0], [0, 0], [5, 5], [5, 7], [9, 9]], np.float32)
    people = ["ann", "ann", "ann", "bob", "bob", "cid"]
    cameras = ["A", "A", "B", "A", "B", "A"]
    # Ann's crops deviate by 1, 3 and −2 in the first direction, Bob's by ±2 in the second.
    expected = np.diag([(1 + 9 + 4) / 3, 4]) / 2
    assert scatter_between_cameras(units, people, cameras) == pytest.approx(expected)


def test_people_of_one_camera_alone_fit_no_projection():
    with pytest.raises(InputProblem, match="no training person is seen by two cameras"):
        scatter_between_cameras(np.eye(2, dtype=np.float32), ["ann", "bob"], ["A", "B"])


def test_a_direction_of_the_named_variance_is_shortened_by_the_root_of_two_and_none_lengthened():
    # Both people deviate along the second direction alone, which has all variance.
    units = unit_rows(np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]], np.float32))
    people, cameras = ["ann", "ann", "bob", "bob"], ["A", "B", "A", "B"]
    fitted = fit_projection(units, people, cameras, 2.0)
    assert fitted.mean == pytest.approx(np.zeros(2), abs=1e-7)
    assert fitted.matrix == pytest.approx(np.diag([1.0, np.sqrt(1 / 2)]), abs=1e-6)
    nearer = fit_projection(units, people, cameras, 20.0)
    assert nearer.matrix[1, 1] > fitted.matrix[1, 1]


def test_the_mean_of_people_is_subtracted_whatever_the_number_of_their_crops():
    units = np.array([[1, 0], [1, 0], [1, 0], [0, 1], [0, 1]], np.float32)
    fitted = fit_projection(units, ["ann"] * 3 + ["bob"] * 2, list("ABBAB"), 1.0)
    assert fitted.mean == pytest.approx([0.5, 0.5])
    assert fitted.of(units[3:4]) == pytest.approx(np.array([[-0.5, 0.5]]), abs=1e-6)


def test_other_people_of_the_same_cameras_are_found_more_often():
    random = np.random.default_rng(0)
    middles = random.standard_normal((160, 64))
    # Each crop moves along a few directions that all people share.
    shared = random.standard_normal((6, 64))
    by_camera = [
        unit_rows(middles + 0.5 * random.standard_normal((160, 6)) @ shared) for _ in range(2)
    ]
    site = np.concatenate([crops[:60] for crops in by_camera])
    fitted = fit_projection(site, [*range(60)] * 2, ["A"] * 60 + ["B"] * 60, 1.0)

    def share_found(first, second):
        return np.mean((unit_rows(first) @ unit_rows(second).T).argmax(axis=1) == range(100))

    others = [crops[60:] for crops in by_camera]
    assert share_found(*map(fitted.of, others)) > share_found(*others) + 0.5


def test_a_second_projection_takes_the_place_of_the_first(tiny_artefact):
    artefact = load_artefact(tiny_artefact)
    (dataset,) = read_datasets([DRAWN])
    preprocessing = artefact.description.preprocessing
    first = add_projection(artefact.embedder, preprocessing, dataset.records, 100.0)
    second = add_projection(first, preprocessing, dataset.records, 1.0)
    alone = add_projection(artefact.embedder, preprocessing, dataset.records, 1.0)
    assert artefact.embedder.config.projection is None
    assert first.config == second.config == alone.config
    crops = torch.rand(2, 3, preprocessing.height, preprocessing.width)
    with torch.inference_mode():
        plain = functional.normalize(artefact.embedder(crops))
        assert torch.allclose(first(crops), first.projection(plain), atol=1e-5)
        assert not torch.allclose(first(crops), alone(crops), atol=1e-5)
        assert torch.allclose(second(crops), alone(crops), atol=1e-5)


def test_the_recipe_adds_a_projection_and_keeps_every_other_weight(tiny_artefact, tmp_path):
    settings = [f"initial_weights={tiny_artefact}", "held_out.fraction=0.4", "refuse_worse=false"]
    recipe = read_recipe("adapt-fast", settings)
    report = train(recipe, read_datasets([DRAWN]), tmp_path / "site", notice=lambda _: None)
    start = load_artefact(tiny_artefact)
    made = load_artefact(tmp_path / "site" / "model.safetensors")
    assert made.description.embedder.projection
    assert made.metric_network is None
    assert made.description.embedding_fingerprint != start.description.embedding_fingerprint
    weights = made.embedder.state_dict()
    kept = start.embedder.state_dict()
    assert weights.keys() - kept.keys() == {"projection.weight", "projection.bias"}
    assert all(torch.equal(weights[name], value) for name, value in kept.items())
    assert "no epoch was trained" in report.checkpoint
    assert report.split == "held-out"
    # The graph, by which a service without PyTorch embeds, has the projection as well.
    runtime = build_runtime(made, "openvino", "float32")
    patterns = drawn_patterns(made.description.preprocessing)
    assert np.allclose(runtime.embed(patterns), made.pattern_features, atol=1e-3)


def test_a_run_that_would_change_nothing_is_refused():
    with pytest.raises(InputProblem, match=r"raise optimisation\.epochs, or set projection_fit"):
        read_recipe("adapt-fast", ["projection_fit.shrinkage=none"])
