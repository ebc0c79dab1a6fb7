"""The optimisers: which rate and which decay each part of the networks has, and what is frozen."""

import pytest
import torch

from training.datasets.drawn import draw_people
from training.recipe import read_recipe
from training.run import prepare_run
from training.train import train_networks

RECORDS = draw_people(11, 2, 8, cameras_per_domain=2, crops_per_camera=1).records
SETTINGS = (
    "initial_weights=none",
    "embedder.backbone=resnet18",
    "embedder.last_stride=2",
    "preprocessing.height=32",
    "preprocessing.width=32",
    "sampling.identities=4",
    "sampling.images=2",
    "optimisation.epochs=1",
    "optimisation.warm_up_epochs=0",
)


def recipe(*settings):
    return read_recipe("small-gmn", [*SETTINGS, *settings])


def rates(run):
    """Return the multiplier of every parameter that is trained."""
    names = {id(parameter): name for name, parameter in run.networks.named_parameters()}
    return {
        names[id(parameter)]: group["multiplier"]
        for group in run.optimiser.param_groups
        for parameter in group["params"]
    }


def test_deeper_stages_learn_faster(tmp_path):
    settings = ("backbone_multiplier=0.5", "layer_decay=0.1", "head_multiplier=2")
    run = prepare_run(recipe(*(f"optimisation.{word}" for word in settings)), RECORDS, tmp_path)
    found = rates(run)
    assert found["embedder.backbone.conv1.weight"] == pytest.approx(0.5e-3)
    assert found["embedder.backbone.layer1.0.conv1.weight"] == pytest.approx(0.5e-3)
    assert found["embedder.backbone.layer3.0.conv1.weight"] == pytest.approx(0.05)
    assert found["embedder.backbone.layer4.0.conv1.weight"] == pytest.approx(0.5)
    assert found["embedder.neck.weight"] == 2.0
    assert found["metric_network.classifier.0.weight"] == 2.0


def test_adamw_decays_neither_norms_nor_biases(tmp_path):
    settings = ("optimisation.optimiser=adamw", "optimisation.weight_decay=0.1")
    run = prepare_run(recipe(*settings), RECORDS, tmp_path)
    assert isinstance(run.optimiser, torch.optim.AdamW)
    for group in run.optimiser.param_groups:
        matrices = {parameter.ndim > 1 for parameter in group["params"]}
        assert len(matrices) == 1
        assert group["weight_decay"] == (0.1 if matrices == {True} else 0.0)


def test_frozen_stages_keep_weights_and_statistics(tmp_path):
    run = prepare_run(recipe("optimisation.frozen_stages=2"), RECORDS, tmp_path)
    before = {name: tensor.clone() for name, tensor in run.networks.state_dict().items()}
    train_networks(run, lambda *_: None)
    after = run.networks.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    frozen = tuple(f"embedder.backbone.{part}." for part in ("conv1", "bn1", "layer1", "layer2"))
    assert not {name for name in changed if name.startswith(frozen)}
    assert "embedder.backbone.layer3.0.bn1.running_mean" in changed
    assert "embedder.backbone.layer3.0.conv1.weight" in changed
    assert "embedder.neck.weight" in changed
    assert run.networks.embedder.backbone.layer3.training
