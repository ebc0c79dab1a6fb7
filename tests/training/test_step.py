"""A training step: its parts add up to the whole, in any order and size."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from model.architecture import BACKBONES, BackboneKind
from model.precision import choose_device
from model.problems import InputProblem
from training.datasets.drawn import draw_people
from training.recipe import Recipe, read_recipe
from training.run import Run, prepare_run
from training.step import TrainingStep
from training.train import train_networks

DATA = draw_people(11, 2, 8, cameras_per_domain=2, crops_per_camera=1)
SETTINGS = (
    "initial_weights=none",
    "preprocessing.height=64",
    "preprocessing.width=32",
    "sampling.identities=4",
    "sampling.images=2",
    "optimisation.epochs=1",
    "optimisation.warm_up_epochs=0",
    "log_every_steps=1",
)


def recipe(name: str = "small-gmn", *settings: str) -> Recipe:
    return read_recipe(name, [*SETTINGS, *settings])


def gradients(run: Run) -> dict[str, torch.Tensor]:
    """Compute one batch, with BatchNorm's statistics fixed: those of a micro-batch differ."""
    run.networks.train()
    run.networks.embedder.backbone.eval()
    run.networks.metric_network.perturbing = True
    batch = run.batches.make(0, 0, run.sampler.epoch(0)[0], run.processes)
    TrainingStep(run).gradients(batch, seed=1, with_norms=True)
    return {n: p.grad for n, p in run.networks.named_parameters() if p.grad is not None}


def test_micro_batches_give_the_gradient_of_the_whole_batch(tmp_path: Path) -> None:
    settings = ("precision=float32", "embedder.backbone=resnet18")
    whole = prepare_run(recipe("small-gmn", *settings), DATA.records, tmp_path)
    parts = prepare_run(
        recipe("small-gmn", *settings, "optimisation.micro_batch=3"), DATA.records, tmp_path
    )
    expected = gradients(whole)
    found = gradients(parts)
    assert list(found) == list(expected)
    for name, gradient in expected.items():
        assert (found[name] - gradient).norm() <= 1e-3 * gradient.norm() + 1e-7, name


