"""The pages' tables are those of the stored figures, and these are those of a report."""

import json
import re

import pytest

from bench import figures, tables
from bench.figures import condense, condense_benchmark, table
from bench.tables import FIGURES, ROOT, page_of, publish, replace_table
from model.problems import InputProblem

STORED = sorted(FIGURES.glob("*.json"))
SIDE = {
    "artefact": "bundled",
    "served_images_per_second": 8.0,
    "bare_images_per_second": 10.0,
    "served_cpu_ms_per_image": 3.0,
    "bare_cpu_ms_per_image": 2.0,
    "served_p50_ms": 20.0,
    "served_p99_ms": 40.0,
}
README = (ROOT / "README.md").read_text(encoding="utf-8")
RESULTS = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
SHOWN_NAMES = {
    "`open` (0277), ready-made": "person-reidentification-retail-0277",
    "`open`": "person-reidentification-retail-0277",
    "OSNet (MSMT17), ready-made": "osnet_x1_0_msmt17",
    "OSNet (MSMT17)": "osnet_x1_0_msmt17",
    "twin of `bundled`": "twin from 0277",
}


def report(split="all", sources=()):
    figure = {"mean": 0.5, "low": 0.4, "high": 0.6}
    found = {"metrics": {"rank_1": figure, "mAP": figure | {"mean": 0.41}}}
    dataset = {
        "name": "street",
        "queries": 10,
        "gallery": 20,
        "identities": 5,
        "scorings": {"cosine": found, "mnet": found},
        "seen_because": [],
        "seen_in_training": False,
        "differences": {"mnet - cosine": {"rank_1": figure, "mAP": figure | {"mean": 0.55}}},
    }
    provenance = {"data": [], "terms": "", "recipe": {}, "command": "", "commit": None}
    provenance |= {"created_at": "", "held_out": {}, "initial_weights": "none", "metrics": {}}
    provenance["sources"] = list(sources)
    return {
        "artefact": "bundled",
        "split": split,
        "provenance": provenance,
        "datasets": [dataset],
    }


def ready_made(name):
    given = report()
    (dataset,) = given["datasets"]
    scorings = {"cosine": dataset["scorings"]["cosine"]}
    measured = dataset | {"scorings": scorings, "differences": {}}
    return given | {"artefact": f"models/{name}.xml", "datasets": [measured]}


SOURCE = {"role": "initial weights", "name": "0277"}
KNOWN_PEOPLE = {
    "unseen domain": {},
    "seen in training": {"seen_because": ["3 of its 24 crops"], "seen_in_training": True},
    "held-out identities": {"seen_because": ["3 of its 24 crops"]},
}


@pytest.mark.parametrize(("label", "about"), KNOWN_PEOPLE.items())
def test_a_row_says_whether_its_people_were_trained_on(label, about):
    given = report()
    given["datasets"][0] |= about
    assert [row["people"] for row in condense("ours", given)] == [label] * 2


@pytest.mark.parametrize(
    ("label", "source"),
    [
        ("left out, teachers' training data unknown", SOURCE | {"role": "teacher"}),
        ("left out, starting weights' training data unknown", SOURCE),
        ("unseen domain", SOURCE | {"documented_data": ["ImageNet"]}),
    ],
)
def test_a_row_says_what_is_not_known_of_its_people(label, source):
    assert next(condense("ours", report(sources=[source])))["people"] == label


def test_the_people_of_a_ready_made_model_are_its_own():
    assert next(condense("elsewhere", ready_made("elsewhere")))["people"] == "ready-made model"


def test_a_benchmark_keeps_the_ranking_that_its_table_names():
    figure = {"mean": 0.5, "low": 0.4, "high": 0.6}
    rows = [("Baseline", "cosine"), ("GMN", "cosine"), ("GMN", "mnet")]
    rankings = [
        {"group": group, "ranking": ranking, "metrics": {"mAP": figure}, "differences": {}}
        for group, ranking in rows
    ]
    names = [{"name": "Baseline", "scoring": "cosine"}, {"name": "GMN", "scoring": "mnet"}]
    benchmark = {
        "table": {"rows": names},
        "datasets": [{"name": "street", "rankings": rankings}],
        # Two seeds on each of two sets.
        "seeds": [0, 1],
        "runs": {"Baseline": ["a", "b", "c", "d"], "GMN": ["e", "f", "g", "h"]},
    }
    found = [(row["row"], row["ranking"], row["seeds"]) for row in condense_benchmark(benchmark)]
    assert found == [("Baseline", "cosine", 2), ("GMN", "mnet", 2)]
    benchmark["datasets"][0]["trained_on"] = "yard"
    benchmark["not_run"] = [("street", "yard")]
    rows = table("small-single-source", list(condense_benchmark(benchmark))).splitlines()
    assert rows[0].startswith("| trained on | data | row | ranking | seeds | mAP |")
    assert rows[2].startswith("| yard | street | Baseline | cosine | 2 | 50.0 [40.0, 60.0] |")
    assert rows[4] == "| street | yard | not run |" + " – |" * 4


