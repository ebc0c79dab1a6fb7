"""The pages' tables are those of the stored figures, and these are those of a report."""

import json
import re
from pathlib import Path

import pytest

from bench import figures, tables
from bench.figures import condense, table
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


def report(split: str = "all", teachers: tuple[str, ...] = ()) -> dict[str, object]:
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
    recipe = {"distillation": {"teachers": list(teachers)}}
    provenance = {"data": [], "terms": "", "recipe": recipe, "command": "", "commit": None}
    provenance |= {"created_at": "", "held_out": {}, "initial_weights": "none", "metrics": {}}
    return {
        "artefact": "bundled",
        "split": split,
        "provenance": provenance,
        "datasets": [dataset],
    }


def ready_made(name: str) -> dict[str, object]:
    given = report()
    (dataset,) = given["datasets"]
    scorings = {"cosine": dataset["scorings"]["cosine"]}
    measured = dataset | {"scorings": scorings, "differences": {}}
    return given | {"artefact": f"models/{name}.xml", "datasets": [measured]}


def test_a_set_of_which_no_crop_was_trained_on_is_an_unseen_domain() -> None:
    rows = list(condense("ours", report()))
    assert [row["people"] for row in rows] == ["unseen domain"] * 2
    assert next(condense("elsewhere", ready_made("elsewhere")))["people"] == "ready-made model"


def test_a_student_of_a_ready_made_model_names_what_its_teachers_may_have_seen() -> None:
    rows = condense("ours", report(teachers=("elsewhere.xml",)))
    assert [row["people"] for row in rows] == [
        "left out, teachers' training data unknown",
        "left out, teachers' training data unknown",
    ]


def test_a_set_of_which_crops_were_trained_on_is_seen_unless_its_people_were_held_out() -> None:
    given = report()
    why = ["was trained on 3 of its 24 crops"]
    given["datasets"][0] |= {"seen_because": why, "seen_in_training": True}
    assert next(condense("ours", given))["people"] == "seen in training"
    given["datasets"][0] |= {"seen_in_training": False}
    assert next(condense("ours", given))["people"] == "held-out identities"


def test_starting_weights_without_documented_data_are_named() -> None:
    given = report()
    source = {"role": "initial weights", "name": "0277"}
    given["provenance"]["sources"] = [source]
    label = "left out, starting weights' training data unknown"
    assert next(condense("ours", given))["people"] == label
    given["provenance"]["sources"] = [source | {"documented_data": ["ImageNet"]}]
    assert next(condense("ours", given))["people"] == "unseen domain"


def test_whom_a_ready_made_model_finds_stands_beside_the_artefact() -> None:
    half = {"enrolled": 2, "false_alarm_rate": 0.01}
    half["detection_rate"] = {"mean": 0.5, "low": 0.4, "high": 0.6}
    given = ready_made("elsewhere")
    given["datasets"][0]["scorings"]["cosine"]["half_enrolled"] = half
    rows = [*condense("ours", report()), *condense("elsewhere", given)]
    lines = table("all", rows).splitlines()
    assert lines[0].endswith("| mAP mnet | found at 1% cosine |")
    assert lines[2].endswith("| – |")
    assert lines[3].endswith("| – | – | 50.0 [40.0, 60.0] |")


def test_the_paired_difference_to_the_cosine_is_kept_beside_a_rankings_figures() -> None:
    cosine, mnet = condense("ours", report())
    assert mnet["differences"] == {"Rank-1": [0.5, 0.4, 0.6], "mAP": [0.55, 0.4, 0.6]}
    assert "differences" not in cosine


def test_a_table_has_a_row_per_model_and_a_column_per_metric_and_scoring() -> None:
    rows = [*condense("ours", report()), *condense("elsewhere", ready_made("elsewhere"))]
    lines = table("all", rows).splitlines()
    assert lines[0] == "| data | model | Rank-1 cosine | mAP cosine | Rank-1 mnet | mAP mnet |"
    assert lines[2].startswith("| street, unseen domain | ours | 50.0 [40.0, 60.0] |")
    assert lines[3].endswith("| 50.0 [40.0, 60.0] | 41.0 [40.0, 60.0] | – | – |")


def test_a_serving_bench_is_a_row_for_each_network() -> None:
    first = {"bench": "embed", "ratio": 0.8, "spread": [0.7, 0.9], "reach": None, "details": SIDE}
    small = {
        "ratio": 0.4,
        "spread": [0.3, 0.5],
        "reach": 0.4,
        "details": SIDE | {"artefact": "small"},
    }
    figures = "8.0 | 10.0 | 3.0 | 2.0 | 20.0 | 40.0"
    assert table("performance", [first, first | small]).splitlines()[2:] == [
        f"| embed | bundled | 0.80, 0.70–0.90 | – | {figures} |",
        f"| embed | small | 0.40, 0.30–0.50 | 0.40 | {figures} |",
    ]