def test_micro_batches_carry_on_the_gradient_of_the_features_that_the_loss_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dropout draws the same masks when a part is embedded again."""

    def build(_stride: int) -> nn.Module:
        sizes = ((3, 8), (8, 16), (16, 32), (32, 64))
        return nn.Sequential(
            *(nn.Sequential(nn.Conv2d(a, b, 3, 2, 1), nn.Dropout(0.3)) for a, b in sizes)
        )

    kind = BackboneKind(build, (8, 16, 32, 64), ("0", "1", "2", "3"))
    monkeypatch.setitem(BACKBONES, "dropping", kind)
    settings = ("embedder.backbone=dropping", "optimisation.micro_batch=4")
    run = prepare_run(recipe("small-gmn", *settings), DATA.records, tmp_path)
    run.networks.train()
    found = []
    last = run.networks.embedder.backbone[-1]
    last.register_forward_hook(lambda _, __, maps: found.append(maps.detach().clone()))
    batch = run.batches.make(0, 0, run.sampler.epoch(0)[0], run.processes)
    TrainingStep(run).gradients(batch, seed=1)
    first, second, first_again, second_again = found
    assert torch.equal(first, first_again)
    assert torch.equal(second, second_again)
    assert not torch.equal(first != 0, second != 0)


def test_micro_batches_change_each_statistic_once(tmp_path: Path) -> None:
    run = prepare_run(recipe("small-gmn", "optimisation.micro_batch=4"), DATA.records, tmp_path)
    run.networks.train()
    batch = run.batches.make(0, 0, run.sampler.epoch(0)[0], run.processes)
    TrainingStep(run).gradients(batch, seed=1)
    seen = {
        int(tensor)
        for name, tensor in run.networks.named_buffers()
        if name.endswith("num_batches_tracked") and "backbone" in name
    }
    # The batch of 8 in two parts.
    assert seen == {2}


def test_micro_batches_leave_no_crop_alone(tmp_path: Path) -> None:
    # 8 crops would be split into 7 and 1, and the head's BatchNorm needs two.
    small = ("embedder.multiscale.channels=8", "embedder.head.dimension=16")
    run = prepare_run(
        recipe("small-msfl", *small, "optimisation.micro_batch=7"), DATA.records, tmp_path
    )
    run.networks.train()
    batch = run.batches.make(0, 0, run.sampler.epoch(0)[0], run.processes)
    terms = TrainingStep(run).gradients(batch, seed=1).terms
    assert all(bool(term.isfinite()) for term in terms.values())


def test_float32_is_not_tf32_once_a_device_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    choose_device("auto")
    assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32


def test_the_artefact_has_the_averaged_weights(tmp_path: Path) -> None:
    settings = ("optimisation.epochs=2", "held_out.fraction=0.4")
    plain = tmp_path / "plain"
    averaged = tmp_path / "averaged"
    weights = {}
    for folder, average in ((plain, "0"), (averaged, "0.9")):
        folder.mkdir()
        chosen = recipe("small-gmn", *settings, f"optimisation.weight_average={average}")
        run = prepare_run(chosen, DATA.records, folder)
        start = copy.deepcopy(run.networks.state_dict())
        train_networks(run, lambda *_: None)
        weights[folder.name] = run.networks.state_dict()
    saved = torch.load(averaged / "checkpoint.pt")
    name = "embedder.backbone.0.0.weight"
    assert torch.equal(saved["networks"][name], weights["plain"][name])
    assert torch.equal(saved["average"][f"module.{name}"], weights["averaged"][name])
    assert not torch.equal(weights["plain"][name], weights["averaged"][name])
    assert not torch.equal(start[name], weights["averaged"][name])


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_half_precision_trains_and_resumes_to_the_same_weights(
    precision: str, tmp_path: Path
) -> None:
    # A CPU has no quick way through a float16 convolution: few pixels.
    small = ("preprocessing.height=32", "preprocessing.width=16", "checkpoint_every_steps=1")
    chosen = recipe("small-gmn", f"precision={precision}", *small)
    whole = tmp_path / "whole"
    stopped = tmp_path / "stopped"

    def stop(done: int, *_: object) -> None:
        if done == 2:
            raise KeyboardInterrupt

    for folder in (whole, stopped):
        folder.mkdir()
    run = prepare_run(chosen, DATA.records, whole)
    train_networks(run, lambda *_: None)
    with pytest.raises(KeyboardInterrupt):
        train_networks(prepare_run(chosen, DATA.records, stopped), stop)
    resumed = prepare_run(chosen, DATA.records, stopped)
    train_networks(resumed, lambda *_: None)
    expected = run.networks.state_dict()
    found = resumed.networks.state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert all(bool(tensor.isfinite().all()) for tensor in expected.values())


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_msgr_trains_with_gmn_in_every_format(precision: str, tmp_path: Path) -> None:
    chosen = recipe(
        "small-msfl",
        "embedder.multiscale.channels=8",
        "losses.gmn=1",
        "losses.pic=0.1",
        "losses.msgr=0.01",
        f"precision={precision}",
    )
    run = prepare_run(chosen, DATA.records, tmp_path)
    run.networks.train()
    batch = run.batches.make(0, 0, run.sampler.epoch(0)[0], run.processes)
    terms, norms, _ = TrainingStep(run).gradients(batch, seed=1, with_norms=True)
    assert set(terms) == set(norms) == {"identity", "triplet", "gmn", "pic", "msgr"}
    assert all(bool(term.isfinite()) for term in terms.values())
    stem = run.networks.embedder.backbone.get_parameter("conv1.weight").grad
    assert stem is not None
    assert float(stem.norm()) > 0


def test_msgr_with_micro_batches_is_refused_with_the_remedy() -> None:
    with pytest.raises(InputProblem, match=r"whole batch's graph.*micro_batch=none"):
        recipe("msfl-msgr-r50", "optimisation.micro_batch=16")
