"""Runs whose backbone is timm's, and how their weights are named."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from model.problems import InputProblem
from training.checkpoint import run_identity
from training.datasets.drawn import draw_people
from training.provenance import weight_sources
from training.recipe import Recipe, read_recipe
from training.run import prepare_run
from training.step import TrainingStep

pytestmark = pytest.mark.slow

RECORDS = draw_people(11, 2, 8, cameras_per_domain=2, crops_per_camera=1).records
RESNET = "timm:resnet10t"
VIT = "timm:vit_tiny_patch16_224"


def recipe(backbone: str, *settings: str) -> Recipe:
    own = f'embedder={{backbone="{backbone}", last_stride=2, pooling="average"}}'
    small = ["sampling.identities=4", "sampling.images=2", "precision=float32"]
    return read_recipe("quick", [own, *small, *settings])


@pytest.mark.parametrize("backbone", [RESNET, VIT])
def test_a_step_reaches_a_timm_backbone(backbone: str, tmp_path: Path) -> None:
    run = prepare_run(recipe(backbone), RECORDS, tmp_path)
    run.networks.train(True)
    batch = run.batches.make(0, 0, run.sampler.epoch(0)[0], run.processes)
    TrainingStep(run).gradients(batch, seed=1, with_norms=True)
    for name, parameter in run.networks.embedder.backbone.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


@pytest.mark.parametrize(
    "setting",
    [
        "losses.msgr={weight=1.0, stages=[1, 4]}",
        "optimisation.frozen_stages=1",
        "optimisation.layer_decay=0.5",
    ],
)
def test_settings_of_stages_are_refused_for_what_has_none(setting: str) -> None:
    with pytest.raises(InputProblem, match=r"has no stages 1 to 3; set "):
        recipe(VIT, setting)
    assert recipe(RESNET, setting)


def test_a_backbone_that_takes_one_size_is_refused_at_another() -> None:
    with pytest.raises(InputProblem, match="does not take crops of 64×32"):
        recipe("timm:test_vit_relpos")


def test_weights_of_timm_are_stored_by_their_tag_and_licence() -> None:
    (source,), _ = weight_sources(recipe(VIT, "initial_weights=timm"))
    assert source.name == "timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k"
    assert source.terms == "apache-2.0"
    assert not source.is_documented
    stated = recipe(VIT, "initial_weights=timm", 'initial_weights_data=["ImageNet-21k"]')
    assert weight_sources(stated)[0][0].documented_data == ("ImageNet-21k",)


def test_a_run_from_timms_weights_can_be_identified_for_its_checkpoint() -> None:
    identity = run_identity(recipe(VIT, "initial_weights=timm"), RECORDS)
    assert identity.files["initial_weights"] == "timm"