def test_the_paired_difference_to_the_cosine_is_kept_beside_a_rankings_figures():
    cosine, mnet = condense("ours", report())
    assert mnet["differences"] == {"Rank-1": [0.5, 0.4, 0.6], "mAP": [0.55, 0.4, 0.6]}
    assert "differences" not in cosine


@pytest.fixture
def page(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "ROOT", tmp_path)
    monkeypatch.setattr(tables, "FIGURES", tmp_path)
    (tmp_path / "README.md").write_text("before\n<!-- all -->\n<!-- /all -->\nafter\n")
    return tmp_path / "README.md"


def test_reports_become_one_table_of_a_page(page, tmp_path):
    (tmp_path / "report.json").write_text(json.dumps(report()))
    (tmp_path / "other.json").write_text(json.dumps(ready_made("elsewhere")))
    figures.main(["all", f"ours={tmp_path}/report.json", f"elsewhere={tmp_path}/other.json"])
    kept = json.loads((tmp_path / "all.json").read_text())
    assert [row["model"] for row in kept] == ["ours", "ours", "elsewhere"]
    assert page.read_text() == f"before\n<!-- all -->\n{table('all', kept)}\n<!-- /all -->\nafter\n"


def test_several_benches_of_one_file_become_one_table(page, tmp_path):
    page.write_text(page.read_text().replace("all", "performance"))
    printed = {"ratio": 0.8, "spread": [0.7, 0.9], "reach": 0.65, "details": SIDE}
    both = [{"bench": name} | printed for name in "ab"]
    (tmp_path / "serving.json").write_text(json.dumps({"results": both}))
    figures.main(["performance", str(tmp_path / "serving.json")])
    assert "\n| a | bundled | 0.80, 0.70–0.90 | 0.65 |" in page.read_text()
    assert "\n| b | bundled | 0.80, 0.70–0.90 |" in page.read_text()
    assert json.loads((tmp_path / "performance.json").read_text()) == both


def test_a_table_without_a_place_in_the_pages_is_refused():
    with pytest.raises(InputProblem, match="no page has markers <!-- lost -->"):
        publish("lost", "| a |")


@pytest.mark.parametrize("path", STORED, ids=lambda path: path.stem)
def test_a_page_shows_the_stored_figures(path):
    text = page_of(path.stem).read_text(encoding="utf-8")
    kept = json.loads(path.read_text(encoding="utf-8"))
    assert replace_table(text, path.stem, table(path.stem, kept)) == text


def accuracy(stored, model, data):
    """Return the stored Rank-1 / mAP of a model by cosine, in a list that is empty without them."""
    name = SHOWN_NAMES.get(model, model.strip("`"))
    return [
        " / ".join(f"{100 * row['metrics'][metric][0]:.1f}" for metric in ("Rank-1", "mAP"))
        for row in json.loads((FIGURES / f"{stored}.json").read_text(encoding="utf-8"))
        if (row["data"], row["model"], row["scoring"]) == (data, name, "cosine")
    ]


def test_the_accuracy_table_of_the_readme_is_of_the_stored_figures():
    stored = {"held out": "bundled", "set left out": "unseen"}
    rows = re.findall(r"^\| (held out|set left out) \| ([^|]+) \| (.+) \|$", README, re.MULTILINE)
    assert len(rows) == 8
    for people, model, cells in rows:
        for data, shown in zip(
            ("cuhk01", "cuhk03_p1", "market1501"), cells.split(" | "), strict=True
        ):
            found = accuracy(stored[people], model, data)
            assert found == ([] if shown == "–" else [shown]), (people, model, data)


@pytest.mark.parametrize(
    ("stored", "link", "data", "models"),
    [
        ("bundled", "#held-out-people", ("market1501", "cuhk01", "cuhk03_p1"), 4),
        ("unseen", "#a-data-set-left-out", ("cuhk01", "cuhk03_p1"), 3),
        ("official", "#market-1501-in-its-official-protocol", ("market1501",), 3),
    ],
)
def test_the_first_table_of_the_results_is_of_the_stored_figures(stored, link, data, models):
    (cell,) = re.findall(rf"^\| \[[^|]*\({link}\)[^|]* \| ([^|]+) \|", RESULTS, re.MULTILINE)
    shown = [re.fullmatch(r"(\D+(?:\(MSMT17\))?) (\d.*)", part) for part in cell.split("; ")]
    assert len(shown) == models
    for model, figures_of_model in (found.groups() for found in shown):
        expected = [accuracy(stored, model, name) for name in data]
        assert expected == [[pair] for pair in figures_of_model.split(", ")], model
