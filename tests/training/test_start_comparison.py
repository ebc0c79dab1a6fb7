"""A run whose weights rank the people held out worse than those it started from is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import gmn
from model.artefact import Artefact, load_artefact, save_artefact
from model.problems import InputProblem
from training.datasets.drawn import draw_people
from training.datasets.registry import read_datasets
from training.evaluation.calibration import calibrate_searches
from training.evaluation.embedding import embed_searches
from training.evaluation.scoring import SearchScores, open_scores
from training.evaluation.searches import Search, across_cameras
from training.recipe import Recipe, read_recipe
from training.start_comparison import (
    HeldOutScores,
    compare_with_start,
    held_out_scores,
    measure_start,
    require_improvement,
)
from training.train import train

pytestmark = pytest.mark.slow

DATA = draw_people(11, 1, 8, cameras_per_domain=2, crops_per_camera=2)
SEARCHES: dict[str, Search] = {"shop": across_cameras("shop", DATA.records)}


def held_out(name: str, **precisions: list[float]) -> HeldOutScores:
    """Average precisions of one query each of some people."""
    return HeldOutScores(
        name,
        {
            scoring: {"mAP": [(np.array(values), np.arange(len(values)))]}
            for scoring, values in precisions.items()
        },
    )


def answering(name: str, alarms: list[int], found: list[int]) -> HeldOutScores:
    """Of queries that rank alike: what they are answered, by cosine."""
    people = np.arange(len(alarms))
    figures = {"mAP": [0.8] * len(alarms), "alarms": alarms, "found": found}
    samples = {figure: [(np.array(values, float), people)] for figure, values in figures.items()}
    return HeldOutScores(name, {"cosine": samples})


def scores_of(artefact: Artefact) -> dict[str, SearchScores]:
    search = SEARCHES["shop"]
    preprocessing = artefact.description.preprocessing
    features = embed_searches(artefact.embedder, preprocessing, {"": search})[""]
    labels = search.labels()
    with open_scores(artefact.metric_network, features, labels) as scores:
        kept = {name: rows(slice(0, None)) for name, rows in scores.by_scoring.items()}
    mnet = kept["mnet"].__getitem__ if "mnet" in kept else None
    return {"shop": SearchScores(kept["cosine"].__getitem__, mnet, labels)}


CPU = torch.device("cpu")


@pytest.fixture
def adapt(tiny_artefact: Path) -> Recipe:
    return read_recipe("adapt", [f"initial_weights={tiny_artefact}"])


def test_the_start_is_measured_by_cosine_and_by_m_net(adapt: Recipe, tiny_artefact: Path) -> None:
    found = measure_start(adapt, SEARCHES, CPU)
    tiny = load_artefact(tiny_artefact)
    calibration = tiny.description.calibration
    expected = held_out_scores("tiny.safetensors", list(scores_of(tiny).values()), calibration)
    assert found.name == expected.name
    assert found.impostors == expected.impostors
    assert set(found.figures) == {"cosine", "mnet"}
    for scoring, figures in expected.figures.items():
        assert set(figures) == {"mAP", "alarms", "found"}
        for figure, samples in figures.items():
            np.testing.assert_array_equal(found.figures[scoring][figure], samples)
    ((values, people),) = found.figures["cosine"]["mAP"]
    assert len(values) == len(people) == 16


def test_the_start_is_measured_where_the_run_trains(
    adapt: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = []

    class Measured(Exception):
        pass

    def stop(embedder, *_):
        places.append(next(embedder.parameters()).device.type)
        raise Measured

    monkeypatch.setattr("training.start_comparison.embed_searches", stop)
    with pytest.raises(Measured):
        measure_start(adapt, SEARCHES, torch.device("meta"))
    assert places == ["meta"]


def test_few_people_get_thresholds_blended_with_those_of_the_start(
    adapt: Recipe, tiny_artefact: Path
) -> None:
    scores = scores_of(load_artefact(tiny_artefact))
    fitted = calibrate_searches(list(scores.values()), "shop")
    calibration, sentence = compare_with_start(adapt, "run", SEARCHES, scores, fitted, CPU)
    assert "+0.0 points" in sentence
    assert "Only 8 people were held out" in sentence
    assert calibration.scorings != fitted.scorings


def test_a_start_that_is_no_embedder_cannot_be_compared_with() -> None:
    chosen = read_recipe("small-gmn", ["initial_weights=none", "refuse_worse=true"])
    with pytest.raises(InputProblem, match=r"refuse_worse.*none gives no.*refuse_worse=false"):
        measure_start(chosen, SEARCHES, CPU)


def test_worse_weights_are_refused_with_both_figures_and_what_to_do() -> None:
    start = held_out("bundled.safetensors", cosine=[0.5, 0.7, 0.9, 0.9], mnet=[0.5, 0.6, 0.8, 0.9])
    worse = held_out("runs/site", cosine=[0.4, 0.5, 0.9, 0.9], mnet=[0.4, 0.6, 0.9, 0.9])
    with pytest.raises(InputProblem) as refused:
        require_improvement(start, worse)
    for part in (
        "runs/site: no artefact is written",
        "mAP 70.0% by mnet",
        "bundled.safetensors has 75.0% by cosine",
        "-5.0 points [",
        "optimisation.learning_rate",
        "losses.anchor",
        "--set refuse_worse=false",
    ):
        assert part in str(refused.value)


def test_the_best_scoring_of_each_is_what_counts() -> None:
    start = held_out("bundled.safetensors", cosine=[0.5, 0.7], mnet=[0.2, 0.2])
    better = held_out("runs/site", cosine=[0.5, 0.5], mnet=[0.6, 0.7])
    sentence = require_improvement(start, better)
    assert (
        "mAP is 65.0% by mnet; bundled.safetensors has 60.0% by cosine: +5.0 points [" in sentence
    )


def test_weights_that_raise_more_false_alarms_than_asked_are_refused() -> None:
    start = answering("bundled.safetensors", alarms=[0] * 40, found=[1] * 30 + [0] * 10)
    alarming = answering("runs/site", alarms=[1] * 10 + [0] * 30, found=[1] * 40)
    with pytest.raises(InputProblem) as refused:
        require_improvement(start, alarming)
    for part in (
        "no artefact is written",
        "25.0% false alarms at far_1e-2 (+25.0 points [",
        "find 100.0% of the people (+25.0 points [",
        "--set refuse_worse=false",
    ):
        assert part in str(refused.value)


def test_weights_that_find_fewer_people_are_refused_though_they_rank_as_well() -> None:
    start = answering("bundled.safetensors", alarms=[0] * 40, found=[1] * 30 + [0] * 10)
    blind = answering("runs/site", alarms=[0] * 40, found=[1] * 10 + [0] * 30)
    with pytest.raises(InputProblem, match=r"find 25\.0% of the people \(-50\.0 points \["):
        require_improvement(start, blind)


def test_one_alarm_or_one_miss_more_is_no_proof() -> None:
    start = answering("bundled.safetensors", alarms=[0] * 40, found=[1] * 30 + [0] * 10)
    near = answering("runs/site", alarms=[1] + [0] * 39, found=[1] * 29 + [0] * 11)
    sentence = require_improvement(start, near)
    assert "they have 2.5% false alarms at far_1e-2 (+2.5 points [" in sentence
    assert "find 72.5% of the people (-2.5 points [" in sentence


DRAWN = "synthetic:5,identities=24,domains=1,cameras=2,crops=2"
SMALL = ("held_out.fraction=0.4", "sampling.identities=4", "optimisation.epochs=1")


def adapt_in(folder: Path, start: Path, *settings: str) -> int:
    chosen = (f"initial_weights={start}", *SMALL, *settings)
    words = (word for setting in chosen for word in ("--set", setting))
    return gmn.run(["train", "adapt", "--data", DRAWN, "--out", str(folder), *words])


# Trains little but the neck, and that fast.
CAREFUL = ("optimisation.frozen_stages=3", "optimisation.learning_rate=1e-2")


@pytest.fixture
def poor_artefact(tiny_artefact: Path, tmp_path: Path) -> Path:
    """The tiny artefact with a neck that passes one number of a feature on."""
    artefact = load_artefact(tiny_artefact)
    artefact.embedder.neck.weight.data[1:] = 0.0
    fitted = calibrate_searches(list(scores_of(artefact).values()), "drawn people")
    description = artefact.description.model_copy(update={"calibration": fitted})
    path = tmp_path / "poor.safetensors"
    save_artefact(path, description, artefact.embedder, artefact.metric_network)
    return path


def test_adapting_an_artefact_to_own_people_writes_a_better_one(
    poor_artefact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "site"
    assert adapt_in(folder, poor_artefact, *CAREFUL) == 0
    assert "poor.safetensors: held-out people mAP" in capsys.readouterr().err
    known = load_artefact(poor_artefact).description
    made = load_artefact(folder / "model.safetensors").description
    assert made.embedder == known.embedder
    assert made.preprocessing == known.preprocessing
    report = json.loads((folder / "report.json").read_text())
    assert "On the held-out people mAP is" in report["checkpoint"]
    assert "people were held out: the thresholds rest mostly on those of" in report["checkpoint"]
    assert f"else the start's: {known.calibration.data}" in made.calibration.data


def test_adapting_that_makes_it_worse_ends_with_an_error_and_no_artefact(
    tiny_artefact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "site"
    ruinous = ("optimisation.learning_rate=0.3", "losses.anchor=0")
    assert adapt_in(folder, tiny_artefact, *ruinous) == 2
    assert "no artefact is written" in capsys.readouterr().err
    assert (folder / "checkpoint.pt").exists()
    assert not (folder / "model.safetensors").exists()


def test_a_program_adapts_an_artefact_as_the_command_line_does(
    poor_artefact: Path, tmp_path: Path
) -> None:
    heard: list[str] = []
    settings = [f"initial_weights={poor_artefact}", *SMALL, *CAREFUL]
    recipe = read_recipe("adapt", settings)
    datasets = read_datasets([DRAWN])
    report = train(recipe, datasets, tmp_path / "site", notice=heard.append)
    assert load_artefact(tmp_path / "site" / "model.safetensors").metric_network is not None
    assert "On the held-out people mAP is" in report.checkpoint
    assert heard[1] == "initial weights from poor.safetensors: embedder and M-Net"
    with pytest.raises(InputProblem, match="is not empty"):
        train(recipe, datasets, tmp_path / "site", notice=heard.append)
