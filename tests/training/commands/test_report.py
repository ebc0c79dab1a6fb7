"""`gmn report`: pages of runs, and their comparison."""

import base64
import io
import json
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image

from model.artefact import load_artefact
from tests.training.runs import run_here
from training.evaluation.files import save_artefact

VOID = {"meta", "img", "br", "path", "use"}


class Page(HTMLParser):
    """The tags of a page, as a browser or a screen reader takes them."""

    def __init__(self, text):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.unbalanced: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        if tag in VOID:
            return
        if not self.open or self.open.pop() != tag:
            self.unbalanced.append(tag)

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def runs(fast_artefact, people, tmp_path_factory):
    """Two seeds of one recipe and another recipe, each evaluated on the same people."""
    folder = tmp_path_factory.mktemp("runs")
    tiny = load_artefact(fast_artefact)
    for name, seed, backbone, noise in (
        ("plain-1", 1, "mobilenet_v2", 0.0),
        ("plain-2", 2, "mobilenet_v2", 0.02),
        ("other", 1, "something_else", 0.3),
    ):
        recipe = {"name": "drawn", "seed": seed, "embedder": {"backbone": backbone}}
        # Neither what no weight depends on nor a paper's figures make another recipe.
        recipe |= {"workers": seed, "log_every_steps": 5 * seed}
        provenance = tiny.description.provenance.model_copy(update={"recipe": recipe})
        description = tiny.description.model_copy(update={"provenance": provenance})
        changed = load_artefact(fast_artefact)
        shaken = np.random.default_rng(seed).normal(size=changed.embedder.neck.weight.shape)
        changed.embedder.neck.weight.data += noise * torch.from_numpy(shaken).float()
        (folder / name).mkdir()
        path = folder / name / "model.safetensors"
        save_artefact(path, description, changed.embedder, changed.metric_network)
        asked = ["cosine,mnet"] if name == "other" else ["cosine", "--no-pictures"]
        words = [path, "--data", people, "--out", folder / name, "--scoring", *asked]
        ran = run_here("evaluate", *words)
        assert ran.status == 0, ran.err
    return folder


def rankings(*folders, out):
    """Compare runs, and return the rows of the one data set."""
    ran = run_here("report", *folders, "--out", out)
    assert ran.status == 0, ran.err
    (dataset,) = json.loads((out / "comparison.json").read_text())["datasets"]
    return dataset["rankings"]


@pytest.fixture(scope="module")
def compared(runs, tmp_path_factory):
    out = tmp_path_factory.mktemp("compared")
    words = [runs / "plain-1", runs / "plain-2", f"changed={runs / 'other'}", "--out", out]
    ran = run_here("report", *words)
    assert ran.status == 0, ran.err
    assert "Δ mAP" in ran.out
    assert str(out / "report.html") in ran.out.replace("\n", "")
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
    assert "95% intervals over people and seeds; Δ: difference to plain" in page


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
    found = rankings(runs / "plain-1", runs / "other", out=tmp_path)
    assert [row["over_seeds"] for row in found] == [False] * len(found)
    assert '<span class="' not in (tmp_path / "report.html").read_text()


def test_only_what_an_interval_decides_is_marked_and_only_other_settings_are_listed(compared):
    comparison, page = compared
    assert "Green is better and red worse" in page
    decided = []
    for row in comparison["datasets"][0]["rankings"]:
        for metric in ("mAP", "rank_1"):
            difference = row["differences"].get(metric)
            if difference and not difference["low"] <= 0 <= difference["high"]:
                decided.append("good" if difference["mean"] > 0 else "bad")
    assert re.findall(r'<span class="(\w+)">', page) == decided
    assert comparison["settings"] == {"embedder.backbone": ["mobilenet_v2", "something_else"]}


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
    assert "@media (prefers-color-scheme: dark)" in text
    assert "@media print" in text
    assert "figure img { filter: invert" in text


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


@pytest.mark.parametrize("kind", ["of one run", "of several"])
def test_a_page_begins_with_its_curves(compared, runs, kind):
    text = compared[1] if kind == "of several" else (runs / "other" / "report.html").read_text()
    before_tables, _, _ = text.partition("<table")
    assert [attributes["alt"] for attributes in Page(before_tables).all("img")][:2] == [
        "Cumulative matching curves",
        "Detection rate against false-alarm rate",
    ]
    assert ("The worst queries" in before_tables) == (kind == "of one run")


def test_curves_of_several_seeds_are_means(compared, runs):
    plain, *_, mnet = compared[0]["datasets"][0]["rankings"]
    alone = [
        json.loads((runs / run / "report.json").read_text())["datasets"][0]["scorings"]["cosine"]
        for run in ("plain-1", "plain-2")
    ]
    for curve in ("cmc", "detection_curve"):
        expected = np.mean([scoring[curve] for scoring in alone], axis=0)
        assert np.array(plain[curve]) == pytest.approx(expected)
        assert mnet[curve]
    assert plain["cmc"][0] == pytest.approx(plain["metrics"]["rank_1"]["mean"])


def test_one_run_alone_has_its_own_page(runs, tmp_path):
    assert run_here("report", runs / "other", "--out", tmp_path).status == 0
    page = (tmp_path / "report.html").read_text()
    assert Page(page).unbalanced == []
    assert "<h2>The artefact</h2>" in page


def changed_run(source, folder, **changes):
    """Copy a run, with other values in its report."""
    shutil.copytree(source, folder)
    found = json.loads((folder / "report.json").read_text())
    (folder / "report.json").write_text(json.dumps(found | changes))
    return folder


def test_a_run_that_lacks_a_file_is_named(runs, tmp_path):
    run = changed_run(runs / "plain-1", tmp_path / "run")
    words = ("report", run, "--out", tmp_path / "page")
    (run / "queries.npz").unlink()
    error = run_here(*words, runs / "other").err
    assert re.search(r"queries\.npz: .* run gmn evaluate --out again", error)
    (run / "report.json").write_text("{}")
    assert "is no report of this program" in run_here(*words).err
    (run / "report.json").unlink()
    assert "holds no report.json; name a folder made by" in run_here(*words).err


def test_other_people_or_another_version_of_a_set_are_not_compared(runs, people, tmp_path):
    half = (runs / "other" / "model.safetensors", "--data", people, "--people", 3)
    assert run_here("evaluate", *half, "--out", tmp_path / "half").status == 0
    found = json.loads((runs / "other" / "report.json").read_text())
    dataset = found["datasets"][0] | {"version": "detected boxes"}
    changed_run(runs / "other", tmp_path / "detected", datasets=[dataset])
    folders = (runs / "plain-1", tmp_path / "half", tmp_path / "detected")
    assert run_here("report", *folders, "--out", tmp_path).status == 0
    compared = json.loads((tmp_path / "comparison.json").read_text())["datasets"]
    places = [(dataset["name"], dataset["identities"]) for dataset in compared]
    assert places == [("people", 6), ("people", 3), ("people, detected boxes", 6)]
    assert all(dataset["rankings"][0]["differences"] == {} for dataset in compared)
