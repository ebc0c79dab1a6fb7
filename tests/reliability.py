"""The tables of docs/reliability.md, from what the long runs wrote and never by hand.

`python -m tests.reliability torture=runs/torture.json …` keeps what a run wrote in
`docs/figures/reliability/` and writes it between the page's markers `<!-- torture -->` and
`<!-- /torture -->`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.tables import FIGURES, publish
from training.evaluation.tables import Table

RUNS = FIGURES / "reliability"
NAMED = 12


def markdown(kept: dict[str, Any]) -> str:
    """A run's figures as a table; of what was broken on purpose, a row for each."""
    if "broken" not in kept:
        return Table("", ("figure", "measured"), list(_rows(kept))).markdown()
    rows = []
    for one in kept["broken"]:
        found = ", ".join(f"`{name}`" for name in one["tests"]) if one["failed"] else "nothing"
        rows.append((one["promise"] or None, one["says"], found))
    return Table("", ("promise", "what was broken", "found by"), rows).markdown()


def _rows(kept: dict[str, Any], *of: str) -> Iterator[tuple[str, str]]:
    for name, value in kept.items():
        path = (*of, name.replace("_", " "))
        if isinstance(value, dict):
            yield from _rows(value, *path)
        else:
            yield ", ".join(path), _shown(value)


def _shown(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "–"}[value]
    if isinstance(value, int | float):
        return f"{value:,.2f}" if isinstance(value, float) else f"{value:,}"
    if isinstance(value, list) and len(value) > NAMED:
        return f"{len(value)} of them"
    if isinstance(value, list):
        return "; ".join(map(_shown, value)) or "none"
    return str(value)


def keep(name: str, run: dict[str, Any]) -> None:
    """Keeps what a run wrote, but for its single samples, and writes its table.

    Raises:
        InputProblem: where no page has a place for it.
    """
    run = {key: value for key, value in run.items() if key != "samples"}
    publish(name, markdown(run), run, RUNS)


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        name, _, path = argument.partition("=")
        keep(name, json.loads(Path(path).read_text(encoding="utf-8")))
