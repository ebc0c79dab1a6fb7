"""The tables of docs/reliability.md, from the figures that the long runs wrote.

`python -m tests.reliability torture=runs/torture.json …` keeps the figures of a run in
`docs/figures/reliability/` and writes the page's tables between their markers.
"""

import json
import sys
from collections import Counter
from pathlib import Path

from bench.tables import FIGURES, publish
from training.evaluation.tables import Table

RUNS = FIGURES / "reliability"


def _describe_torture(run):
    writes = run["writes"]
    extent = f"{run['cycles']} kills, seed {run['seed']}, {len(run['failpoints'])} failpoints; "
    extent += f"{writes['acknowledged']:,} acknowledged writes, {writes['unknown']} without answer"
    return extent, f"{run['broken_promises']} broken promises"


def _describe_power_cut(run):
    extent = f"{run['cuts']} cuts in {run['entries']:,} recorded operations, seed {run['seed']}"
    return extent, f"{len(run['wrong'])} wrong"


def _describe_load(run):
    refused = sum(number for name, number in run["answers"].items() if name.endswith("429"))
    accepted = sum(run["answers"].values()) - refused
    extent = f"{run['clients']} clients for {run['seconds']:.0f} s, {run['requests']:,} requests"
    outcome = f"{accepted:,} accepted in {_seconds(run['accepted, ms'])}; {refused:,} refused in"
    return extent, f"{outcome} {_seconds(run['refused, ms'])}; {len(run['wrong'])} wrong"


def _seconds(milliseconds):
    return f"{milliseconds['p50'] / 1000:.2f} s (p99 {milliseconds['p99'] / 1000:.2f} s)"


def _describe_soak(run):
    extent = (
        f"{run['minutes']:.0f} minutes, {run['requests']:,} requests, {run['pace']:.0f} a second"
    )
    memory = _slope(run["resident_mib"])
    files = _slope(run["open_files"])
    return extent, f"an hour {memory} MiB and {files} open files; {len(run['wrong'])} wrong"


def _slope(fitted):
    return f"{fitted['slope']:+.1f} [{fitted['low']:+.1f}, {fitted['high']:+.1f}]"


DESCRIBED = {
    "torture": _describe_torture,
    "power_cut": _describe_power_cut,
    "load": _describe_load,
    "soak": _describe_soak,
}


def runs_table():
    """Format a row for each long run: its extent, its outcome and the file of its figures."""
    rows = []
    for name, describe in DESCRIBED.items():
        extent, outcome = describe(_read(name))
        rows.append((f"[{name}](figures/reliability/{name}.json)", extent, outcome))
    return Table("", ("run", "extent", "outcome"), rows).markdown()


def mutations_table():
    """Format a column for each promise: how often it was broken on purpose, and how often found."""
    mutants = Counter()
    found = Counter()
    for mutant in _read("mutations")["broken"]:
        mutants[mutant["promise"]] += 1
        found[mutant["promise"]] += mutant["failed"]
    # Promise 0 stands for the behaviours that the page lists without a number.
    promises = [*sorted(promise for promise in mutants if promise), 0]
    rows = [
        (title, *(f"{counts[promise]}" for promise in promises))
        for title, counts in (("broken on purpose", mutants), ("found", found))
    ]
    columns = ("promise", *(str(promise or "others") for promise in promises))
    return Table("", columns, rows).markdown()


TABLES = {"runs": runs_table, "mutations": mutations_table}


def _read(name):
    return json.loads((RUNS / f"{name}.json").read_text(encoding="utf-8"))


def keep(name, run):
    """Keep the figures of a run without its single samples, and write the page's tables.

    Raises:
        InputProblem: no page has the markers of a table.
    """
    kept = {key: value for key, value in run.items() if key != "samples"}
    file = RUNS / f"{name}.json"
    file.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    for title, table in TABLES.items():
        publish(title, table())


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        name, _, path = argument.partition("=")
        keep(name, json.loads(Path(path).read_text(encoding="utf-8")))
