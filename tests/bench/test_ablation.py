"""The results page's tables are those of the kept JSON, and a plan's jobs cover its rows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench import ablation
from bench.ablation import PLANS, Job, is_done, jobs, markdown, read_plan, run_job
from bench.tables import RESULTS, page_of
from model.problems import InputProblem

PLAN_NAMES = sorted(file.stem for file in PLANS.glob("*.toml"))


@pytest.mark.parametrize("name", PLAN_NAMES)
def test_the_results_page_shows_what_the_json_holds(name: str) -> None:
    table = markdown(read_plan(name), RESULTS / name)
    shown = f"<!-- {name} -->\n{table}\n<!-- /{name} -->"
    assert shown in page_of(name).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", PLAN_NAMES)
def test_every_row_of_a_plan_is_a_recipe_that_exists(name: str) -> None:
    for job in jobs(read_plan(name)):
        assert job.recipe.seed == job.seed


@pytest.mark.parametrize("name", PLAN_NAMES)
def test_a_plan_runs_every_row_once_before_any_row_twice(name: str) -> None:
    plan = read_plan(name)
    every = list(jobs(plan))
    first = every[: len(plan.row) * len(plan.leave_out)]
    assert {(job.row.name, job.left_out) for job in first} == {
        (row.name, left_out) for row in plan.row for left_out in plan.leave_out
    }
    assert len({job.name for job in every}) == len(every)


def write_job(folder: Path, row: str, seed: int, mean: float) -> None:
    metrics = {"mAP": [mean, mean - 0.1, mean + 0.1], "Rank-1": [mean, mean, mean]}
    figure = {"data": "cuhk03_p1", "scoring": "cosine", "metrics": metrics}
    content = {"row": row, "seed": seed, "left_out": "cuhk03_p1", "figures": [figure]}
    (folder / f"{row}-{seed}.json").write_text(json.dumps(content), encoding="utf-8")


def test_one_seed_shows_its_interval_and_several_their_mean_and_ends(tmp_path: Path) -> None:
    write_job(tmp_path, "Baseline", 0, 0.2)
    write_job(tmp_path, "Baseline", 1, 0.4)
    write_job(tmp_path, "+ CSIP", 0, 0.3)
    lines = markdown(read_plan("msfl"), tmp_path).splitlines()
    assert lines[0] == "| data | row | seeds | mAP cosine | Rank-1 cosine |"
    assert lines[2].startswith("| cuhk03_p1, left out | Baseline | 2 | 30.0 [20.0, 40.0] |")
    assert lines[3].startswith("| cuhk03_p1, left out | + CSIP | 1 | 30.0 [20.0, 40.0] |")


def test_a_kept_row_names_what_made_it_and_a_row_of_another_recipe_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "run" / "unseen").mkdir(parents=True)
    provenance = {"commit": "0123abc", "created_at": "2026-01-01T00:00:00Z", "sources": []}
    report = json.dumps({"provenance": provenance, "datasets": []})
    for folder in ("run", "run/unseen"):
        (tmp_path / folder / "report.json").write_text(report)
    asked: list[str] = []
    monkeypatch.setattr(ablation, "_gmn", lambda *words: asked.extend(words))
    plan, result = read_plan("gmn"), tmp_path / "row.json"
    job = next(jobs(plan))
    assert not is_done(result, job)
    row = run_job(job, {"cuhk01": "cuhk01:/data"}, tmp_path / "run")
    assert {"train", "evaluate", "--leave-out", "cuhk01:/data"} <= set(asked)
    assert row["made_by"] == provenance | {"recipe_sha256": job.recipe_sha256}
    result.write_text(json.dumps(row))
    assert is_done(result, job)
    with pytest.raises(InputProblem, match="another recipe made this row"):
        is_done(result, next(jobs(plan, "losses.pic=0.7")))


def test_a_jobs_name_is_a_file_name() -> None:
    plan = read_plan("gmn")
    assert Job(plan, plan.row[3], 2, "cuhk01").name == "pic-gmn-2-without-cuhk01"
