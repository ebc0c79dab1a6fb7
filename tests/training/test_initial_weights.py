"""A run starts from an artefact or another run's checkpoint, and names the parts that it leaves."""

import pytest
import torch

from model.artefact import load_artefact
from model.problems import InputProblem
from training.checkpoint import read_weights
from training.datasets.drawn import draw_people
from training.recipe import read_recipe
from training.run import prepare_run
from training.train import train_networks

RECORDS = draw_people(11, 2, 8, cameras_per_domain=2, crops_per_camera=1).records
RECIPE = """
description = "goes on from an artefact"

[sampling]
identities = 4
images = 2

[optimisation]
epochs = 1
warm_up_epochs = 0
"""


@pytest.fixture
def mine(tmp_path):
    """Writes a recipe that takes its networks from its start."""
    path = tmp_path / "mine.toml"
    path.write_text(RECIPE)
    return str(path)


@pytest.fixture
def start(tiny_artefact):
    return load_artefact(tiny_artefact)


def recipe(name, weights, *settings):
    return read_recipe(name, [f"initial_weights={weights}", *settings])


def assert_equal(found, expected):
    wanted = expected.state_dict()
    for name, tensor in found.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            assert torch.equal(tensor, wanted[name]), name


def test_a_recipe_without_networks_takes_those_of_the_artefact(
    mine, tiny_artefact, start, tmp_path
):
    chosen = recipe(mine, tiny_artefact)
    assert chosen.embedder == start.description.embedder
    assert chosen.preprocessing == start.description.preprocessing
    run = prepare_run(chosen, RECORDS, tmp_path)
    assert_equal(run.networks.embedder, start.embedder)
    assert_equal(run.networks.metric_network, start.metric_network)
    assert run.notes == ("initial weights from tiny.safetensors: embedder and M-Net",)


def test_the_parts_that_are_taken_over_learn_at_the_backbones_rate(mine, tiny_artefact, tmp_path):
    settings = ("optimisation.backbone_multiplier=0.5", "optimisation.head_multiplier=3")
    run = prepare_run(recipe(mine, tiny_artefact, *settings), RECORDS, tmp_path)
    rates = {
        id(parameter): group["multiplier"]
        for group in run.optimiser.param_groups
        for parameter in group["params"]
    }
    assert rates[id(run.networks.embedder.neck.weight)] == 0.5
    assert rates[id(run.networks.losses.identity.classifier.weight)] == 3.0


def test_an_m_net_of_another_kind_is_named_and_left(mine, tiny_artefact, start, tmp_path):
    chosen = recipe(mine, tiny_artefact, "metric_network.hidden=8")
    run = prepare_run(chosen, RECORDS, tmp_path)
    assert_equal(run.networks.embedder, start.embedder)
    assert run.networks.metric_network.config.hidden == 8
    assert run.notes[1] == (
        "not taken over from tiny.safetensors: M-Net: metric_network.hidden is 16 there, 8 here"
    )


def test_an_embedder_of_another_kind_is_refused_with_the_settings(mine, tiny_artefact, tmp_path):
    chosen = recipe(
        mine,
        tiny_artefact,
        "embedder.last_stride=2",
        "embedder.head={dimension=8}",
        "preprocessing.height=96",
    )
    with pytest.raises(InputProblem) as refused:
        prepare_run(chosen, RECORDS, tmp_path)
    for part in (
        "tiny.safetensors",
        "embedder.last_stride is 1 there, 2 here",
        'embedder.head is none there, {layers="bn-fc-relu", dimension=8, neck=false} here',
        "--set embedder.last_stride=1",
        "--set preprocessing.height=64",
    ):
        assert part in str(refused.value)
    # A recipe with networks of its own is not changed behind its back.
    with pytest.raises(InputProblem, match=r"preprocessing\.height is 64 there, 128 here"):
        prepare_run(recipe("small-gmn", tiny_artefact), RECORDS, tmp_path)


def test_a_checkpoint_keeps_the_weights_and_is_no_start_itself(mine, tiny_artefact, tmp_path):
    first = tmp_path / "first"
    first.mkdir()
    done = prepare_run(recipe(mine, tiny_artefact), RECORDS, first)
    train_networks(done)
    saved = read_weights(first / "checkpoint.pt").part("embedder")
    for name, tensor in done.networks.embedder.state_dict().items():
        assert torch.equal(saved[name], tensor), name
    chosen = recipe("small-gmn", first / "checkpoint.pt")
    with pytest.raises(InputProblem, match=r"checkpoint\.pt: is the checkpoint.*gmn finish"):
        prepare_run(chosen, RECORDS, tmp_path)


def test_an_artefact_that_is_not_there_is_named(mine, tmp_path):
    chosen = recipe(mine, tmp_path / "gone.safetensors")
    with pytest.raises(InputProblem, match=r"gone\.safetensors: no such file"):
        prepare_run(chosen, RECORDS, tmp_path)
