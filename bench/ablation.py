"""Runs an ablation plan, one row after another, and writes its table into docs/results.md.

`python -m bench.ablation gmn --data SPEC… --runs runs/gmn` trains each row of the plan
`bench/plans/gmn.toml` with each of its domains left out by turns, measures it on that domain and on
the held-out identities of the others, and writes `docs/results/gmn/ROW-SEED-without-DOMAIN.json` as
soon as a row is done, with the commit, the time, and hashes of the recipe and initial weights. What
is there already is not run again, so an interrupted plan goes on where it stopped; a row of another
recipe is an error. The table stands between the page's markers `<!-- gmn -->` and `<!-- /gmn -->`.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import BaseModel, ConfigDict

from bench.figures import condense
from bench.tables import RESULTS, percent, publish, table
from model.problems import InputProblem
from training.datasets.registry import read_datasets
from training.recipe import Recipe, read_recipe

PLANS = Path(__file__).parent / "plans"
SCORINGS = ("cosine", "mnet", "fused", "k_reciprocal", "k_reciprocal_mnet")


class Row(BaseModel):
    """One row of an ablation's table: what it changes, and how often it is run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    settings: tuple[str, ...]
    seeds: tuple[int, ...] = (0,)
    scorings: tuple[str, ...] = ("cosine", "mnet", "fused")


class Plan(BaseModel):
    """An ablation: a recipe, what all rows change in it, and the domains left out by turns.

    Attributes:
        people: of a domain that is left out, how many are searched for.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    recipe: str
    leave_out: tuple[str, ...]
    settings: tuple[str, ...]
    people: int
    row: tuple[Row, ...]


@dataclass(frozen=True)
class Job:
    """One training of a plan and its measurement."""

    plan: Plan
    row: Row
    seed: int
    left_out: str
    options: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """A file name for it."""
        word = re.sub(r"[^a-z0-9]+", "-", self.row.name.lower()).strip("-")
        return f"{word}-{self.seed}-without-{self.left_out}"

    @property
    def settings(self) -> list[str]:
        """What it changes in the plan's recipe."""
        return [*self.plan.settings, *self.row.settings, f"seed={self.seed}", *self.options]

    @property
    def recipe(self) -> Recipe:
        """Its resolved recipe."""
        return read_recipe(self.plan.recipe, self.settings)

    @property
    def recipe_sha256(self) -> str:
        """Hash of what decides its outcome."""
        decisive = json.dumps(self.recipe.decisive, sort_keys=True)
        return hashlib.sha256(decisive.encode()).hexdigest()


def read_plan(name: str) -> Plan:
    """Reads one of `bench/plans`."""
    return Plan.model_validate(tomllib.loads((PLANS / f"{name}.toml").read_text(encoding="utf-8")))


def jobs(plan: Plan, *options: str) -> Iterator[Job]:
    """Every job of a plan: first seeds of all rows first, so that a cut plan is whole in rows.

    Args:
        options: further settings of this machine, such as initial weights.
    """
    for nth in range(max(len(row.seeds) for row in plan.row)):
        for left_out in plan.leave_out:
            for row in plan.row:
                if nth < len(row.seeds):
                    yield Job(plan, row, row.seeds[nth], left_out, options)


def is_done(result: Path, job: Job) -> bool:
    """Whether a row's figures are kept already.

    Raises:
        InputProblem: where another recipe made them.
    """
    if not result.exists():
        return False
    made_by = json.loads(result.read_text(encoding="utf-8")).get("made_by")
    if made_by is not None and made_by["recipe_sha256"] != job.recipe_sha256:
        raise InputProblem(
            f"{result}: another recipe made this row; remove the file to run the row again"
        )
    return True


