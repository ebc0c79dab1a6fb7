"""Every artefact and peer on every set, measured once, as one table of a page."""

import json
from pathlib import Path

import numpy as np
import pytest
import typer

from bench import standings, tables
from model.artefact import load_artefact, save_artefact
from model.problems import InputProblem
from training.datasets.registry import read_dataset
from training.evaluation.peers import Peer
from training.provenance import describe_training
from training.recipe import read_recipe


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tables, "ROOT", tmp_path)
    monkeypatch.setattr(tables, "FIGURES", tmp_path / "figures")
    (tmp_path / "README.md").write_text("before\n<!-- all -->\n<!-- /all -->\nafter\n")
    return tmp_path / "README.md"


def main(words: list[str]) -> None:
    command = typer.Typer()
    command.command()(standings.main)
    command(words, standalone_mode=False)


@pytest.mark.slow
def test_each_artefact_and_peer_has_a_row_and_nothing_is_measured_twice(
    page: Path, tiny_artefact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[int] = []

    def embed(_: Peer, records, progress=None) -> np.ndarray:
        shown.append(len(records))
        return np.random.default_rng(0).normal(size=(len(records), 8)).astype(np.float32)

    monkeypatch.setattr(Peer, "__init__", lambda self, file: setattr(self, "name", file.stem))
    monkeypatch.setattr(Peer, "embed", embed)
    words = ["all", "--data", "synthetic:3,identities=8,domains=1,cameras=2,crops=1"]
    words += ["--peer", "elsewhere.xml", "--runs", str(tmp_path / "runs"), "--device", "cpu"]
    one, two = (["--artefact", f"{name}={tiny_artefact}"] for name in ("one", "two"))
    main([*words, *one, *two])
    assert shown == [16]
    rows = json.loads((tmp_path / "figures" / "all.json").read_text())
    models = [(row["model"], row["scoring"]) for row in rows]
    scorings = ("cosine", "mnet", "fused")
    artefacts = [(name, scoring) for name in ("one", "two") for scoring in scorings]
    assert models == [*artefacts, ("elsewhere", "cosine")]
    (peer,) = [row for row in rows if row["model"] == "elsewhere"]
    assert set(peer["ahead"]) == {"one, mnet", "two, mnet"}
    assert all(row["enrolled"] == 4 for row in rows)
    assert page.read_text().startswith("before\n<!-- all -->\n| data | model | Rank-1 cosine |")
    before = (tmp_path / "runs" / "one" / "report.json").stat().st_mtime_ns
    main([*words, *one])
    assert (tmp_path / "runs" / "one" / "report.json").stat().st_mtime_ns == before
    assert shown == [16]


def test_a_table_without_a_place_is_refused_before_anything_is_measured(page: Path) -> None:
    with pytest.raises(InputProblem, match="no page has markers <!-- lost -->"):
        main(["lost", "--data", "synthetic:3", "--artefact", "a=bundled", "--runs", "x"])


@pytest.mark.slow
def test_an_artefact_is_measured_on_the_sets_that_it_was_not_trained_on(
    page: Path, tiny_artefact: Path, tmp_path: Path, drawn_crops
) -> None:
    known = read_dataset("synthetic:3,identities=8,domains=1,cameras=2,crops=1")
    rows = ["path,identity,camera"]
    for number, crop in enumerate(drawn_crops):
        (tmp_path / f"{number}.png").write_bytes(crop.png)
        rows.append(f"{number}.png,{crop.identity},{crop.camera}")
    (tmp_path / "other.csv").write_text("\n".join(rows))
    recipe = read_recipe("quick")
    own, training = describe_training(recipe, [known], known.records, "gmn train")
    start = load_artefact(tiny_artefact)
    description = start.description.model_copy(update={"provenance": own})
    networks = (start.embedder, start.metric_network)
    save_artefact(tmp_path / "own.safetensors", description, *networks, training=training)
    words = ["all", "--runs", str(tmp_path / "runs"), "--device", "cpu", "--left-out"]
    words += ["--artefact", f"one={tmp_path}/own.safetensors", "--data", known.spec]
    with pytest.raises(InputProblem, match="was trained on every --data"):
        main(words)
    main([*words, "--data", f"manifest:{tmp_path}/other.csv"])
    found = json.loads((tmp_path / "figures" / "all.json").read_text())
    assert {(row["data"], row["people"]) for row in found} == {("other", "unseen domain")}
    for name in ("without-other", "without-known"):
        (tmp_path / "lodo" / name).mkdir(parents=True)
        copy = tmp_path / "lodo" / name / "model.safetensors"
        copy.write_bytes((tmp_path / "own.safetensors").read_bytes())
    words[words.index(f"one={tmp_path}/own.safetensors")] = f"twin={tmp_path}/lodo"
    main([*words, "--data", f"manifest:{tmp_path}/other.csv"])
    assert sorted(one.name for one in (tmp_path / "runs" / "twin").iterdir()) == [
        "without-known",
        "without-other",
    ]
