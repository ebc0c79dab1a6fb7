"""The tables of docs/results.md, written from the ablations' JSON and never by hand.

`python -m bench.results` reads `docs/results/PLAN/*.json`, as `bench.ablation` writes them, and
writes each plan's table between the page's markers `<!-- PLAN -->` and `<!-- /PLAN -->`.
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

from bench.ablation import PLANS, RESULTS, Plan, read_plan
from bench.tables import percent, table, write_into_page

SCORINGS = ("cosine", "mnet", "fused", "k_reciprocal", "k_reciprocal_mnet")


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


if __name__ == "__main__":
    for name in sorted(file.stem for file in PLANS.glob("*.toml")):
        write_into_page(name, markdown(read_plan(name), RESULTS / name))
