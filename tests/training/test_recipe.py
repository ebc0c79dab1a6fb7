"""Recipes: files, overrides, and what is wrong with them."""

import json
import os
import re
from pathlib import Path

import pytest
import torch

import gmn
from model.artefact import load_artefact
from model.metric_network import score_pairs
from model.problems import InputProblem
from training.batches import MOST_WORKERS, worker_count
from training.distributed import Processes
from training.optimiser import learning_rate
from training.recipe import RECIPES, Recipe, read_recipe
from training.run_folder import RunData, read_run, write_run


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.toml")), ids=lambda path: path.stem)
def test_every_shipped_recipe_is_valid_and_says_what_it_is(path: Path) -> None:
    recipe = read_recipe(path.stem)
    assert recipe.name == path.stem
    assert recipe.description


def test_the_papers_recipe_is_the_papers() -> None:
    recipe = read_recipe("gmn-r50")
    assert recipe.embedder.backbone == "resnet50"
    assert (recipe.preprocessing.height, recipe.preprocessing.width) == (256, 128)
    assert (recipe.sampling.identities, recipe.sampling.images) == (16, 4)
    assert recipe.losses.on["gmn"].perturbation_from_epoch == 10


def test_batches_are_made_ahead_for_a_gpu_and_at_once_on_a_cpu() -> None:
    workers = read_recipe("gmn-r50").workers
    processors = os.cpu_count() or 1
    gpu = torch.device("cuda")
    cpu = torch.device("cpu")
    assert worker_count(workers, cpu, Processes()) == 0
    assert worker_count(workers, gpu, Processes()) == min(processors, MOST_WORKERS)
    assert worker_count(workers, gpu, Processes(0, 10_000)) == 1
    assert worker_count(read_recipe("gmn-r50", ["workers=3"]).workers, cpu, Processes()) == 3


def test_recipes_of_gpus_keep_the_crops_of_a_large_set_in_memory() -> None:
    for name in ("gmn-r50", "msfl-r50"):
        recipe = read_recipe(name)
        crop = 3 * recipe.decoded.height * recipe.decoded.width
        assert recipe.cache_megabytes * 1_000_000 / crop > 80_000


def test_an_override_reaches_its_key() -> None:
    recipe = read_recipe(
        "gmn-r50",
        ["losses.pic=0.3", "optimisation.schedule.milestones=[5, 9]", "initial_weights=none"],
    )
    assert recipe.losses.on["pic"].weight == 0.3
    assert recipe.optimisation.schedule.milestones == (5, 9)
    assert recipe.initial_weights == "none"


def test_perturbation_can_be_switched_off() -> None:
    recipe = read_recipe("gmn-r50", ["losses.gmn.perturbation_from_epoch=none"])
    assert recipe.losses.on["gmn"].perturbation_from_epoch is None


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("losses.pick=0.3", r"losses\.pick: there is no such setting; did you mean losses\.pic\?"),
        ("augmentation.coars=0.5", r"did you mean augmentation\.coarse\?"),
        ("augmentation.white_balance=1", r"augmentation\.white_balance\.strength: .*less than 1"),
        ("sampling.order=croops", r"sampling\.order: .*no sampler croops; did you mean crops\?"),
        ("optimisation.optimiser=adan", r"no optimiser adan; did you mean adam\?"),
        ("optimisation.schedule.gama=1", r"did you mean optimisation\.schedule\.gamma\?"),
        ("optimisation.epoch=2", r"did you mean optimisation\.epochs\?"),
        ("optimization.epochs=2", r"did you mean optimisation\?"),
        ("losses.msgr.stage=[1]", r"losses\.msgr\.stages\?"),
        ("held_out.zzz=1", r"known are held_out\.fraction, held_out\.seed"),
        ("losses.triplet.margn=1", r"losses\.triplet\.margn: .*mean losses\.triplet\.margin\?"),
        ("distillation.teacher=[]", r"did you mean distillation\.teachers\?"),
        ("losses.pic=-1", r"losses\.pic\.weight: .*greater than or equal to 0, got -1"),
        ("embedder.backbone=vgg", r"embedder: .*no backbone vgg; known are mobilenet_v2"),
        ("losses", "write it as key=value"),
        ("seed.deep=1", r"seed.*|.*deep.*"),
    ],
)
def test_a_wrong_override_is_refused_by_its_key(override: str, message: str) -> None:
    with pytest.raises(InputProblem, match=message):
        read_recipe("gmn-r50", [override])


OFF = [f"losses.{name}=0" for name in ("identity", "triplet", "gmn", "pic")]


@pytest.mark.parametrize("on", [[], ["losses.msgr=0.1"], ["losses.distilled_relation=1"]])
def test_a_recipe_that_learns_nothing_from_a_batch_is_refused(on: list[str]) -> None:
    with pytest.raises(InputProblem, match=r"no loss is on .*losses\.identity=1"):
        read_recipe("quick", [*OFF, *on])


def test_one_change_of_a_camera_variant_leaves_the_others_as_they_are() -> None:
    usual = read_recipe("small").metric_fit.augmentation
    changed = read_recipe(
        "small", ["metric_fit.augmentation.gamma=0.9", "metric_fit.augmentation.coarse=0"]
    )
    variant = changed.metric_fit.augmentation
    assert (variant.on["gamma"].strength, "coarse" in variant.on) == (0.9, False)
    assert (variant.pad, variant.on["contrast"]) == (usual.pad, usual.on["contrast"])
    assert Recipe.model_validate_json(changed.model_dump_json()) == changed


