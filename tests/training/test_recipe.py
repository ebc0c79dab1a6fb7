"""Recipes: files, overrides, and their errors."""

import json
import re
from pathlib import Path

import pytest

from model.problems import InputProblem
from training.optimiser import learning_rate
from training.recipe import RECIPES, read_recipe
from training.run_folder import RunData, read_run, write_run


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.toml")), ids=lambda path: path.stem)
def test_every_shipped_recipe_is_valid_and_says_what_it_is(path):
    recipe = read_recipe(path.stem)
    assert recipe.name == path.stem
    assert recipe.description


def test_the_papers_recipe_is_the_papers():
    recipe = read_recipe("gmn-r50")
    assert recipe.embedder.backbone == "resnet50"
    assert (recipe.preprocessing.height, recipe.preprocessing.width) == (256, 128)
    assert (recipe.sampling.identities, recipe.sampling.images) == (16, 4)
    assert recipe.losses.on["gmn"].perturbation_from_epoch == 10


def test_an_override_reaches_its_key():
    recipe = read_recipe(
        "gmn-r50",
        [
            "losses.pic=0.3",
            "losses.gmn.perturbation_from_epoch=none",
            "optimisation.schedule.milestones=[5, 9]",
            "initial_weights=none",
        ],
    )
    assert recipe.losses.on["gmn"].perturbation_from_epoch is None
    assert recipe.losses.on["pic"].weight == 0.3
    assert recipe.optimisation.schedule.milestones == (5, 9)
    assert recipe.initial_weights == "none"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("losses.pick=0.3", r"losses\.pick: there is no such setting; did you mean losses\.pic\?"),
        ("augmentation.coars=0.5", r"did you mean augmentation\.coarse\?"),
        ("augmentation.white_balance=1", r"augmentation\.white_balance\.strength: .*less than 1"),
        ("sampling.order=croops", r"sampling\.order: .*no sampler croops; did you mean crops\?"),
        ("optimization.epochs=2", r"did you mean optimisation\?"),
        ("held_out.zzz=1", r"known are held_out\.fraction, held_out\.seed"),
        ("losses.triplet.margn=1", r"losses\.triplet\.margn: .*mean losses\.triplet\.margin\?"),
        ("losses.pic=-1", r"losses\.pic\.weight: .*greater than or equal to 0, got -1"),
        ("embedder.backbone=vgg", r"embedder: .*no backbone vgg; known are .*mobilenet_v2"),
        ("losses", "write it as key=value"),
    ],
)
def test_a_wrong_override_is_refused_by_its_key(override, message):
    with pytest.raises(InputProblem, match=message):
        read_recipe("gmn-r50", [override])


OFF = [f"losses.{name}=0" for name in ("identity", "triplet", "gmn", "pic")]


@pytest.mark.parametrize("on", [[], ["losses.msgr=0.1"], ["losses.distilled_relation=1"]])
def test_a_recipe_that_learns_nothing_from_a_batch_is_refused(on):
    with pytest.raises(InputProblem, match=r"no loss is on .*losses\.identity=1"):
        read_recipe("quick", [*OFF, *on])


def test_an_unknown_recipe_is_refused_with_the_known_ones():
    with pytest.raises(InputProblem, match=r"recipe none-such: no such file.*gmn-r50"):
        read_recipe("none-such")


def test_the_recipe_of_another_versions_run_is_refused_by_what_it_names(tmp_path):
    write_run(tmp_path, read_recipe("quick"), RunData(specs=("synthetic:7,identities=4",)))
    stored = json.loads((tmp_path / "recipe.json").read_text(encoding="utf-8"))
    stored["losses"]["identity_form"] = "softmax"
    (tmp_path / "recipe.json").write_text(json.dumps(stored), encoding="utf-8")
    with pytest.raises(InputProblem, match=r"another version .*losses\.identity_form.*train again"):
        read_run(tmp_path)


def test_a_recipe_that_is_not_toml_is_refused(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text("epochs: 5")
    with pytest.raises(InputProblem, match=r"mine\.toml: not valid TOML"):
        read_recipe(str(path))


def test_the_learning_rate_warms_up_then_steps_down():
    settings = read_recipe("gmn-r50").optimisation
    rates = [learning_rate(settings, epoch) for epoch in (0, 5, 10, 29.9, 30, 50)]
    peak = settings.learning_rate
    assert rates == pytest.approx([0.01 * peak, 0.505 * peak, peak, peak, 0.1 * peak, 0.01 * peak])


def test_every_setting_in_the_table_of_differences_from_the_papers_can_be_set():
    page = (Path(__file__).parents[2] / "docs" / "method.md").read_text(encoding="utf-8")
    table = page.split("## Differences from the papers")[1]
    settings = re.findall(r"`([a-z_.]+=[^`]+)`", table)
    assert len(settings) > 10
    for setting in settings:
        assert read_recipe("gmn-r50", [setting]).name == "gmn-r50", setting
    rows = [line for line in table.splitlines() if line.startswith("| ") and "**" not in line]
    assert all(line.count(" | ") >= 3 and not line.endswith("|  |") for line in rows)


def test_the_cosine_schedule_ends_at_zero():
    settings = read_recipe("gmn-r50", ["optimisation.schedule=cosine"]).optimisation
    assert learning_rate(settings, 60) == pytest.approx(0.0)
    assert learning_rate(settings, 35) == pytest.approx(settings.learning_rate / 2)