def test_alarms_of_one_artefact_stand_side_by_side_by_the_number_of_people() -> None:
    row = {"artefact": "bundled", "data": "street", "crops": 4, "found": 50.2, "best": 51.0}
    row |= {"obtained": [1.04, 0.0, 2.0]}
    rows = [row | {"size": size, "pictures": number} for number in (1, 4) for size in (3, 50)]
    assert table("alarms", rows[:3]).splitlines() == [
        "| artefact | people of | crops a camera | pictures | K = 3 | K = 50 |",
        "|---|---|---|---|---|---|",
        "| bundled | street | 4 | 1 | 1.0 [0.0-2.0] · 50/51 | 1.0 [0.0-2.0] · 50/51 |",
        "| bundled | street | 4 | 4 | 1.0 [0.0-2.0] · 50/51 | – |",
    ]


def test_a_gap_is_shown_in_both_spaces_beside_what_chance_shows() -> None:
    estimate = {"mean": 0.9, "low": 0.8, "high": 0.95}
    space = {"mmd": 0.02, "mmd_by_chance": 0.001, "mmd_p_value": 0.01, "mmd_same_domain": -0.0003}
    space |= {"classifier": estimate, "classifier_same_domain": 0.5}
    gap = {"domains": ["lobby", "roof"], "instance": space, "pair": {**space, "mmd": 0.005}}
    gap["classifier_difference"] = estimate
    premise = {"pair_feature": "square", "people": 2, "points": 4, "gaps": [gap]}
    end = "−0.0003 | 90.0 [80.0, 95.0] | 50.0 |"
    assert table("premise", [premise]).splitlines()[2:] == [
        f"| lobby – roof | instance | 0.0200 | 0.0010 | 20.0 | {end}",
        f"| lobby – roof | pair | 0.0050 | 0.0010 | 5.0 | {end}",
    ]


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tables, "ROOT", tmp_path)
    monkeypatch.setattr(tables, "FIGURES", tmp_path)
    (tmp_path / "README.md").write_text("before\n<!-- all -->\n<!-- /all -->\nafter\n")
    return tmp_path / "README.md"


def test_reports_become_one_table_of_a_page(page: Path, tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text(json.dumps(report()))
    (tmp_path / "other.json").write_text(json.dumps(ready_made("elsewhere")))
    figures.main(["all", f"ours={tmp_path}/report.json", f"elsewhere={tmp_path}/other.json"])
    kept = json.loads((tmp_path / "all.json").read_text())
    assert [row["model"] for row in kept] == ["ours", "ours", "elsewhere"]
    assert page.read_text() == f"before\n<!-- all -->\n{table('all', kept)}\n<!-- /all -->\nafter\n"


def test_several_benches_of_one_file_become_one_table(page: Path, tmp_path: Path) -> None:
    page.write_text(page.read_text().replace("all", "performance"))
    printed = {"ratio": 0.8, "spread": [0.7, 0.9], "reach": 0.65, "details": SIDE}
    both = [{"bench": name} | printed for name in "ab"]
    (tmp_path / "serving.json").write_text(json.dumps({"results": both}))
    figures.main(["performance", str(tmp_path / "serving.json")])
    assert "\n| a | bundled | 0.80, 0.70–0.90 | 0.65 |" in page.read_text()
    assert "\n| b | bundled | 0.80, 0.70–0.90 |" in page.read_text()
    assert json.loads((tmp_path / "performance.json").read_text()) == both


def test_a_table_without_a_place_in_the_pages_is_refused() -> None:
    with pytest.raises(InputProblem, match="no page has markers <!-- lost -->"):
        publish("lost", "| a |")


@pytest.mark.parametrize("path", STORED, ids=lambda path: path.stem)
def test_a_page_shows_the_stored_figures(path) -> None:
    text = page_of(path.stem).read_text(encoding="utf-8")
    kept = json.loads(path.read_text(encoding="utf-8"))
    assert replace_table(text, path.stem, table(path.stem, kept)) == text


def test_the_accuracy_table_of_the_readme_is_of_the_stored_figures() -> None:
    stored = {
        people: json.loads((FIGURES / f"{name}.json").read_text(encoding="utf-8"))
        for people, name in (("held out", "bundled"), ("set left out", "unseen"))
    }
    names = {
        "0277, ready-made": "person-reidentification-retail-0277",
        "OSNet (MSMT17), ready-made": "osnet_x1_0_msmt17",
    }
    rows = re.findall(r"^\| (held out|set left out) \| ([^|]+) \| (.+) \|$", README, re.MULTILINE)
    assert len(rows) == 8
    for people, model, cells in rows:
        name = names.get(model, model.strip("`"))
        for data, shown in zip(
            ("cuhk01", "cuhk03_p1", "market1501"), cells.split(" | "), strict=True
        ):
            found = [
                " / ".join(f"{100 * row['metrics'][metric][0]:.1f}" for metric in ("Rank-1", "mAP"))
                for row in stored[people]
                if (row["data"], row["model"], row["scoring"]) == (data, name, "cosine")
            ]
            assert found == ([] if shown == "–" else [shown]), (people, model, data)
