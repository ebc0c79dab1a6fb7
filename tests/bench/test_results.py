"""The results page's tables are those of the kept JSON, and a plan's jobs cover its rows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.ablation import PLANS, Job, jobs, read_plan
from bench.results import PAGE, page, table
from training.recipe import read_recipe

PLAN_NAMES = sorted(file.stem for file in PLANS.glob("*.toml"))


def test_the_results_page_shows_what_the_json_holds() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert page(text) == text


@pytest.mark.parametrize("name", PLAN_NAMES)
def test_every_row_of_a_plan_is_a_recipe_that_exists(name: str) -> None:
    plan = read_plan(name)
    for row in plan.row:
        read_recipe(plan.recipe, [*plan.settings, *row.settings])


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
    lines = table(read_plan("msfl"), tmp_path).splitlines()
    assert lines[0] == "| data | row | seeds | mAP cosine | Rank-1 cosine |"
    assert lines[2].startswith("| cuhk03_p1, left out | Baseline | 2 | 30.0 [20.0, 40.0] |")
    assert lines[3].startswith("| cuhk03_p1, left out | + CSIP | 1 | 30.0 [20.0, 40.0] |")


def test_a_jobs_name_is_a_file_name() -> None:
    row = read_plan("gmn").row[3]
    assert Job(row=row, seed=2, left_out="cuhk01").name == "pic-gmn-2-without-cuhk01"