def run_job(job: Job, specs: dict[str, str], run: Path) -> dict[str, Any]:
    """Trains and measures one job with the `gmn` command.

    Args:
        specs: all data sets of the plan by their names, the one left out among them.

    Returns:
        The job, what made it, and `figures`: the rows of its two reports, on held-out identities
        and on the domain left out.
    """
    train = ["train", job.plan.recipe, "--out", str(run), "--leave-out", job.left_out]
    train += ["--resume"] if (run / "recipe.json").exists() else []
    train += [word for spec in specs.values() for word in ("--data", spec)]
    _gmn(*train, *(word for setting in job.settings for word in ("--set", setting)))
    # Where nothing trains M-Net, its figures would be noise.
    learnt = job.recipe.losses.gmn or job.recipe.metric_fit.steps
    scorings = [name for name in job.row.scorings if learnt or name not in ("mnet", "fused")]
    asked = ["--scoring", ",".join(scorings), "--people", str(job.plan.people), "--no-pictures"]
    asked += ["--data", specs[job.left_out], "--out", str(run / "unseen")]
    _gmn("evaluate", str(run / "model.safetensors"), *asked)
    reports = [
        json.loads((folder / "report.json").read_text(encoding="utf-8"))
        for folder in (run, run / "unseen")
    ]
    own = reports[0]["provenance"]
    made_by = {name: own[name] for name in ("commit", "created_at", "sources")}
    return {
        "row": job.row.name,
        "seed": job.seed,
        "left_out": job.left_out,
        "made_by": made_by | {"recipe_sha256": job.recipe_sha256},
        "figures": [row for report in reports for row in condense(job.row.name, report)],
    }


def _gmn(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "gmn", *arguments], check=True)


def markdown(plan: Plan, folder: Path) -> str:
    """A plan's table: a line per domain and row, mAP and Rank-1 per ranking.

    With one seed the brackets are the 95% bootstrap interval over queries; with several the figure
    is their mean and the brackets the lowest and the highest seed.
    """
    found = _metrics(folder)
    scorings = [name for name in SCORINGS if any(key[2] == name for key in found)]
    columns = [(title, name) for title in ("mAP", "Rank-1") for name in scorings]
    rows = []
    data = dict.fromkeys(key[0] for key in found)
    for name in sorted(data, key=lambda name: ("held-out" in name, name)):
        for row in plan.row:
            of_row = {key[2]: runs for key, runs in found.items() if key[:2] == (name, row.name)}
            if of_row:
                seeds = len(next(iter(of_row.values())))
                cells = [_cell(title, of_row.get(scoring, [])) for title, scoring in columns]
                rows.append((name, row.name, seeds, *cells))
    titles = [f"{title} {name}" for title, name in columns]
    return table(("data", "row", "seeds", *titles), rows)


def _metrics(folder: Path) -> dict[tuple[str, str, str], list[dict[str, Any]]]:
    """Metrics of every seed, by (data, row, ranking)."""
    found: dict[tuple[str, str, str], list[dict[str, Any]]] = defaultdict(list)
    for file in sorted(folder.glob("*.json")):
        job = json.loads(file.read_text(encoding="utf-8"))
        for figure in job["figures"]:
            left_out = figure["data"] == job["left_out"]
            people = "left out" if left_out else f"held-out people, {job['left_out']} left out"
            key = (f"{figure['data']}, {people}", job["row"], figure["scoring"])
            found[key].append(figure["metrics"])
    return found


def _cell(title: str, runs: list[dict[str, Any]]) -> str | None:
    if len(runs) < 2:
        return percent(runs[0][title]) if runs else None
    means = [run[title][0] for run in runs]
    return percent([sum(means) / len(means), min(means), max(means)])


def main(
    plan_name: Annotated[str, typer.Argument(metavar="PLAN", help="One of bench/plans.")],
    data: Annotated[list[str], typer.Option(metavar="SPEC")],
    runs: Annotated[Path, typer.Option(metavar="DIR", help="Where the runs are kept.")],
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE")] = None,
) -> None:
    """Runs what is missing of a plan, and writes its table."""
    plan, results = read_plan(plan_name), RESULTS / plan_name
    specs = {dataset.name: dataset.spec for dataset in read_datasets(data)}
    for job in jobs(plan, *(set_ or [])):
        result = results / f"{job.name}.json"
        if not is_done(result, job):
            content = run_job(job, specs, runs / job.name)
            results.mkdir(parents=True, exist_ok=True)
            result.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    publish(plan_name, markdown(plan, results))


if __name__ == "__main__":
    typer.run(main)
