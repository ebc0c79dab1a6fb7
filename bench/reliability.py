"""The tables of docs/reliability.md, from what the long runs wrote and never by hand.

`python -m bench.reliability torture=runs/torture.json …` keeps what a run wrote in
`docs/figures/reliability/` and writes it between the page's markers `<!-- torture -->` and
`<!-- /torture -->`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.figures import ROOT, replace_table

FIGURES = ROOT / "docs" / "figures" / "reliability"
NAMED = 12
PAGE = ROOT / "docs" / "reliability.md"


def markdown(kept: dict[str, Any]) -> str:
    """A run's figures as a table; of what was broken on purpose, a row for each."""
    if "broken" in kept:
        return _broken_table(kept["broken"])
    lines = ["| figure | measured |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in _rows(kept)]
    return "\n".join(lines)


def _rows(kept: dict[str, Any], *of: str) -> Iterator[tuple[str, str]]:
    for name, value in kept.items():
        path = (*of, _words(name))
        if isinstance(value, dict):
            yield from _rows(value, *path)
        else:
            yield ", ".join(path), _shown(value)


def _broken_table(broken: list[dict[str, Any]]) -> str:
    lines = ["| promise | what was broken | found by |", "|---|---|---|"]
    for one in broken:
        found = ", ".join(f"`{name}`" for name in one["tests"]) if one["failed"] else "nothing"
        lines.append(f"| {one['promise'] or '–'} | {one['says']} | {found} |")
    return "\n".join(lines)


def _words(name: str) -> str:
    return name.replace("_", " ")


def _shown(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "–"}[value]
    if isinstance(value, float):
        return f"{value:,.2f}"
    if isinstance(value, int):
        return f"{value:,}" if value < 10**9 else str(value)
    if isinstance(value, list) and len(value) > NAMED:
        return f"{len(value)} of them"
    if isinstance(value, list):
        return "; ".join(_shown(one) for one in value) or "none"
    return str(value)


def keep(name: str, run: dict[str, Any]) -> None:
    """Keeps what a run wrote, but for its single samples, and writes its table.

    Raises:
        InputProblem: where the page has no place for it.
    """
    run = {key: value for key, value in run.items() if key != "samples"}
    page = replace_table(PAGE.read_text(encoding="utf-8"), name, markdown(run))
    FIGURES.mkdir(parents=True, exist_ok=True)
    (FIGURES / f"{name}.json").write_text(json.dumps(run, indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(page, encoding="utf-8")


def main(arguments: list[str]) -> None:
    """Writes tables from `NAME=FILE…`."""
    for argument in arguments:
        name, _, path = argument.partition("=")
        keep(name, json.loads(Path(path).read_text(encoding="utf-8")))


if __name__ == "__main__":
    main(sys.argv[1:])
