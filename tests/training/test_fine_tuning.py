"""Fine-tuning: the anchor, and the losses on embedders with and without a BNNeck."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from model.artefact import load_artefact
from model.problems import InputProblem
from training.datasets.drawn import draw_people
from training.recipe import Recipe, read_recipe
from training.run import Run, prepare_run
from training.step import TrainingStep
from training.train import train_networks

pytestmark = pytest.mark.slow

RECORDS = draw_people(11, 2, 8, cameras_per_domain=2, crops_per_camera=1).records
RECIPE = """
[sampling]
identities = 4
images = 2

[optimisation]
epochs = 1
warm_up_epochs = 0
"""


@pytest.fixture
def mine(tmp_path: Path, tiny_artefact: Path):
    """Reads a recipe that starts from the tiny artefact, with settings."""
    path = tmp_path / "mine.toml"
    path.write_text(RECIPE)

    def read(*settings: str) -> Recipe:
        return read_recipe(str(path), [f"initial_weights={tiny_artefact}", *settings])

    return read


def one_step(run: Run, training: bool = True) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    run.networks.train(training)
    batch = run.batches.make(0, 0, run.sampler.epoch(0)[0], run.processes)
    found = TrainingStep(run).gradients(batch, seed=1, with_norms=True)
    return found.terms, found.norms


def test_the_anchor_is_the_cosine_to_the_embedding_before_training(
    mine, tiny_artefact: Path, tmp_path: Path
) -> None:
    run = prepare_run(mine("losses.anchor=2", "precision=float32"), RECORDS, tmp_path)
    terms, _ = one_step(run, training=False)
    assert float(terms["anchor"]) == pytest.approx(0.0, abs=1e-5)
    with torch.no_grad():
        run.networks.embedder.neck.weight.mul_(
            torch.linspace(0.2, 2.0, run.recipe.embedder.dimension)
        )
    terms, norms = one_step(run, training=False)
    batch = run.batches.make(0, 0, run.sampler.epoch(0)[0], run.processes)
    images = run.batches.images(batch)
    with torch.no_grad():
        before = load_artefact(tiny_artefact).embedder(images)
        cosines = torch.cosine_similarity(run.networks.embedder(images), before)
    assert float(terms["anchor"]) == pytest.approx(2 * float((1 - cosines).mean()), rel=1e-3)
    assert norms["anchor"] > 0


def test_micro_batches_have_the_same_anchor(mine, tmp_path: Path) -> None:
    found = []
    for settings in ((), ("optimisation.micro_batch=3",)):
        run = prepare_run(
            mine("losses.anchor=1", "precision=float32", *settings), RECORDS, tmp_path
        )
        run.networks.embedder.neck.weight.data[::2] *= 3.0
        found.append(float(one_step(run, training=False)[0]["anchor"]))
    assert found[0] == pytest.approx(found[1], rel=1e-4)
    assert found[0] > 0.01


def test_a_stopped_run_with_an_anchor_ends_with_the_same_weights(mine, tmp_path: Path) -> None:
    def stop(done: int, *_: object) -> None:
        if done == 2:
            raise KeyboardInterrupt

    whole = tmp_path / "whole"
    stopped = tmp_path / "stopped"
    chosen = mine("losses.anchor=1", "checkpoint_every_steps=1")
    for folder in (whole, stopped):
        folder.mkdir()
    run = prepare_run(chosen, RECORDS, whole)
    train_networks(run, lambda *_: None)
    with pytest.raises(KeyboardInterrupt):
        train_networks(prepare_run(chosen, RECORDS, stopped), stop)
    resumed = prepare_run(chosen, RECORDS, stopped)
    train_networks(resumed, lambda *_: None)
    expected = run.networks.state_dict()
    found = resumed.networks.state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_an_anchor_without_an_embedder_to_start_from_is_refused(tmp_path: Path) -> None:
    settings = ["initial_weights=none", "losses.anchor=1", "sampling.identities=4"]
    with pytest.raises(InputProblem, match=r"losses\.anchor.*none gives none.*losses\.anchor=0"):
        prepare_run(read_recipe("small-gmn", settings), RECORDS, tmp_path)


@pytest.mark.parametrize("identity", ["identity", "cosface"])
@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
@pytest.mark.parametrize("neck", ["true", "false"])
def test_every_form_of_the_losses_trains_with_and_without_a_neck(
    identity: str, distance: str, neck: str, tmp_path: Path
) -> None:
    settings = [
        "initial_weights=none",
        "embedder.backbone=resnet18",
        f"embedder.head={{dimension=32, neck={neck}}}",
        "preprocessing.height=32",
        "preprocessing.width=32",
        "sampling.identities=4",
        "sampling.images=2",
        *("losses.identity=0", f"losses.{identity}=1"),
        f"losses.triplet.distance={distance}",
        "precision=float32",
    ]
    run = prepare_run(read_recipe("small-gmn", settings), RECORDS, tmp_path)
    terms, norms = one_step(run)
    assert set(terms) == set(norms) == {identity, "triplet", "gmn", "pic"}
    for name, term in terms.items():
        assert bool(term.isfinite()), name
        assert norms[name] > 0, name
