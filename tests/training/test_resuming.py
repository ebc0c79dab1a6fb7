"""A run that was stopped, killed or interrupted in its writing ends as if it never had been."""

import hashlib
import json
import signal
import time
from dataclasses import replace

import pytest
import torch
from torchvision.models import mobilenet_v2

from model.problems import InputProblem
from tests.forked import Forked
from tests.training.runs import FAST_BACKBONE
from training.datasets.drawn import draw_people
from training.datasets.recombined import recombine
from training.datasets.registry import read_dataset
from training.recipe import read_recipe
from training.run import prepare_run
from training.train import TrainingStopped, train_networks

pytestmark = pytest.mark.slow

RECORDS = draw_people(11, 2, 6, cameras_per_domain=2, crops_per_camera=1).records
SETTINGS = (
    "initial_weights=none",
    "embedder.last_stride=2",
    "preprocessing.height=64",
    "preprocessing.width=32",
    "sampling.identities=4",
    "sampling.images=2",
    "optimisation.epochs=2",
    "losses.gmn.perturbation_from_epoch=1",
    "checkpoint_every_steps=2",
    "log_every_steps=1",
    "workers=1",
)
ADAMW = ("optimisation.optimiser=adamw",)


class StoppedError(Exception):
    """Raised by a test where a process would have been killed."""


def recipe(*settings):
    return read_recipe("small-gmn", [*SETTINGS, FAST_BACKBONE, *settings])


def train_in(folder, chosen=None, at_step=lambda _: None, notices=None):
    """Train to the end and return the hash of all tensors."""
    folder.mkdir(exist_ok=True)
    run = prepare_run(chosen or recipe(), RECORDS, folder)
    heard = [] if notices is None else notices
    train_networks(run, lambda done, *_: at_step(done), heard.append)
    digest = hashlib.sha256()
    for name, tensor in run.networks.state_dict().items():
        digest.update(name.encode() + tensor.float().numpy().tobytes())
    return digest.hexdigest()


def interrupt(at, number):
    def ask(done):
        if done == at:
            # A real signal would end the whole test run where the handler has a defect.
            handler = signal.getsignal(number)
            assert callable(handler)
            handler(number, None)

    return ask


def kill(at):
    def stop(done):
        if done == at:
            raise StoppedError

    return stop


