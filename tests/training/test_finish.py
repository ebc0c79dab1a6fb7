"""An artefact is made from any checkpoint of a run, and what that needs is asked for first."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import gmn
from model.artefact import load_artefact
from training.checkpoint import read_weights

DATA = "synthetic:5,identities=12,domains=1,cameras=2,crops=2"
SETTINGS = (
    "preprocessing.height=64",
    "preprocessing.width=32",
    "sampling.identities=4",
    "optimisation.epochs=2",
    "held_out.fraction=0.4",
    "log_every_steps=500",
)


@pytest.fixture(scope="module")
def train(tiny_artefact: Path) -> Callable[..., int]:
    """Trains from the tiny artefact, since a few steps from random weights collapse."""

    def from_tiny(out: Path, *settings: str, data: str = DATA) -> int:
        begun = (f"initial_weights={tiny_artefact}", *SETTINGS, *settings)
        words = (word for setting in begun for word in ("--set", setting))
        return gmn.run(["train", "small-gmn", "--data", data, "--out", str(out), *words])

    return from_tiny


def manifest(folder: Path, drawn_crops, camera: str | None = None) -> str:
    """Drawn people as a manifest, all under the one camera where it is given."""
    rows = ["path,identity,camera"]
    for number, crop in enumerate(drawn_crops):
        (folder / f"{number}.png").write_bytes(crop.png)
        rows.append(f"{number}.png,{crop.identity},{camera or crop.camera}")
    (folder / "others.csv").write_text("\n".join(rows))
    return f"manifest:{folder / 'others.csv'}"


@pytest.fixture(scope="module")
def run(train: Callable[..., int], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finish") / "run"
    assert train(folder) == 0
    return folder


def test_the_artefact_of_a_run_is_of_its_best_weights_and_the_report_names_the_epoch(
    run: Path,
) -> None:
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
    lists = report["datasets"][0]["rank_lists"]
    shown = [crop for ranks in lists for ranked in ranks["ranked"].values() for crop in ranked]
    assert page.count('<img alt="query: ') == len(lists) > 0
    assert page.count('<img alt="rank ') == len(shown) > 0


def test_any_checkpoint_is_finished_and_the_best_one_as_the_run_itself_did(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained = load_file(run / "model.safetensors")
    assert gmn.run(["finish", str(run), "--checkpoint", "last"]) == 0
    assert "The weights of checkpoint.pt" in capsys.readouterr().out
    steps = read_weights(run / "checkpoint.pt").done
    assert f"after {steps:,} steps" in json.loads((run / "report.json").read_text())["checkpoint"]
    assert gmn.run(["finish", str(run), "--checkpoint", str(run / "best.pt")]) == 0
    again = load_file(run / "model.safetensors")
    assert all(torch.equal(again[name], trained[name]) for name in trained)


def test_figures_are_of_the_weights_that_the_artefact_stores(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert gmn.run(["finish", str(run)]) == 0
    stored = json.loads((run / "report.json").read_text())["datasets"][0]["scorings"]
    capsys.readouterr()
    command = ["evaluate", str(run / "model.safetensors"), "--data", DATA, "--split", "held-out"]
    assert gmn.run([*command, "--json"]) == 0
    measured = json.loads(capsys.readouterr().out)["datasets"][0]["scorings"]
    for scoring in ("cosine", "mnet"):
        assert measured[scoring]["distribution"] == stored[scoring]["distribution"]
        assert measured[scoring]["metrics"] == stored[scoring]["metrics"]


def test_a_checkpoint_that_is_not_there_is_named(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert gmn.run(["finish", str(run), "--checkpoint", "first"]) == 2
    assert "first: no such checkpoint; name best, last or a file" in capsys.readouterr().err
    assert gmn.run(["finish", str(tmp_path)]) == 2
    assert "has no recipe.json; name a folder that gmn train made" in capsys.readouterr().err


def test_data_that_have_moved_are_named_with_the_file_to_correct(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = run / "data.json"
    kept = file.read_text()
    try:
        file.write_text(kept.replace(DATA, "cuhk01:/nowhere"))
        assert gmn.run(["finish", str(run)]) == 2
    finally:
        file.write_text(kept)
    error = capsys.readouterr().err
    assert "/nowhere" in error
    assert f"correct their paths in {file}" in error


def test_a_run_that_by_chance_holds_out_no_people_is_refused_before_its_first_step(
    train: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(tmp_path / "run", "held_out.fraction=1e-9") == 2
    error = capsys.readouterr().err
    assert "none of its people is held out" in error
    assert "raise held_out.fraction" in error
    assert not (tmp_path / "run" / "log.jsonl").exists()


def test_a_set_of_one_camera_is_refused_before_the_first_step(
    train: Callable[..., int], tmp_path: Path, drawn_crops, capsys: pytest.CaptureFixture[str]
) -> None:
    data = manifest(tmp_path, drawn_crops, "one")
    assert train(tmp_path / "run", "sampling.identities=2", data=data) == 2
    assert "all crops are of one camera" in capsys.readouterr().err
    assert not (tmp_path / "run" / "log.jsonl").exists()


def test_a_run_on_all_people_is_finished_with_other_people(
    train: Callable[..., int], tmp_path: Path, drawn_crops, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert train(out, "held_out.fraction=0", "optimisation.epochs=1") == 0
    assert f"gmn finish {out} --data SPEC" in " ".join(capsys.readouterr().err.split())
    assert not (out / "model.safetensors").exists()
    assert gmn.run(["finish", str(out)]) == 2
    assert "held out no people; name people" in capsys.readouterr().err
    assert gmn.run(["finish", str(out), "--data", manifest(tmp_path, drawn_crops)]) == 0
    description = load_artefact(out / "model.safetensors").description
    assert description.calibration.data == "identities of others"
    report = json.loads((out / "report.json").read_text())
    assert [dataset["used_to_calibrate"] for dataset in report["datasets"]] == [True]
    assert "was calibrated on these people" in (out / "report.html").read_text()


def test_a_run_whose_start_was_moved_resumes_and_is_finished_by_its_best_weights(
    train: Callable[..., int], tiny_artefact: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    moved = tmp_path / "moved.safetensors"
    assert train(out) == 0
    moved.write_bytes(tiny_artefact.read_bytes())
    settings = (f"initial_weights={moved}", *SETTINGS)
    words = [word for setting in settings for word in ("--set", setting)]
    assert (
        gmn.run(["train", "small-gmn", "--data", DATA, "--out", str(out), "--resume", *words]) == 0
    )


def test_a_collapsed_run_ends_with_an_error_that_names_the_remedy(
    train: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    settings = ("initial_weights=none", "embedder.last_stride=2", "optimisation.epochs=1")
    assert train(out, *settings, "sampling.images=2") == 2
    error = capsys.readouterr().err
    assert "the model has collapsed" in error
    assert "more epochs" in error
    assert not (out / "model.safetensors").exists()
    assert not (out / "best.pt").exists()
    another = tmp_path / "another.pt"
    another.write_bytes((out / "checkpoint.pt").read_bytes())
    assert gmn.run(["finish", str(out), "--checkpoint", str(another)]) == 2
    assert f"gmn finish {out} --checkpoint last" in " ".join(capsys.readouterr().err.split())
