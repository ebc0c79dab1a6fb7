"""A run whose weights are shown to be worse than those it started from is refused."""

import numpy as np
import pytest
import torch

from model.artefact import load_artefact
from model.problems import InputProblem
from tests.training.runs import run_here, set_options
from training.datasets.registry import read_datasets
from training.evaluation.files import save_artefact
from training.recipe import read_recipe
from training.start_comparison import (
    HeldOutScores,
    measure_start,
    require_improvement,
)
from training.train import train

TRAINED = read_recipe("adapt")
FITTED = read_recipe("adapt-fast")
PEOPLE = "synthetic:11,identities=8,domains=1,cameras=2,crops=2"


def held_out(name, **precisions):
    """Return average precisions of some people, one query each."""
    return HeldOutScores(
        name,
        {
            scoring: {"mAP": [(np.array(values), np.arange(len(values)))]}
            for scoring, values in precisions.items()
        },
    )


def answering(name, alarms, found):
    """Return scores of queries that rank alike, with their alarms and finds by cosine."""
    people = np.arange(len(alarms))
    figures = {"mAP": [0.8] * len(alarms), "alarms": alarms, "found": found}
    samples = {figure: [(np.array(values, float), people)] for figure, values in figures.items()}
    return HeldOutScores(name, {"cosine": samples})


def test_a_start_that_is_no_embedder_cannot_be_compared_with():
    chosen = read_recipe("small-gmn", ["initial_weights=none", "refuse_worse=true"])
    with pytest.raises(InputProblem, match=r"refuse_worse.*none has none.*refuse_worse=false"):
        measure_start(chosen, {}, torch.device("cpu"))


def test_worse_weights_are_refused_with_both_figures_and_what_to_do():
    start = held_out("bundled.safetensors", cosine=[0.7, 0.8, 0.9] * 4, mnet=[0.6, 0.7, 0.8] * 4)
    worse = held_out("runs/site", cosine=[0.5, 0.6, 0.7] * 4, mnet=[0.6, 0.8, 0.7] * 4)
    with pytest.raises(InputProblem) as refused:
        require_improvement(TRAINED, start, worse)
    for part in (
        "runs/site: no artefact is written: on the held-out people",
        "mAP 70.0% by mnet",
        "bundled.safetensors has 80.0% by cosine",
        "-10.0 points [",
        "optimisation.learning_rate",
        "losses.anchor",
        "--set refuse_worse=false",
    ):
        assert part in str(refused.value)


def test_a_fit_without_an_epoch_is_refused_with_remedies_that_it_has():
    start = held_out("open.safetensors", cosine=[0.7, 0.8, 0.9] * 4)
    worse = held_out("runs/site", cosine=[0.5, 0.6, 0.7] * 4)
    with pytest.raises(InputProblem) as refused:
        require_improvement(FITTED, start, worse)
    assert "no artefact is written: out of fold" in str(refused.value)
    assert "a higher projection_fit.shrinkage or with more people" in str(refused.value)
    assert "--set refuse_worse=false" in str(refused.value)
    for setting in ("learning_rate", "epochs", "anchor", "gmn finish"):
        assert setting not in str(refused.value)


@pytest.mark.parametrize("recipe", [TRAINED, FITTED], ids=lambda recipe: recipe.name)
def test_a_loss_that_may_be_chance_is_told_and_not_refused(recipe):
    start = held_out("open.safetensors", cosine=[0.9, 0.9, 0.9, 0.5] * 5)
    other = held_out("runs/site", cosine=[0.8, 0.8, 0.8, 0.7] * 5)
    sentence = require_improvement(recipe, start, other)
    assert "-2.5 points [" in sentence
    assert "This shows neither a gain nor a loss." in sentence
    # Each of a few people may lose by chance, which no resampling of them tells.
    few = require_improvement(
        recipe, held_out("open.safetensors", cosine=[0.9] * 5), held_out("site", cosine=[0.8] * 5)
    )
    assert "-10.0 points [-10.0, -10.0]. This shows neither a gain nor a loss." in few
    gained = require_improvement(recipe, other, held_out("site", cosine=[0.9] * 20))
    assert "neither" not in gained


