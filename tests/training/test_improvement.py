"""A run whose weights rank the people held out worse than those it started from is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import gmn
from model.artefact import Artefact, load_artefact, save_artefact
from model.problems import InputProblem
from training.datasets.registry import read_datasets
from training.datasets.synthetic import draw_people
from training.evaluation.calibration import calibrate_searches
from training.evaluation.embedding import embed_search
from training.evaluation.pair_scores import SearchScores, computed_scores
from training.evaluation.searches import Search, across_cameras
from training.improvement import improvement_on_start, measure_start, refuse_if_worse
from training.quality import Answers, Quality, measure
from training.recipe import Recipe, read_recipe
from training.train import train

pytestmark = pytest.mark.slow

DATA = draw_people(11, 1, 8, cameras_per_domain=2, crops_per_camera=2)
SEARCHES: dict[str, Search] = {"shop": across_cameras("shop", DATA.records)}


def quality(name: str, **precisions: list[float]) -> Quality:
    people = range(len(next(iter(precisions.values()))))
    return Quality(
        name=name,
        precisions={scoring: {"shop": tuple(own)} for scoring, own in precisions.items()},
        people={"shop": tuple(people)},
        answers={},
        impostors={},
    )


def answering(name: str, alarms: list[int], found: list[int]) -> Quality:
    """Of the same queries: what they are answered, by cosine."""
    people = tuple(range(len(alarms)))
    own = Answers(alarms=tuple(alarms), found=tuple(found), people=people, people_found=people)
    base = quality(name, cosine=[0.8] * len(alarms))
    return base.model_copy(update={"answers": {"cosine": {"shop": own}}})


def scores_of(artefact: Artefact) -> dict[str, SearchScores]:
    search, preprocessing = SEARCHES["shop"], artefact.description.preprocessing
    features = embed_search(artefact.embedder, preprocessing, search)
    return {"shop": computed_scores(artefact.metric_network, features, search.labels())}


CPU = torch.device("cpu")


@pytest.fixture
def adapt(tiny_artefact: Path) -> Recipe:
    return read_recipe("adapt", [f"initial_weights={tiny_artefact}"])


def test_the_start_is_measured_by_cosine_and_by_m_net(
    adapt: Recipe, tiny_artefact: Path, tmp_path: Path
) -> None:
    found = measure_start(adapt, SEARCHES, tmp_path, CPU)
    tiny = load_artefact(tiny_artefact)
    calibration = tiny.description.calibration
    assert found == measure("tiny.safetensors", scores_of(tiny), calibration)
    assert set(found.precisions) == {"cosine", "mnet"}
    assert len(found.precisions["cosine"]["shop"]) == 16


def test_the_start_is_measured_where_the_run_trains(
    adapt: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = []

    class Measured(Exception):
        pass

    def stop(embedder, *_):
        places.append(next(embedder.parameters()).device.type)
        raise Measured

    monkeypatch.setattr("training.improvement.embed_search", stop)
    with pytest.raises(Measured):
        measure_start(adapt, SEARCHES, tmp_path, torch.device("meta"))
    assert places == ["meta"]


def test_a_resumed_run_does_not_measure_the_start_again(
    adapt: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = measure_start(adapt, SEARCHES, tmp_path, CPU)
    monkeypatch.delattr("training.improvement.embed_search")
    assert measure_start(adapt, SEARCHES, tmp_path, CPU) == found


def test_figures_of_other_queries_are_measured_anew(
    adapt: Recipe, tiny_artefact: Path, tmp_path: Path
) -> None:
    fewer = {"shop": across_cameras("shop", DATA.records[:-4])}
    measure_start(adapt, fewer, tmp_path, CPU)
    scores = scores_of(load_artefact(tiny_artefact))
    fitted = calibrate_searches(list(scores.values()), "shop")
    calibration, sentence = improvement_on_start(adapt, tmp_path, SEARCHES, scores, fitted, CPU)
    assert "+0.0 points" in sentence
    assert "Only 8 people were held out" in sentence
    assert calibration.scorings != fitted.scorings


def test_a_start_that_is_no_embedder_cannot_be_compared_with(tmp_path: Path) -> None:
    chosen = read_recipe("small-gmn", ["initial_weights=none", "refuse_worse=true"])
    with pytest.raises(InputProblem, match=r"refuse_worse.*none gives no.*refuse_worse=false"):
        measure_start(chosen, SEARCHES, tmp_path, CPU)


def test_worse_weights_are_refused_with_both_figures_and_what_to_do() -> None:
    start = quality("bundled.safetensors", cosine=[0.5, 0.7, 0.9, 0.9], mnet=[0.5, 0.6, 0.8, 0.9])
    worse = quality("runs/site", cosine=[0.4, 0.5, 0.9, 0.9], mnet=[0.4, 0.6, 0.9, 0.9])
    with pytest.raises(InputProblem) as refused:
        refuse_if_worse(start, worse)
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
    start = quality("bundled.safetensors", cosine=[0.5, 0.7], mnet=[0.2, 0.2])
    better = quality("runs/site", cosine=[0.5, 0.5], mnet=[0.6, 0.7])
    sentence = refuse_if_worse(start, better)
    assert (
        "mAP is 65.0% by mnet; bundled.safetensors has 60.0% by cosine: +5.0 points [" in sentence
    )


def test_weights_that_raise_more_false_alarms_than_asked_are_refused() -> None:
    start = answering("bundled.safetensors", alarms=[0] * 40, found=[1] * 30 + [0] * 10)
    alarming = answering("runs/site", alarms=[1] * 10 + [0] * 30, found=[1] * 40)
    with pytest.raises(InputProblem) as refused:
        refuse_if_worse(start, alarming)
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
        refuse_if_worse(start, blind)


def test_one_alarm_or_one_miss_more_is_no_proof() -> None:
    start = answering("bundled.safetensors", alarms=[0] * 40, found=[1] * 30 + [0] * 10)
    near = answering("runs/site", alarms=[1] + [0] * 39, found=[1] * 29 + [0] * 11)
    sentence = refuse_if_worse(start, near)
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
    recipe, datasets = read_recipe("adapt", settings), read_datasets([DRAWN])
    report = train(recipe, datasets, tmp_path / "site", notice=heard.append)
    assert load_artefact(tmp_path / "site" / "model.safetensors").metric_network is not None
    assert "On the held-out people mAP is" in report.checkpoint
    assert heard[1] == "initial weights from poor.safetensors: embedder and M-Net"
    with pytest.raises(InputProblem, match="is not empty"):
        train(recipe, datasets, tmp_path / "site", notice=heard.append)
