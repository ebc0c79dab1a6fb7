"""An artefact is made from any checkpoint of a run, and what that needs is asked for first."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from model.artefact import load_artefact
from tests.training.runs import FAST_BACKBONE, run_here, set_options, write_manifest
from training.checkpoint import read_weights

DATA = "synthetic:5,identities=12,domains=1,cameras=2,crops=2"
SETTINGS = (
    FAST_BACKBONE,
    "preprocessing.height=64",
    "preprocessing.width=32",
    "sampling.identities=4",
    "optimisation.epochs=2",
    "held_out.fraction=0.4",
    "log_every_steps=500",
)


@pytest.fixture(scope="module")
def train(fast_artefact):
    """Trains from the fast artefact, since a few steps from random weights collapse."""

    def from_fast(out, *settings):
        begun = set_options(f"initial_weights={fast_artefact}", *SETTINGS, *settings)
        return run_here("train", "small-gmn", "--data", DATA, "--out", out, *begun)

    return from_fast


@pytest.fixture(scope="module")
def run(train, tmp_path_factory):
    folder = tmp_path_factory.mktemp("finish") / "run"
    assert train(folder).status == 0
    return folder


def test_the_artefact_of_a_run_is_of_its_best_weights_and_the_report_names_the_epoch(run):
    best = read_weights(run / "best.pt")
    artefact = load_artefact(run / "model.safetensors")
    stored = artefact.embedder.state_dict()
    for name, tensor in best.part("embedder").items():
        if tensor.is_floating_point():
            kept = tensor.half().float() if tensor.ndim > 1 else tensor
            assert torch.equal(stored[name], kept)
    report = json.loads((run / "report.json").read_text())
    assert f"after epoch {best.validation['epoch']:g}" in report["checkpoint"]
    page = (run / "report.html").read_text()
    assert "log.jsonl" in page
    assert report["checkpoint"].split(":")[0] in page
    (dataset,) = report["datasets"]
    lists = [*dataset["worst_queries"], *dataset["rank_lists"]]
    shown = [crop for ranks in lists for ranked in ranks["ranked"].values() for crop in ranked]
    assert page.count('<img alt="query: ') == len(lists) > 0
    assert page.count('<img alt="rank ') == len(shown) > 0


def test_any_checkpoint_is_finished_and_the_best_one_as_the_run_itself_did(run):
    trained = load_file(run / "model.safetensors")
    assert "The weights of checkpoint.pt" in run_here("finish", run, "--checkpoint", "last").out
    steps = read_weights(run / "checkpoint.pt").done
    assert f"after {steps:,} steps" in json.loads((run / "report.json").read_text())["checkpoint"]
    assert run_here("finish", run, "--checkpoint", run / "best.pt").status == 0
    again = load_file(run / "model.safetensors")
    assert all(torch.equal(again[name], trained[name]) for name in trained)


def test_figures_are_of_the_weights_that_the_artefact_stores(run):
    assert run_here("finish", run).status == 0
    stored = json.loads((run / "report.json").read_text())["datasets"][0]["scorings"]
    asked = ("--data", DATA, "--split", "held-out", "--json")
    ran = run_here("evaluate", run / "model.safetensors", *asked)
    measured = json.loads(ran.out)["datasets"][0]["scorings"]
    for scoring in ("cosine", "mnet"):
        assert measured[scoring]["distribution"] == stored[scoring]["distribution"]
        assert measured[scoring]["metrics"] == stored[scoring]["metrics"]


def test_checkpoints_and_data_that_are_not_there_are_named(run, tmp_path):
    error = run_here("finish", run, "--checkpoint", "first").err
    assert "first: no such checkpoint; name best, last or a file" in error
    error = run_here("finish", tmp_path).err
    assert "has no recipe.json; name a folder that gmn train made" in error
    shutil.copytree(run, tmp_path / "run")
    file = tmp_path / "run" / "data.json"
    file.write_text(file.read_text().replace(DATA, "cuhk01:/nowhere"))
    error = run_here("finish", tmp_path / "run").err
    assert "/nowhere" in error
    assert f"correct their paths in {file}" in error


def test_a_run_that_by_chance_holds_out_no_people_is_refused_before_its_first_step(train, tmp_path):
    ran = train(tmp_path / "run", "held_out.fraction=1e-9")
    assert ran.status == 2
    assert "none of its people is held out" in ran.err
    assert "raise held_out.fraction" in ran.err
    assert not (tmp_path / "run" / "log.jsonl").exists()


def test_a_run_on_all_people_is_finished_with_other_people(train, tmp_path, drawn_crops):
    out = tmp_path / "run"
    ran = train(out, "held_out.fraction=0", "optimisation.epochs=1")
    assert ran.status == 0
    assert f"gmn finish {out} --data SPEC" in ran.err
    assert not (out / "model.safetensors").exists()
    assert "held out no people; name people" in run_here("finish", out).err
    others = write_manifest(tmp_path / "others.csv", drawn_crops)
    assert run_here("finish", out, "--data", others).status == 0
    description = load_artefact(out / "model.safetensors").description
    assert description.calibration.data == "identities of others"
    report = json.loads((out / "report.json").read_text())
    assert [dataset["used_to_calibrate"] for dataset in report["datasets"]] == [True]
    assert "was calibrated on these people" in (out / "report.html").read_text()


def test_a_collapsed_run_ends_with_an_error_that_names_the_remedy(train, tmp_path):
    out = tmp_path / "run"
    deep = ("embedder.backbone=mobilenet_v2", "embedder.last_stride=2", "initial_weights=none")
    ran = train(out, *deep, "optimisation.epochs=1", "sampling.images=2")
    assert ran.status == 2
    assert "the model has collapsed" in ran.err
    assert "more epochs" in ran.err
    log = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    validations = [line for line in log if line["event"] == "validation"]
    assert validations
    assert all(line["collapsed"] and not line["best"] for line in validations)
    assert not (out / "model.safetensors").exists()
    assert not (out / "best.pt").exists()
    another = tmp_path / "another.pt"
    another.write_bytes((out / "checkpoint.pt").read_bytes())
    error = run_here("finish", out, "--checkpoint", another).err
    assert f"gmn finish {out} --checkpoint last" in error
