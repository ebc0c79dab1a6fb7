"""Training runs: what they leave behind, and that a stopped one continues where it stopped."""

import json
import signal
import time

import pytest
import torch
from safetensors.torch import load_file

from model.artefact import load_artefact
from model.problems import InputProblem
from tests.forked import GMN, Forked, run_gmn
from tests.training.runs import FAST_BACKBONE
from training.datasets.drawn import draw_people
from training.provenance import without_folders
from training.recipe import read_recipe
from training.run import prepare_run
from training.step import refuse_divergence
from training.train import train_networks

SMALL = [
    "initial_weights=none",
    "embedder.last_stride=2",
    "preprocessing.height=64",
    "preprocessing.width=32",
    "sampling.identities=4",
    "optimisation.epochs=3",
    "losses.gmn.perturbation_from_epoch=1",
    "checkpoint_every_steps=1",
    "log_every_steps=1",
    "held_out.fraction=0.3",
]


@pytest.fixture(scope="module")
def records():
    return draw_people(11, 2, 6, cameras_per_domain=2, crops_per_camera=2).records


def recipe(*settings):
    return read_recipe("small-gmn", [*SMALL, FAST_BACKBONE, *settings])


def run_to_the_end(folder, records, chosen):
    folder.mkdir(exist_ok=True)
    run = prepare_run(chosen, records, folder)
    train_networks(run, lambda *_: None)
    return run.networks.state_dict()


def logged_steps(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_the_perturbation_starts_after_the_warm_up(tmp_path, records):
    run = prepare_run(recipe(), records, tmp_path)
    perturbing = []
    train_networks(run, lambda *_: perturbing.append(run.networks.metric_network.perturbing))
    per_epoch = len(perturbing) // 3
    assert perturbing == [False] * per_epoch + [True] * 2 * per_epoch


def test_the_log_of_a_short_run_names_every_step_every_term_that_is_on_and_its_gradient(
    tmp_path, records
):
    run_to_the_end(tmp_path, records, recipe("log_every_steps=50", "losses.pic=0"))
    lines = logged_steps(tmp_path)
    assert [line["step"] for line in lines] == list(range(len(lines)))
    assert len(lines) > 3
    for line in lines:
        assert set(line["loss"]) == set(line["gradient_norm"]) == {"identity", "triplet", "gmn"}


def spoil(run, at):
    """Lets one number of the classifier be infinite after a step."""

    def after_step(done, *_):
        if done == at:
            with torch.no_grad():
                run.networks.losses.identity.classifier.weight[0, 0] = float("inf")

    return after_step


def test_a_run_that_diverges_names_its_crops_and_keeps_the_weights_from_before(tmp_path, records):
    run = prepare_run(recipe(), records, tmp_path)
    with pytest.raises(
        InputProblem,
        match=r"not finite: identity is nan in the batch of synthetic:.*learning_rate",
    ):
        train_networks(run, spoil(run, at=2))
    last = logged_steps(tmp_path)[-1]
    assert last["event"] == "diverged"
    assert last["step"] == 2
    assert len(last["batch"]) == 16
    kept = torch.load(tmp_path / "checkpoint.pt")
    assert kept["done"] == 2
    kept["networks"].pop("losses.identity.classifier.weight")
    assert all(bool(tensor.isfinite().all()) for tensor in kept["networks"].values())


def test_a_divergence_that_is_noticed_late_reaches_no_checkpoint(tmp_path, records, monkeypatch):
    def late(unread, *others):
        # As on a GPU, which is not waited for at every step.
        if len(unread) >= 3:
            refuse_divergence(unread, *others)

    monkeypatch.setattr("training.train.refuse_divergence", late)
    settings = ("checkpoint_every_steps=3", "log_every_steps=3", "optimisation.epochs=20")
    run = prepare_run(recipe(*settings), records, tmp_path)
    with pytest.raises(InputProblem, match="not finite"):
        train_networks(run, spoil(run, at=4))
    last = logged_steps(tmp_path)[-1]
    assert (last["event"], last["step"]) == ("diverged", 4)
    kept = torch.load(tmp_path / "checkpoint.pt")
    assert kept["done"] == 3
    assert all(bool(tensor.isfinite().all()) for tensor in kept["networks"].values())


def test_a_checkpoint_with_other_parts_names_the_version_as_the_reason(tmp_path, records):
    run_to_the_end(tmp_path, records, recipe("optimisation.epochs=1"))
    state = torch.load(tmp_path / "checkpoint.pt")
    del state["sampler"]
    torch.save(state, tmp_path / "checkpoint.pt")
    with pytest.raises(InputProblem, match="another version of the program; resume with that"):
        run_to_the_end(tmp_path, records, recipe("optimisation.epochs=1"))


def gmn_train(out, start, *more):
    # From random weights, so few steps leave a network that has collapsed.
    begun = (f"initial_weights={start}", "embedder.last_stride=1")
    settings = [word for setting in (*SMALL, *begun) for word in ("--set", setting)]
    data = "synthetic:5,identities=10,domains=2,cameras=2,crops=2"
    return ["train", "small-gmn", "--data", data, "--out", str(out), *settings, *more]


# It stands still behind its first checkpoint.
STOPS_AT_A_CHECKPOINT = f"""
import time
from pathlib import Path

replace = Path.replace

def replace_and_wait(path, target):
    moved = replace(path, target)
    if target.name == "checkpoint.pt":
        time.sleep(600)
    return moved

Path.replace = replace_and_wait
{GMN}
"""


@pytest.mark.slow
def test_a_killed_command_resumes_to_the_artefact_of_an_unkilled_one(tmp_path, tiny_artefact):
    whole = tmp_path / "whole"
    killed = tmp_path / "killed"
    run_gmn(*gmn_train(whole, tiny_artefact)).check_returncode()
    process = Forked(STOPS_AT_A_CHECKPOINT, *gmn_train(killed, tiny_artefact))
    while not (killed / "checkpoint.pt").exists() and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (killed / "model.safetensors").exists()
    refused = run_gmn(*gmn_train(killed, tiny_artefact))
    assert refused.returncode == 2
    assert "--resume" in refused.stderr
    run_gmn(*gmn_train(killed, tiny_artefact, "--resume")).check_returncode()
    one, other = (load_file(run / "model.safetensors") for run in (whole, killed))
    assert all(torch.equal(one[name], other[name]) for name in one)
    provenance = load_artefact(killed / "model.safetensors").description.provenance
    assert provenance.held_out == {"fraction": 0.3, "seed": 0}
    assert str(tmp_path) not in provenance.model_dump_json()


@pytest.mark.parametrize(
    ("word", "kept"),
    [
        ("manifest:/home/me/people/manifest.csv", "manifest:people/manifest.csv"),
        ("cuhk03np:/me/data/np,boxes=detected", "cuhk03np:data/np,boxes=detected"),
        ("initial_weights=/srv/weights/mobilenet.pth", "initial_weights=weights/mobilenet.pth"),
        ("synthetic:7,identities=5", "synthetic:7,identities=5"),
        ("/runs/first", "runs/first"),
    ],
)
def test_provenance_keeps_no_more_of_a_path_than_its_last_two_names(word, kept):
    assert without_folders(word) == kept
