"""The tables of docs/reliability.md, from the marks of the tests and the figures of long runs.

`python -m tests.reliability torture=runs/torture.json …` keeps the figures of a run in
`docs/figures/reliability/` and writes the page's tables between their markers. Without arguments it
writes the tables alone.
"""

import ast
import json
import sys
import tomllib
from collections import Counter, defaultdict
from pathlib import Path

from bench.tables import FIGURES, ROOT, publish
from training.evaluation.tables import Table

RUNS = FIGURES / "reliability"
TESTS = ROOT / "tests"
MARKER = "pytest.mark.promise"


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


def _describe_camera(run):
    extent = f"{run['minutes']:.0f} minutes, {run['outages']} cuts and {run['outages']} kills, "
    extent += f"{run['crops']} crops, load average {run['load_average']:.0f}"
    memory = _slope(run["resident_mib"])
    outcome = f"{run['accepted']} crops accepted; frames {run['back_s']['median']:.1f} s after the "
    outcome += f"stream was back, {run['back_s']['slowest']:.1f} s at most; an hour {memory} MiB; "
    return extent, f"{outcome}{len(run['wrong'])} wrong"


def _describe_machines(run):
    kinds = {"kill_service": "kills of a machine", "kill_server": "of the server"}
    kinds["promote"] = "promotions of a synchronous standby"
    kinds["pause_server"] = "pauses of the server"
    kinds["kill_behind_proxy"] = "kills of a machine behind the proxy"
    more = {"cut_off": "commits cut off that waited for the standby"}
    more |= {"stop_service": "stops of a machine", "put_back": "earlier copies put in place"}
    done = {kind: name for kind, name in (kinds | more).items() if kind in run}
    extent = ", ".join(f"{run[kind]['times']} {name}" for kind, name in done.items())
    extent += f", seed {run['seed']}; {run['enrolled']:,} enrollments and {run['deleted']:,} "
    extent += "deletions acknowledged"
    slowest = [f"{run[kind]['slowest_s']:.2f} s" for kind in kinds]
    found = ", ".join(f"{count} {name}" for name, count in run["found"].items())
    pause = run["pause_server"]
    written = run["kill_behind_proxy"]["writes"]
    outcome = (
        f"{found}; the next write succeeded within {slowest[0]}, {slowest[1]} after the server was "
        f"back, {slowest[2]} after the promotion, {slowest[3]} after the server went on, and "
        f"{slowest[4]} after a kill behind the proxy. `/readyz` told within "
        f"{pause['noticed']['slowest_s']:.2f} s that the server stood still, and writes were "
        f"refused within {pause['refused']['slowest_s']:.2f} s. Behind the proxy no write took "
        f"longer than {written['slowest_s']:.2f} s"
    )
    return extent, outcome


def _slope(fitted):
    return f"{fitted['slope']:+.1f} [{fitted['low']:+.1f}, {fitted['high']:+.1f}]"


DESCRIBED = {
    "torture": _describe_torture,
    "power_cut": _describe_power_cut,
    "load": _describe_load,
    "soak": _describe_soak,
    "camera": _describe_camera,
    "machines": _describe_machines,
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


def read_promises():
    """Return what each promise says, by its name: a number, or a word for further behaviour."""
    listed = tomllib.loads((TESTS / "promises.toml").read_text(encoding="utf-8"))["promise"]
    return {promise["name"]: promise["says"] for promise in listed}


def marked_tests():
    """Return the tests that carry the name of each promise: files, and functions in files.

    The files are parsed instead of imported, which would take as long as collecting all tests.
    """
    tests = defaultdict(list)
    for file in sorted(TESTS.rglob("test_*.py")):
        text = file.read_text(encoding="utf-8")
        if MARKER not in text:
            continue
        path = file.relative_to(ROOT).as_posix()
        for statement in ast.parse(text).body:
            if isinstance(statement, ast.Assign) and ast.unparse(statement.targets) == "pytestmark":
                for name in _promises_in(statement.value):
                    tests[name].append(path)
            elif isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef):
                for decorator in statement.decorator_list:
                    for name in _promises_in(decorator):
                        tests[name].append(f"{path}::{statement.name}")
    return tests


def _promises_in(expression):
    """Return the names in the markers of an expression."""
    return [
        argument.value
        for node in ast.walk(expression)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == MARKER
        for argument in node.args
    ]


def promises_table():
    """Format a row for each numbered promise, with the tests that carry its number."""
    rows = [row for row in _rows_of_promises() if row[0].isdigit()]
    return Table("", ("", "promise", "tests"), rows).markdown()


def behaviours_table():
    """Format a row for each further behaviour, with the tests that carry its name."""
    rows = [row[1:] for row in _rows_of_promises() if not row[0].isdigit()]
    return Table("", ("behaviour", "tests"), rows).markdown()


def _rows_of_promises():
    tests = marked_tests()
    return [
        (name, says, ", ".join(f"`{test}`" for test in tests[name]))
        for name, says in read_promises().items()
    ]


TABLES = {
    "promises": promises_table,
    "behaviours": behaviours_table,
    "runs": runs_table,
    "mutations": mutations_table,
}


def _read(name):
    return json.loads((RUNS / f"{name}.json").read_text(encoding="utf-8"))


def keep(name, run):
    """Keep the figures of a run without its single samples."""
    kept = {key: value for key, value in run.items() if key != "samples"}
    file = RUNS / f"{name}.json"
    file.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


def publish_tables():
    """Write the page's tables.

    Raises:
        InputProblem: no page has the markers of a table.
    """
    for title, table in TABLES.items():
        publish(title, table())


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        name, _, path = argument.partition("=")
        keep(name, json.loads(Path(path).read_text(encoding="utf-8")))
    publish_tables()
