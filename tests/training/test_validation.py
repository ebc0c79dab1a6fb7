"""Figures on held-out people while a run trains, which change nothing but what is kept of it."""

import json
import signal

import pytest
import torch

from tests.training.runs import FAST_BACKBONE
from training.checkpoint import read_weights
from training.datasets.drawn import draw_people
from training.datasets.protocols import split_held_out
from training.recipe import read_recipe
from training.run import prepare_run
from training.train import TrainingStopped, train_networks
from training.validation import best_scoring, validation_searches

PEOPLE = draw_people(11, 1, 24, cameras_per_domain=2, crops_per_camera=3)
SETTINGS = (
    "initial_weights=none",
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


def recipe(*settings):
    return read_recipe("small-gmn", [*SETTINGS, FAST_BACKBONE, *settings])


def train_in(folder, chosen, at_step=lambda _: None, notices=None):
    folder.mkdir(exist_ok=True)
    records, _ = split_held_out([PEOPLE], chosen.held_out.fraction, chosen.held_out.seed)
    run = prepare_run(chosen, records, folder)
    heard = [] if notices is None else notices
    searches = validation_searches(chosen, [PEOPLE])
    train_networks(run, lambda done, *_: at_step(done), heard.append, searches)
    return run.networks.state_dict()


def validations(folder):
    """Read the validations of a run's log, without their times."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [
        {name: value for name, value in line.items() if name not in ("time", "seconds")}
        for line in lines
        if line["event"] == "validation"
    ]


def equal(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module")
def validated(tmp_path_factory):
    folder = tmp_path_factory.mktemp("validated")
    notices = []
    return folder, train_in(folder, recipe(), notices=notices), notices


@pytest.mark.slow
def test_validation_changes_no_weight(validated, tmp_path):
    _, weights, _ = validated
    assert equal(weights, train_in(tmp_path, recipe("validation.every_epochs=0")))


def test_every_validation_is_in_the_log_and_named_in_a_line(validated):
    folder, _, notices = validated
    lines = validations(folder)
    epochs = [line["epoch"] for line in lines]
    assert {1.0, 2.0} < set(epochs)
    for line in lines:
        assert set(line["mAP"]) == {"synthetic/cosine", "synthetic/mnet"} == set(line["rank_1"])
    assert len(notices) == len(lines)
    assert all("mAP" in notice and "Rank-1" in notice for notice in notices)


def test_the_best_weights_are_those_of_the_highest_map(validated):
    folder, _, _ = validated
    lines = validations(folder)
    best = read_weights(folder / "best.pt")
    highest = max(max(line["mAP"].values()) for line in lines)
    assert best.validation["score"] == pytest.approx(highest, abs=1e-4)
    first = next(line for line in lines if line["score"] == round(best.validation["score"], 4))
    assert best.validation["epoch"] == first["epoch"]
    assert best.done == first["step"] + 1


@pytest.mark.parametrize("killed", [False, True])
def test_a_stopped_run_resumes_to_the_same_validations_and_the_same_best(
    killed, validated, tmp_path
):
    folder, weights, _ = validated
    # After an epoch's validation, before the next checkpoint.
    last = read_weights(folder / "checkpoint.pt").done // 2 + 1

    def stop(done):
        if done == last:
            if killed:
                raise StoppedError
            # A real signal would end the whole test run where the handler has a defect.
            handler = signal.getsignal(signal.SIGTERM)
            assert callable(handler)
            handler(signal.SIGTERM, None)

    with pytest.raises(StoppedError if killed else TrainingStopped):
        train_in(tmp_path, recipe(), stop)
    assert equal(train_in(tmp_path, recipe()), weights)
    assert validations(tmp_path) == validations(folder)
    one, other = (read_weights(place / "best.pt") for place in (tmp_path, folder))
    assert equal(dict(one.networks), dict(other.networks))
    assert one.validation == other.validation


@pytest.mark.parametrize("setting", ["losses.gmn=0", "metric_fit.steps=2"])
def test_an_m_net_that_learns_nothing_or_is_replaced_chooses_nothing(setting, tmp_path):
    train_in(tmp_path, recipe(setting, "losses.pic=0", "optimisation.epochs=1"))
    lines = validations(tmp_path)
    assert {line["scoring"] for line in lines} == {"cosine"}
    measured = {"synthetic/cosine"} if setting == "losses.gmn=0" else set(lines[-1]["mAP"])
    assert set(lines[-1]["mAP"]) == measured


def test_at_most_so_many_people_and_crops_are_measured():
    few = recipe("validation.identities=3", "validation.crops=1")
    (search,) = validation_searches(few, [PEOPLE]).values()
    assert len({record.identity for record in search.records}) == 3
    assert len(search.records) == 6


def test_drawn_people_choose_the_best_only_where_there_are_no_others():
    figures = {
        "cuhk01": {"cosine": {"mAP": 0.5}, "mnet": {"mAP": 0.4}},
        "synthetic": {"cosine": {"mAP": 0.1}, "mnet": {"mAP": 0.9}},
    }
    assert best_scoring(figures) == ("cosine", 0.5)
    assert best_scoring({"synthetic": figures["synthetic"]}) == ("mnet", 0.9)
