"""Figures on held-out people while a run trains, which change nothing but what is kept of it."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from training.checkpoint import read_weights
from training.datasets.drawn import draw_people
from training.datasets.protocols import split_held_out
from training.recipe import Recipe, read_recipe
from training.run import prepare_run
from training.train import TrainingStopped, train_networks
from training.validation import best_scoring, validation_searches

PEOPLE = draw_people(11, 1, 24, cameras_per_domain=2, crops_per_camera=3)
SETTINGS = (
    "preprocessing.height=64",
    "preprocessing.width=32",
    "sampling.identities=4",
    "sampling.images=2",
    "optimisation.epochs=2",
    "losses.gmn.perturbation_from_epoch=1",
    "checkpoint_every_steps=2",
    "held_out.fraction=0.4",
    "validation.every_steps=3",
)


class StoppedError(Exception):
    """Raised by a test where a process would have been killed."""


@pytest.fixture(scope="module")
def recipe(tiny_artefact: Path) -> Callable[..., Recipe]:
    """From trained weights: a few steps from random ones collapse, which is never the best."""

    def from_tiny(*settings: str) -> Recipe:
        return read_recipe("small-gmn", [f"initial_weights={tiny_artefact}", *SETTINGS, *settings])

    return from_tiny


def train_in(
    folder: Path,
    chosen: Recipe,
    at_step: Callable[[int], None] = lambda _: None,
    notices: list[str] | None = None,
) -> dict[str, torch.Tensor]:
    folder.mkdir(exist_ok=True)
    records, _ = split_held_out([PEOPLE], chosen.held_out.fraction, chosen.held_out.seed)
    run = prepare_run(chosen, records, folder)
    heard = [] if notices is None else notices
    searches = validation_searches(chosen, [PEOPLE])
    train_networks(run, lambda done, *_: at_step(done), heard.append, searches)
    return run.networks.state_dict()


def validations(folder: Path) -> list[dict]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [line for line in lines if line["event"] == "validation"]


def without_times(lines: list[dict]) -> list[dict]:
    return [{k: v for k, v in line.items() if k not in ("time", "seconds")} for line in lines]


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module")
def validated(recipe, tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("validated")
    notices: list[str] = []
    return folder, train_in(folder, recipe(), notices=notices), notices


@pytest.mark.slow
def test_validation_changes_no_weight(validated, recipe, tmp_path: Path) -> None:
    _, weights, _ = validated
    assert equal(weights, train_in(tmp_path, recipe("validation.every_epochs=0")))


def test_every_validation_is_in_the_log_and_named_in_a_line(validated) -> None:
    folder, _, notices = validated
    lines = validations(folder)
    epochs = [line["epoch"] for line in lines]
    assert {1.0, 2.0} < set(epochs)
    for line in lines:
        assert set(line["mAP"]) == {"synthetic/cosine", "synthetic/mnet"} == set(line["rank_1"])
    assert len(notices) == len(lines)
    assert all("mAP" in notice and "Rank-1" in notice for notice in notices)


def test_the_best_weights_are_those_of_the_highest_map(validated) -> None:
    folder, _, _ = validated
    lines = validations(folder)
    best = read_weights(folder / "best.pt")
    highest = max(max(line["mAP"].values()) for line in lines)
    assert best.validation["score"] == pytest.approx(highest, abs=1e-4)
    first = next(line for line in lines if line["score"] == round(best.validation["score"], 4))
    assert best.validation["epoch"] == first["epoch"]
    assert best.done == first["step"] + 1


@pytest.mark.parametrize("at", [3, 4])
def test_a_stopped_run_resumes_to_the_same_validations_and_the_same_best(
    validated, recipe, tmp_path: Path, at: int
) -> None:
    folder, weights, _ = validated

    def stop(done: int) -> None:
        if done == at:
            # A real signal would end the whole test run where the handler has a defect.
            handler = signal.getsignal(signal.SIGTERM)
            assert callable(handler)
            handler(signal.SIGTERM, None)

    with pytest.raises(TrainingStopped):
        train_in(tmp_path, recipe(), stop)
    assert equal(train_in(tmp_path, recipe()), weights)
    assert without_times(validations(tmp_path)) == without_times(validations(folder))
    one, other = (read_weights(place / "best.pt") for place in (tmp_path, folder))
    assert equal(dict(one.networks), dict(other.networks))
    assert one.validation == other.validation


def test_a_killed_run_resumes_to_the_same_validations_and_the_same_best(
    validated, recipe, tmp_path: Path
) -> None:
    folder, weights, _ = validated
    steps = read_weights(folder / "checkpoint.pt").done

    def kill(done: int) -> None:
        # After an epoch's validation, before the next checkpoint.
        if done == steps // 2 + 1:
            raise StoppedError

    with pytest.raises(StoppedError):
        train_in(tmp_path, recipe(), kill)
    assert equal(train_in(tmp_path, recipe()), weights)
    assert without_times(validations(tmp_path)) == without_times(validations(folder))
    one, other = (read_weights(place / "best.pt") for place in (tmp_path, folder))
    assert equal(dict(one.networks), dict(other.networks))


def test_averaged_weights_are_measured_and_kept(recipe, tmp_path: Path) -> None:
    only_at_the_end = ("validation.every_steps=none", "optimisation.epochs=1")
    weights = train_in(tmp_path, recipe("optimisation.weight_average=0.9", *only_at_the_end))
    best, last = (read_weights(tmp_path / name) for name in ("best.pt", "checkpoint.pt"))
    assert equal(dict(last.networks), weights)
    # M-Net's statistics are estimated anew for a validation.
    assert equal(best.part("embedder"), last.part("embedder"))


def test_without_l_gmn_the_cosine_alone_is_measured(recipe, tmp_path: Path) -> None:
    train_in(tmp_path, recipe("losses.gmn=0", "losses.pic=0", "optimisation.epochs=1"))
    assert set(validations(tmp_path)[-1]["mAP"]) == {"synthetic/cosine"}


def test_an_m_net_that_the_artefact_replaces_chooses_nothing(recipe, tmp_path: Path) -> None:
    train_in(tmp_path, recipe("metric_fit.steps=2", "optimisation.epochs=1"))
    assert {line["scoring"] for line in validations(tmp_path)} == {"cosine"}


def test_collapsed_weights_are_never_the_best(recipe, tmp_path: Path) -> None:
    # The steps from random weights at this rate give every crop the same feature.
    settings = ("initial_weights=none", "embedder.last_stride=2", "optimisation.epochs=1")
    notices: list[str] = []
    train_in(tmp_path, recipe(*settings), notices=notices)
    assert all(line["collapsed"] and not line["best"] for line in validations(tmp_path))
    assert all("collapsed" in notice for notice in notices)
    assert not (tmp_path / "best.pt").exists()


def test_at_most_so_many_people_and_crops_are_measured(recipe) -> None:
    few = recipe("validation.identities=3", "validation.crops=1")
    (search,) = validation_searches(few, [PEOPLE]).values()
    assert len({record.identity for record in search.records}) == 3
    assert len(search.records) == 6


def test_drawn_people_choose_the_best_only_where_there_are_no_others() -> None:
    figures = {
        "cuhk01": {"cosine": {"mAP": 0.5}, "mnet": {"mAP": 0.4}},
        "synthetic": {"cosine": {"mAP": 0.1}, "mnet": {"mAP": 0.9}},
    }
    assert best_scoring(figures) == ("cosine", 0.5)
    assert best_scoring({"synthetic": figures["synthetic"]}) == ("mnet", 0.9)