def test_the_best_scoring_of_each_is_what_counts():
    start = held_out("bundled.safetensors", cosine=[0.5, 0.7], mnet=[0.2, 0.2])
    better = held_out("runs/site", cosine=[0.5, 0.5], mnet=[0.6, 0.7])
    sentence = require_improvement(TRAINED, start, better)
    assert (
        "mAP is 65.0% by mnet; bundled.safetensors has 60.0% by cosine: +5.0 points [" in sentence
    )


def test_weights_that_raise_more_false_alarms_or_find_fewer_people_are_refused():
    start = answering("bundled.safetensors", alarms=[0] * 40, found=[1] * 30 + [0] * 10)
    alarming = answering("runs/site", alarms=[1] * 10 + [0] * 30, found=[1] * 40)
    blind = answering("runs/site", alarms=[0] * 40, found=[1] * 10 + [0] * 30)
    for worse, parts in (
        (alarming, ("25.0% false alarms at far_1e-2 (+25.0 points [", "people (+25.0 points [")),
        (blind, ("find 25.0% of the people (-50.0 points [", "--set refuse_worse=false")),
    ):
        with pytest.raises(InputProblem) as refused:
            require_improvement(TRAINED, start, worse)
        for part in ("no artefact is written", *parts):
            assert part in str(refused.value)
    # One alarm or one miss more is no proof.
    near = answering("runs/site", alarms=[1] + [0] * 39, found=[1] * 29 + [0] * 11)
    sentence = require_improvement(TRAINED, start, near)
    assert "they have 2.5% false alarms at far_1e-2 (+2.5 points [" in sentence
    assert "find 72.5% of the people (-2.5 points [" in sentence


DRAWN = "synthetic:5,identities=24,domains=1,cameras=2,crops=2"
SMALL = ("held_out.fraction=0.4", "sampling.identities=4", "optimisation.epochs=1")
# Trains little but the neck, and that fast.
CAREFUL = ("optimisation.frozen_stages=3", "optimisation.learning_rate=1e-2")


@pytest.mark.slow
def test_adapting_an_artefact_to_own_people_writes_a_better_one(tiny_artefact, tmp_path):
    """It starts from the tiny artefact with a neck that passes one number of a feature on."""
    artefact = load_artefact(tiny_artefact)
    artefact.embedder.neck.weight.data[1:] = 0.0
    poor = tmp_path / "poor.safetensors"
    save_artefact(poor, artefact.description, artefact.embedder, artefact.metric_network)
    assert run_here("calibrate", poor, "--data", PEOPLE).status == 0
    known = load_artefact(poor).description

    heard = []
    recipe = read_recipe("adapt", [f"initial_weights={poor}", *SMALL, *CAREFUL])
    datasets = read_datasets([DRAWN])
    report = train(recipe, datasets, tmp_path / "site", notice=heard.append)
    assert heard[1] == "initial weights from poor.safetensors: embedder and M-Net"
    assert any("poor.safetensors: held-out people mAP" in notice for notice in heard)
    made = load_artefact(tmp_path / "site" / "model.safetensors").description
    assert made.embedder == known.embedder
    assert made.preprocessing == known.preprocessing
    assert made.metric_network is not None
    assert "On the held-out people mAP is" in report.checkpoint
    assert "people were held out: the thresholds depend mostly on those of" in report.checkpoint
    assert f"else the start's: {known.calibration.data}" in made.calibration.data
    with pytest.raises(InputProblem, match="is not empty"):
        train(recipe, datasets, tmp_path / "site", notice=heard.append)


@pytest.mark.slow
def test_adapting_that_makes_it_worse_ends_with_an_error_and_no_artefact(tiny_artefact, tmp_path):
    folder = tmp_path / "site"
    ruinous = (*SMALL, "optimisation.learning_rate=1.0", "losses.anchor=0")
    settings = set_options(f"initial_weights={tiny_artefact}", *ruinous)
    ran = run_here("train", "adapt", "--data", DRAWN, "--out", folder, *settings)
    assert ran.status == 2
    assert "no artefact is written" in ran.err
    assert (folder / "checkpoint.pt").exists()
    assert not (folder / "model.safetensors").exists()