def test_an_unknown_recipe_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InputProblem, match=r"recipe none-such: no such file.*gmn-r50"):
        read_recipe("none-such")


def test_the_recipe_of_an_earlier_versions_run_is_refused_by_what_it_names(tmp_path: Path) -> None:
    write_run(tmp_path, read_recipe("quick"), RunData(specs=("synthetic:7,identities=4",)))
    stored = json.loads((tmp_path / "recipe.json").read_text(encoding="utf-8"))
    stored["losses"]["identity_form"] = "softmax"
    (tmp_path / "recipe.json").write_text(json.dumps(stored), encoding="utf-8")
    with pytest.raises(InputProblem, match=r"earlier version .*losses\.identity_form.*train anew"):
        read_run(tmp_path)


def test_a_recipe_that_is_not_toml_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("epochs: 5")
    with pytest.raises(InputProblem, match=r"mine\.toml: not valid TOML"):
        read_recipe(str(path))


def test_the_learning_rate_warms_up_then_steps_down() -> None:
    settings = read_recipe("gmn-r50").optimisation
    rates = [learning_rate(settings, epoch) for epoch in (0, 5, 10, 29.9, 30, 50)]
    peak = settings.learning_rate
    assert rates == pytest.approx([0.01 * peak, 0.505 * peak, peak, peak, 0.1 * peak, 0.01 * peak])


def test_the_cosine_schedule_ends_at_zero() -> None:
    settings = read_recipe("gmn-r50", ["optimisation.schedule=cosine"]).optimisation
    assert learning_rate(settings, 60) == pytest.approx(0.0)
    assert learning_rate(settings, 35) == pytest.approx(settings.learning_rate / 2)


@pytest.mark.parametrize(
    ("recipe", "setting", "gmn", "perturbed", "pic"),
    [
        ("gmn-baseline-r50", None, False, False, False),
        ("gmn-baseline-r50", "losses.gmn=1", True, False, False),
        ("gmn-r50", "losses.pic=0", True, True, False),
        ("gmn-r50", None, True, True, True),
    ],
)
def test_the_rows_of_gmns_ablation_are_a_recipe_or_one_set(recipe, setting, gmn, perturbed, pic):
    losses = read_recipe(recipe, [setting] if setting else []).losses
    assert ("gmn" in losses.on, losses.perturbs(epoch=59), "pic" in losses.on) == (
        gmn,
        perturbed,
        pic,
    )


@pytest.mark.parametrize(
    ("large", "small"),
    [("gmn-baseline-r50", "small-baseline"), ("gmn-r50", "small-gmn"), ("msfl-r50", "small-msfl")],
)
def test_a_small_recipe_has_the_losses_of_its_large_twin(large: str, small: str) -> None:
    ours = read_recipe(small).losses.on
    theirs = read_recipe(large).losses.on
    assert {name: loss.weight for name, loss in ours.items()} == {
        name: loss.weight for name, loss in theirs.items()
    }


def test_every_setting_in_the_table_of_differences_from_the_papers_can_be_set() -> None:
    page = (Path(__file__).parents[2] / "docs" / "method.md").read_text(encoding="utf-8")
    table = page.split("## Differences from the papers")[1]
    settings = re.findall(r"`([a-z_.]+=[^`]+)`", table)
    assert len(settings) > 10
    for setting in settings:
        assert read_recipe("gmn-r50", [setting]).name == "gmn-r50", setting
    rows = [line for line in table.splitlines() if line.startswith("| ") and "**" not in line]
    assert all(line.count(" | ") >= 3 and not line.endswith("|  |") for line in rows)


def test_a_run_by_the_papers_pair_feature_is_scored_by_it(
    tiny_artefact: Path, tmp_path: Path
) -> None:
    """By `raw` pairs and a linear M-Net with BatchNorm."""
    settings = (
        *(f"initial_weights={tiny_artefact}", "preprocessing.height=64", "preprocessing.width=32"),
        *("sampling.identities=4", "held_out.fraction=0.4", "optimisation.epochs=1"),
        *("metric_network.pair_feature=raw", "metric_network.layers=bn-linear"),
        "metric_network_start=random",
    )
    data = "synthetic:5,identities=10,domains=2,cameras=2,crops=2"
    words = [word for setting in settings for word in ("--set", setting)]
    assert gmn.run(["train", "small-gmn", "--data", data, *words, "--out", str(tmp_path)]) == 0
    artefact = load_artefact(tmp_path / "model.safetensors")
    features = torch.randn(3, artefact.description.embedder.dimension)
    network = artefact.require_metric_network()
    pairs = (features[:1] - features[1:]).square()
    expected = network.scores(pairs).detach()
    assert torch.allclose(score_pairs(network, features[:1], features[1:])[0], expected, rtol=1e-4)
    with pytest.raises(InputProblem, match=r"layers=two and .*pair_feature=square.*steps=0"):
        read_recipe("small-gmn", ["metric_network.layers=bn-linear", "metric_fit.steps=1"])
