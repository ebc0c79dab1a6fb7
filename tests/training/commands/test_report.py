import base64
import io
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from PIL import Image
from typer.testing import CliRunner

from model.artefact import load_artefact, save_artefact
from model.problems import InputProblem
from training.commands.evaluate import evaluate, report

VOID = {"meta", "img", "br", "path", "use"}


class Page(HTMLParser):
    """What a page is made of, as a browser or a screen reader takes it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.unbalanced: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attributes) -> None:
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes) -> None:
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag) -> None:
        if tag in VOID:
            return
        if not self.open or self.open.pop() != tag:
            self.unbalanced.append(tag)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def invoke(command, words):
    single = typer.Typer(pretty_exceptions_enable=False)
    single.command()(command)
    return CliRunner().invoke(single, [str(word) for word in words])


@pytest.fixture(scope="module")
def manifest(drawn_crops, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("people")
    rows = ["path,identity,camera"]
    for number, crop in enumerate(drawn_crops):
        (folder / f"{number}.png").write_bytes(crop.png)
        rows.append(f"{number}.png,{crop.identity},{crop.camera}")
    (folder / "people.csv").write_text("\n".join(rows))
    return folder / "people.csv"


@pytest.fixture(scope="module")
def runs(tiny_artefact, manifest, tmp_path_factory) -> Path:
    """Two seeds of one recipe and another recipe, each evaluated on the same people."""
    folder = tmp_path_factory.mktemp("runs")
    tiny = load_artefact(tiny_artefact)
    for name, seed, backbone, noise in (
        ("plain-1", 1, "mobilenet_v2", 0.0),
        ("plain-2", 2, "mobilenet_v2", 0.02),
        ("other", 1, "something_else", 0.3),
    ):
        recipe = {"name": "drawn", "seed": seed, "embedder": {"backbone": backbone}}
        # Neither what no weight depends on nor a paper's figures make another recipe.
        recipe |= {"workers": seed, "log_every_steps": 5 * seed, "published": [{"row": name}]}
        provenance = tiny.description.provenance.model_copy(update={"recipe": recipe})
        description = tiny.description.model_copy(update={"provenance": provenance})
        changed = load_artefact(tiny_artefact)
        shaken = np.random.default_rng(seed).normal(size=changed.embedder.neck.weight.shape)
        changed.embedder.neck.weight.data += noise * torch.from_numpy(shaken).float()
        (folder / name).mkdir()
        path = folder / name / "model.safetensors"
        save_artefact(path, description, changed.embedder, changed.metric_network)
        words = [path, "--data", f"manifest:{manifest}", "--out", folder / name]
        words += ["--scoring", "cosine,mnet"] if name == "other" else ["--scoring", "cosine"]
        words += [] if name == "other" else ["--no-pictures"]
        answer = invoke(evaluate, words)
        assert answer.exit_code == 0, answer.output
    step = {"event": "step", "step": 0, "epoch": 0.0, "loss": {"gmn": 0.7}, "gradient_norm": {}}
    (folder / "other" / "log.jsonl").write_text(json.dumps(step))
    return folder


@pytest.fixture(scope="module")
def compared(runs, tmp_path_factory) -> tuple[dict, str]:
    out = tmp_path_factory.mktemp("compared")
    words = [runs / "plain-1", runs / "plain-2", f"changed={runs / 'other'}", "--out", out]
    answer = invoke(report, words)
    assert answer.exit_code == 0, answer.output
    assert "Δ mAP" in answer.stdout
    assert str(out / "report.html") in answer.stdout.replace("\n", "")
    return json.loads((out / "comparison.json").read_text()), (out / "report.html").read_text()


@pytest.mark.slow
def test_seeds_of_one_recipe_are_one_model_with_a_spread(compared, runs):
    comparison, page = compared
    names = {group: len(folders) for group, folders in comparison["runs"].items()}
    assert names == {"plain": 2, "changed": 1}
    rows = comparison["datasets"][0]["rankings"]
    assert [(row["group"], row["ranking"]) for row in rows] == [
        ("plain", "cosine"),
        ("changed", "cosine"),
        ("changed", "mnet"),
    ]
    means = []
    for run in ("plain-1", "plain-2"):
        alone = json.loads((runs / run / "report.json").read_text())["datasets"][0]
        means.append(alone["scorings"]["cosine"]["metrics"]["mAP"]["mean"])
    assert rows[0]["metrics"]["mAP"]["mean"] == pytest.approx(np.mean(means), abs=1e-6)
    assert "95% intervals over people and seeds; Δ: less plain" in page


def test_differences_are_of_the_same_queries(compared):
    rows = compared[0]["datasets"][0]["rankings"]
    assert rows[0]["differences"] == {}
    for changed in rows[1:]:
        # The plain model has no M-Net: its cosine is what M-Net is held against.
        assert changed["against"] == "cosine"
        difference = changed["differences"]["mAP"]
        expected = changed["metrics"]["mAP"]["mean"] - rows[0]["metrics"]["mAP"]["mean"]
        assert difference["mean"] == pytest.approx(expected, abs=1e-6)
        assert difference["low"] <= difference["mean"] <= difference["high"]


def test_two_single_runs_get_no_verdict_since_a_seed_may_be_the_difference(runs, tmp_path):
    report([str(runs / "plain-1"), str(runs / "other")], out=tmp_path)
    found = json.loads((tmp_path / "comparison.json").read_text())["datasets"][0]["rankings"]
    assert [row["over_seeds"] for row in found] == [False] * len(found)
    assert '<span class="' not in (tmp_path / "report.html").read_text()


def test_only_what_an_interval_decides_is_marked(compared):
    page = compared[1]
    assert "Green is better and red worse" in page
    rows = compared[0]["datasets"][0]["rankings"]
    decided = [
        "good" if one["mean"] > 0 else "bad"
        for row in rows
        for metric in ("mAP", "rank_1")
        if (one := row["differences"].get(metric)) and not one["low"] <= 0 <= one["high"]
    ]
    assert re.findall(r'<span class="(\w+)">', page) == decided


def test_only_settings_that_differ_are_listed(compared):
    assert compared[0]["settings"] == {"embedder.backbone": ["mobilenet_v2", "something_else"]}


@pytest.mark.parametrize("kind", ["of one run", "of several"])
def test_the_page_is_whole_loads_nothing_and_can_be_read_without_eyes(compared, runs, kind):
    text = compared[1] if kind == "of several" else (runs / "other" / "report.html").read_text()
    page = Page(text)
    assert page.unbalanced == []
    assert page.open == []
    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "link", "iframe"})
    for tag, attributes in page.tags:
        for name in ("src", "href", "xlink:href"):
            assert (attributes.get(name) or "#").startswith(("#", "data:image/")), tag
    assert not re.search(r"url\((?!#)|@import", text)
    assert len(page.all("table")) == len(page.all("caption"))
    assert all(attributes.get("alt") for attributes in page.all("img"))
    names = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(names) == len(set(names))
    for name in re.findall(r'(?:href="|url\()#([\w-]+)', text):
        assert name in names


def test_the_page_turns_dark_and_prints(runs):
    page = (runs / "other" / "report.html").read_text()
    assert "@media (prefers-color-scheme: dark)" in page
    assert "@media print" in page
    assert "figure img { filter: invert" in page


def test_pictures_are_in_the_page_alone_and_can_be_left_out(runs):
    with_pictures = (runs / "other" / "report.html").read_text()
    without = (runs / "plain-1" / "report.html").read_text()
    assert with_pictures.count("data:image/jpeg") > 8 * 2
    assert "data:image/jpeg" not in without
    assert "Rank lists" in without
    for name in ("other", "plain-1"):
        assert "data:image" not in (runs / name / "report.json").read_text()
    first = re.search(r'src="data:image/jpeg;base64,([^"]+)"', with_pictures)
    assert first is not None
    shown = Image.open(io.BytesIO(base64.b64decode(first[1])))
    assert shown.size == (64, 128)


def test_one_run_alone_has_its_own_page(runs, tmp_path):
    report([str(runs / "other")], out=tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert Page(page).unbalanced == []
    assert "<h2>The artefact</h2>" in page
    assert (tmp_path / "report.json").is_file()


def test_a_run_without_the_figures_of_its_queries_is_named(runs, tmp_path):
    (tmp_path / "report.json").write_bytes((runs / "plain-1" / "report.json").read_bytes())
    with pytest.raises(InputProblem, match=r"queries\.npz: .* run gmn evaluate --out again"):
        report([str(tmp_path), str(runs / "other")], out=tmp_path / "page")


def test_people_of_another_search_are_not_compared(runs, manifest, tmp_path):
    half = [runs / "other" / "model.safetensors", "--data", f"manifest:{manifest}", "--people", 3]
    assert invoke(evaluate, [*half, "--out", tmp_path / "half"]).exit_code == 0
    report([str(runs / "plain-1"), str(tmp_path / "half")], out=tmp_path)
    compared = json.loads((tmp_path / "comparison.json").read_text())["datasets"]
    assert [one["identities"] for one in compared] == [6, 3]
    assert all(row["differences"] == {} for one in compared for row in one["rankings"])


def test_versions_of_a_set_are_not_compared(runs, tmp_path):
    for run, boxes in (("plain-1", "labelled boxes"), ("other", "detected boxes")):
        found = json.loads((runs / run / "report.json").read_text())
        found["datasets"][0] |= {"name": "cuhk03np", "version": boxes}
        shutil.copytree(runs / run, tmp_path / run)
        (tmp_path / run / "report.json").write_text(json.dumps(found))
    report([str(tmp_path / "plain-1"), str(tmp_path / "other")], out=tmp_path)
    compared = json.loads((tmp_path / "comparison.json").read_text())["datasets"]
    assert [(one["name"], {row["group"] for row in one["rankings"]}) for one in compared] == [
        ("cuhk03np, labelled boxes", {"plain"}),
        ("cuhk03np, detected boxes", {"other"}),
    ]


def test_a_folder_that_is_no_run_is_named(tmp_path):
    with pytest.raises(InputProblem, match=r"holds no report\.json; name a folder made by"):
        report([str(tmp_path)], out=tmp_path / "page")
    (tmp_path / "report.json").write_text("{}")
    with pytest.raises(InputProblem, match="is no report of this program"):
        report([str(tmp_path)], out=tmp_path / "page")
