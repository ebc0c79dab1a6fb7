"""Runs an ablation plan, one row after another, and keeps every row's figures as JSON.

`python -m bench.ablation gmn --data SPEC… --runs runs/gmn` trains each row of the plan
`bench/plans/gmn.toml` with each of its domains left out by turns, measures it on that domain and on
the held-out identities of the others, and writes `docs/results/gmn/ROW-SEED-without-DOMAIN.json` as
soon as a row is done, with the commit, the time, and hashes of the recipe and initial weights. What
is there already is not run again, so an interrupted plan goes on where it stopped; a row of another
recipe is an error.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import BaseModel, ConfigDict

from bench.figures import condense
from bench.tables import ROOT
from model.problems import InputProblem
from training.datasets.registry import read_datasets
from training.recipe import Recipe, read_recipe

PLANS = Path(__file__).parent / "plans"
RESULTS = ROOT / "docs" / "results"


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

    row: Row
    seed: int
    left_out: str

    @property
    def name(self) -> str:
        """A file name for it."""
        word = re.sub(r"[^a-z0-9]+", "-", self.row.name.lower()).strip("-")
        return f"{word}-{self.seed}-without-{self.left_out}"


def read_plan(name: str) -> Plan:
    """Reads one of `bench/plans`."""
    return Plan.model_validate(tomllib.loads((PLANS / f"{name}.toml").read_text(encoding="utf-8")))


def jobs(plan: Plan) -> Iterator[Job]:
    """Every job of a plan: first seeds of all rows first, so that a cut plan is whole in rows."""
    for nth in range(max(len(row.seeds) for row in plan.row)):
        for left_out in plan.leave_out:
            for row in plan.row:
                if nth < len(row.seeds):
                    yield Job(row=row, seed=row.seeds[nth], left_out=left_out)


def recipe_of(plan: Plan, job: Job, options: Sequence[str]) -> tuple[Recipe, list[str]]:
    """A job's resolved recipe, and the settings that make it of the plan's one."""
    settings = [*plan.settings, *job.row.settings, f"seed={job.seed}", *options]
    return read_recipe(plan.recipe, settings), settings


def origin(recipe: Recipe, report: dict[str, Any]) -> dict[str, Any]:
    """What made a row: commit and time of its training, hashes of recipe and initial weights."""
    weights = Path(recipe.initial_weights or "")
    content = weights.read_bytes() if weights.is_file() else None
    return {
        "commit": report["provenance"]["commit"],
        "created_at": report["provenance"]["created_at"],
        "recipe_sha256": _recipe_digest(recipe),
        "initial_weights": recipe.initial_weights if content is None else weights.name,
        "initial_weights_sha256": content and hashlib.sha256(content).hexdigest(),
    }


def is_done(result: Path, recipe: Recipe) -> bool:
    """Whether a row's figures are kept already.

    Raises:
        InputProblem: where another recipe made them.
    """
    if not result.exists():
        return False
    made_by = json.loads(result.read_text(encoding="utf-8")).get("made_by")
    if made_by is not None and made_by["recipe_sha256"] != _recipe_digest(recipe):
        raise InputProblem(
            f"{result}: another recipe made this row; remove the file to run the row again"
        )
    return True


def run_job(
    plan: Plan, job: Job, specs: dict[str, str], options: Sequence[str], run: Path
) -> dict[str, Any]:
    """Trains and measures one job with the `gmn` command.

    Args:
        plan, job: what to run.
        specs: all data sets of the plan by their names, the one left out among them.
        options: further settings of this machine, such as initial weights.
        run: the run's folder.

    Returns:
        The job, what made it, and `figures`: the rows of its two reports, on held-out identities
        and on the domain left out.
    """
    recipe, settings = recipe_of(plan, job, options)
    train = ["train", plan.recipe, "--out", str(run), "--leave-out", job.left_out]
    train += ["--resume"] if (run / "recipe.json").exists() else []
    train += [word for spec in specs.values() for word in ("--data", spec)]
    _gmn(*train, *(word for setting in settings for word in ("--set", setting)))
    # Where nothing trains M-Net, its figures would be noise.
    learnt = recipe.losses.gmn or recipe.metric_fit.steps
    scorings = [name for name in job.row.scorings if learnt or name not in ("mnet", "fused")]
    asked = ["--scoring", ",".join(scorings), "--people", str(plan.people), "--no-pictures"]
    asked += ["--data", specs[job.left_out], "--out", str(run / "unseen")]
    _gmn("evaluate", str(run / "model.safetensors"), *asked)
    reports = [
        json.loads((folder / "report.json").read_text(encoding="utf-8"))
        for folder in (run, run / "unseen")
    ]
    return {
        "row": job.row.name,
        "seed": job.seed,
        "left_out": job.left_out,
        "made_by": origin(recipe, reports[0]),
        "figures": [row for report in reports for row in condense(job.row.name, report)],
    }


def main(
    plan_name: Annotated[str, typer.Argument(metavar="PLAN", help="One of bench/plans.")],
    data: Annotated[list[str], typer.Option(metavar="SPEC")],
    runs: Annotated[Path, typer.Option(metavar="DIR", help="Where the runs are kept.")],
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE")] = None,
    left_out: Annotated[
        str | None, typer.Option(metavar="DOMAIN", help="Only the jobs that leave this out.")
    ] = None,
    results: Annotated[Path, typer.Option(metavar="DIR")] = RESULTS,
) -> None:
    """Runs what is missing of a plan."""
    plan, options = read_plan(plan_name), set_ or []
    specs = {dataset.name: dataset.spec for dataset in read_datasets(data)}
    for job in jobs(plan):
        result = results / plan_name / f"{job.name}.json"
        if left_out not in (None, job.left_out):
            continue
        if not is_done(result, recipe_of(plan, job, options)[0]):
            content = run_job(plan, job, specs, options, runs / job.name)
            result.parent.mkdir(parents=True, exist_ok=True)
            result.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _recipe_digest(recipe: Recipe) -> str:
    return hashlib.sha256(json.dumps(recipe.decisive, sort_keys=True).encode()).hexdigest()


def _gmn(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "gmn", *arguments], check=True)


if __name__ == "__main__":
    typer.run(main)