def logged_steps(folder):
    return [json.loads(line)["step"] for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return train_in(folder), logged_steps(folder)


@pytest.fixture
def killed(tmp_path):
    """A run that was killed in its fifth step."""
    with pytest.raises(StoppedError):
        train_in(tmp_path, at_step=kill(5))
    return tmp_path


def test_a_run_asked_to_stop_at_any_step_ends_with_the_same_weights(whole, tmp_path):
    weights, steps = whole
    for at, number in ((1, signal.SIGINT), (3, signal.SIGTERM), (len(steps) - 1, signal.SIGTERM)):
        folder = tmp_path / str(at)
        with pytest.raises(TrainingStopped, match=rf"after step {at}; continue with --resume"):
            train_in(folder, at_step=interrupt(at, number))
        assert train_in(folder) == weights
        assert logged_steps(folder) == steps


def test_a_killed_run_ends_with_the_same_weights_and_every_step_is_in_its_log_once(whole, killed):
    with (killed / "log.jsonl").open("a") as log:
        log.write('{"event": "step", "st')
    assert (train_in(killed), logged_steps(killed)) == whole


@pytest.mark.parametrize(
    "settings",
    [
        ("optimisation.micro_batch=4",),
        ("sampling.order=hard", "sampling.order.every=1", *ADAMW, "optimisation.layer_decay=0.5"),
        ("sampling.order=hard", "sampling.order.every=0", *ADAMW, "optimisation.frozen_stages=1"),
        ("precision=bfloat16", "losses.anchor=1"),
        # A CPU has no quick way through a float16 convolution.
        ("precision=float16", "preprocessing.height=32", "preprocessing.width=16"),
    ],
    ids=str,
)
def test_a_run_of_every_kind_resumes_to_the_same_weights(settings, tiny_artefact, tmp_path):
    if "losses.anchor=1" in settings:
        start = (f"initial_weights={tiny_artefact}", "embedder.last_stride=1")
        settings = (*settings, *start, "embedder.backbone=mobilenet_v2")
    chosen = recipe("checkpoint_every_steps=1", *settings)
    weights = train_in(tmp_path / "whole", chosen)
    with pytest.raises(StoppedError):
        train_in(tmp_path / "killed", chosen, kill(3))
    assert train_in(tmp_path / "killed", chosen) == weights


@pytest.mark.parametrize("damage", ["truncated", "one byte", "not in its place"])
def test_of_a_damaged_checkpoint_the_one_before_it_is_used(damage, whole, killed):
    newest = killed / "checkpoint.pt"
    content = bytearray(newest.read_bytes())
    if damage == "truncated":
        newest.write_bytes(content[: len(content) // 2])
    elif damage == "one byte":
        content[len(content) // 2] ^= 1
        newest.write_bytes(content)
    else:
        newest.unlink()
    notices = []
    assert train_in(killed, notices=notices) == whole[0]
    if damage != "not in its place":
        assert "checkpoint.pt: is damaged" in notices[0]
        assert "checkpoint.previous.pt" in notices[0]


def test_two_damaged_checkpoints_are_named_with_the_remedy(killed):
    for name in ("checkpoint.pt", "checkpoint.previous.pt"):
        (killed / name).write_bytes(b"PK\x03\x04 half a file")
    with pytest.raises(InputProblem, match=r"checkpoint\.pt: is damaged.*previous.*start the run"):
        train_in(killed)


def test_settings_that_change_no_weight_may_change_when_resuming(whole, tmp_path):
    other = {"workers": 0, "log_every_steps": 7, "cache_megabytes": 0}
    with pytest.raises(StoppedError):
        train_in(tmp_path, recipe().model_copy(update=other), kill(3))
    assert train_in(tmp_path) == whole[0]


def photographed(folder):
    """Drawn crops as files of a data set, one folder a person."""
    for number, record in enumerate(RECORDS):
        place = folder / record.identity / f"{number:03d}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        record.decode().save(place)
    return read_dataset(f"folder:{folder}").records


def run_with(settings, records, folder):
    folder.mkdir(exist_ok=True)
    return prepare_run(read_recipe("small-gmn", [*SETTINGS, *settings]), records, folder)


def test_a_run_goes_on_where_its_data_and_its_starting_weights_have_moved(tmp_path, monkeypatch):
    records = photographed(tmp_path / "here" / "shop")
    weights = tmp_path / "here" / "weights.pth"
    torch.save(mobilenet_v2(weights=None).state_dict(), weights)
    mixed = ("sampling.recombined=2",)
    more = recombine(records, 2, 0)
    run = run_with((*mixed, f"initial_weights={weights}"), [*records, *more], tmp_path / "run")
    with pytest.raises(StoppedError):
        train_networks(run, lambda done, *_: kill(3)(done))

    (tmp_path / "here").rename(tmp_path / "elsewhere")
    monkeypatch.chdir(tmp_path / "elsewhere")
    moved = read_dataset("folder:shop").records
    again = (*mixed, "initial_weights=weights.pth", "distillation.cache=kept")
    run = run_with(again, [*moved, *recombine(moved, 2, 0)], tmp_path / "run")
    done = []
    train_networks(run, lambda step, *_: done.append(step))
    assert done[0] > 1


def test_other_crops_other_labels_and_other_starting_weights_are_another_run(tmp_path):
    records = photographed(tmp_path / "shop")
    first = tmp_path / "first.pth"
    second = tmp_path / "second.pth"
    for weights in (first, second):
        torch.save(mobilenet_v2(weights=None).state_dict(), weights)
    run = run_with((f"initial_weights={first}",), records, tmp_path / "run")
    with pytest.raises(StoppedError):
        train_networks(run, lambda done, *_: kill(3)(done))
    renamed = [replace(records[0], identity="another"), *records[1:]]
    for weights, crops, part in (
        (first, renamed, "data"),
        (first, records[1:], "data"),
        (second, records, "recipe"),
    ):
        run = run_with((f"initial_weights={weights}",), crops, tmp_path / "run")
        with pytest.raises(InputProblem, match=f"was made with another {part}"):
            train_networks(run, lambda *_: None)


# A process of its own, since it is really killed; the slow part stands for a slow disk.
SLOW_DISK = """
import os, sys, time
from pathlib import Path
from tests.training import test_resuming as tests

folder, where = Path(sys.argv[1]), sys.argv[2]
fsync, replace, writes = os.fsync, Path.replace, []

def wait(name):
    (folder / "now").touch()
    time.sleep(600)

def slow_fsync(descriptor):
    writes.append(descriptor)
    if where == "write" and len(writes) > 2:
        os.ftruncate(descriptor, 1000)
        wait("write")
    fsync(descriptor)

def slow_replace(path, target):
    if where == "rename" and len(writes) > 2 and path.name.endswith(".tmp"):
        wait("rename")
    return replace(path, target)

os.fsync, Path.replace = slow_fsync, slow_replace
tests.train_in(folder)
"""


@pytest.mark.parametrize("where", ["write", "rename"])
def test_a_run_killed_while_it_writes_a_checkpoint_resumes_from_the_one_before(
    where, whole, tmp_path
):
    process = Forked(SLOW_DISK, str(tmp_path), where)
    while not (tmp_path / "now").exists():
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    run = prepare_run(recipe(), RECORDS, tmp_path)
    done = []
    train_networks(run, lambda step, *_: done.append(step))
    assert done[0] > 1
    assert train_in(tmp_path) == whole[0]


def test_a_full_disk_is_reported_and_leaves_the_last_checkpoint(tmp_path, monkeypatch, whole):
    def full(*_):
        raise OSError(28, "No space left on device")

    def fill_the_disk(done):
        if done == 3:
            # A disk cannot be filled up in a test.
            monkeypatch.setattr(torch, "save", full)

    with pytest.raises(InputProblem, match=r"checkpoint\.pt: cannot be written.*--resume"):
        train_in(tmp_path, at_step=fill_the_disk)
    monkeypatch.undo()
    assert train_in(tmp_path) == whole[0]
