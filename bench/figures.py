"""The tables of the README and the documents, from measured figures and never by hand.

`python -m bench.figures NAME [LABEL=]FILE…` keeps the figures of these files in
`docs/figures/NAME.json` and writes the table between the page's markers `<!-- NAME -->` and
`<!-- /NAME -->`. A file is what `gmn evaluate --out` wrote (`report.json`, or `protocol.json`), or
what `gmn enroll`, `gmn query --data` or `gmn bench` printed with `--json`, or what
`bench.few_people --out` wrote. `premise` is the gaps
of a report, of which the two spaces are drawn as well. `scale` is the curves of `gmn bench scale`,
which are drawn, too; beside them `planned` compares `gmn plan` with the largest size. `plan` and
`origins` need no file: their tables are of the shipped unit costs and artefacts. A `benchmark.json`
of `gmn benchmark` gives its rows, and the folders of its runs are read.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bench import benchmark_tables, plan_tables, service_tables
from bench.tables import ends, percent, publish, save_drawing
from model.provenance import Provenance
from training.evaluation.charts import projection
from training.evaluation.report_tables import premise
from training.evaluation.results import PremiseResult, Projection
from training.evaluation.tables import Table

METRICS = {"Rank-1": "rank_1", "mAP": "mAP"}
FOUND = "found at 1%"
UNSEEN = "unseen domain"
HELD_OUT = "held-out identities"
SEEN = "seen in training"
# A peer: trained by its publisher, who may not state on what.
READY_MADE = "ready-made model"
# Weights with undocumented data may have been trained on the domain; so may their students.
UNSEEN_BUT_START = "left out, starting weights' training data unknown"
# A student of a ready-made model may have learned of the domain from its teacher.
UNSEEN_BUT_TEACHERS = "left out, teachers' training data unknown"


def condense(label: str, report: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of one report: one per data set and ranking, a ready-made peer's among them.

    A row of another ranking than the cosine keeps `differences`: its metrics minus the cosine's,
    paired over the queries, as mean and ends of the 95% interval. A peer's row keeps the artefact's
    default scoring minus the peer's, by the artefact's label, as `ahead`.

    Args:
        label: what the report's artefact is called in the table.
        report: what `gmn evaluate --out` wrote to `report.json`.
    """
    rows = []
    for dataset in report["datasets"]:
        differences = dataset.get("differences", {})
        for scoring, found in dataset["scorings"].items():
            row = _row(label, scoring, found, dataset) | {"people": _people(report, dataset)}
            if paired := differences.get(f"{scoring} - cosine"):
                row["differences"] = _with_interval(paired)
            rows.append(row)
        for name, found in dataset["peers"].items():
            row = _row(name, "cosine", found, dataset) | {"people": READY_MADE}
            for pair, values in differences.items():
                if pair.endswith(f" - {name}"):
                    ahead = f"{label}, {pair.removesuffix(f' - {name}')}"
                    row.setdefault("ahead", {})[ahead] = _with_interval(values)
            rows.append(row)
    return rows


def _row(
    model: str, scoring: str, found: dict[str, Any], dataset: dict[str, Any]
) -> dict[str, Any]:
    row = {"model": model, "data": dataset["name"], "scoring": scoring}
    row |= {name: dataset[name] for name in ("queries", "gallery", "identities")}
    row["metrics"] = _with_interval(found["metrics"])
    if half := found.get("half_enrolled"):
        row |= {"found": ends(half["detection_rate"]), "enrolled": half["enrolled"]}
    return row


def _people(report: dict[str, Any], dataset: dict[str, Any]) -> str:
    """How far the artefact knows the people of a data set."""
    if dataset["seen_because"]:
        held_out = report["split"] == "held-out" or not dataset["seen_in_training"]
        return HELD_OUT if held_out else SEEN
    sources = Provenance.model_validate(report["provenance"]).all_sources
    undocumented = [source.role for source in sources if not source.is_documented]
    if "teacher" in undocumented:
        return UNSEEN_BUT_TEACHERS
    return UNSEEN_BUT_START if undocumented else UNSEEN


def _with_interval(metrics: dict[str, Any]) -> dict[str, list[float]]:
    return {title: ends(metrics[key]) for title, key in METRICS.items()}


def markdown(kept: Any) -> str:
    """The kept figures as a table."""
    if isinstance(kept, dict):
        if "origin" in kept:
            return benchmark_tables.benchmark_table(kept)
        if "gaps" not in kept:
            return service_tables.curves_table(kept)
        return premise(PremiseResult.model_validate(kept | {"projections": []})).markdown()
    if "galleries" in kept[0]:
        return few_people_table(kept)
    if "bench" in kept[0]:
        return service_tables.bench_table(kept)
    return service_tables.steps_table(kept) if "step" in kept[0] else _ranking_table(kept)


def few_people_table(rows: list[dict[str, Any]]) -> str:
    """Return a row for each set and scoring of `bench.few_people`, and a column for each size."""
    sizes = list(dict.fromkeys(row["size"] for row in rows))
    groups: dict[tuple[str, ...], dict[int, dict[str, Any]]] = {}
    for row in rows:
        part = f"{row['data']}, {'test part' if row['test'] else 'held out'}"
        groups.setdefault((row["artefact"], part, row["scoring"]), {})[row["size"]] = row
    lines: list[list[str | None]] = []
    for group, by_size in groups.items():
        cells = [_few_people_cell(by_size[size]) for size in sizes]
        errors = [row["error"] for row in by_size.values()]
        least = min(row["least"] for row in by_size.values())
        lines.append([*group, *cells, f"{least:.2f}", f"{min(errors):.2f}-{max(errors):.2f}"])
    titles = ["artefact", "crops", "scoring", *(f"K = {size}" for size in sizes)]
    titles += ["least probability of a match", "calibration error"]
    return Table("", titles, lines).markdown()


def _few_people_cell(row: dict[str, Any]) -> str:
    mean, low, high = (100 * value for value in row["obtained"])
    found, best = (100 * row[name] for name in ("found", "best"))
    return f"{mean:.1f} [{low:.1f}-{high:.1f}] · {found:.0f}/{best:.0f}"


def _ranking_table(rows: list[dict[str, Any]]) -> str:
    """A row per model and data set, and a column per metric and scoring."""
    groups: dict[tuple[str, int, str], dict[str, dict[str, Any]]] = {}
    for row in rows:
        group = groups.setdefault((row["data"], row["queries"], row["model"]), {})
        group[row["scoring"]] = row
    titles = [*METRICS, *([FOUND] if any("found" in row for row in rows) else [])]
    scorings = dict.fromkeys(row["scoring"] for row in rows)
    columns = [(title, scoring) for title in titles for scoring in scorings]
    lines = []
    for (data, _, model), by_scoring in sorted(groups.items(), key=lambda entry: entry[0][:2]):
        people = next(iter(by_scoring.values()))["people"]
        cells = [_figure(by_scoring.get(scoring), title) for title, scoring in columns]
        lines.append([f"{data}, {people}", model, *cells])
    return Table("", ["data", "model", *(" ".join(column) for column in columns)], lines).markdown()


def _figure(row: dict[str, Any] | None, title: str) -> str | None:
    own = row and (row.get("found") if title == FOUND else row["metrics"].get(title))
    return percent(own) if own else None


def joined(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of each data set together, its artefacts first, and then each peer once.

    A peer that was measured beside several artefacts has the same figures each time.
    """
    found: dict[tuple[object, ...], dict[str, Any]] = {}
    for row in rows:
        key = tuple(row[name] for name in ("data", "queries", "gallery", "model", "scoring"))
        known = found.setdefault(key, row)
        if known is not row and "ahead" in known:
            known["ahead"] = known["ahead"] | row.get("ahead", {})
    data = list(dict.fromkeys(row["data"] for row in rows))
    return sorted(
        found.values(), key=lambda row: (data.index(row["data"]), row["people"] == READY_MADE)
    )


def _rows(label: str, content: Any) -> Iterator[dict[str, Any]]:
    """The rows of one file."""
    for one in content if isinstance(content, list) else content.get("reports", [content]):
        if "datasets" in one:
            yield from condense(label, one)
        elif "galleries" in one:
            yield one
        elif "bench" in one:
            yield from service_tables.condense_bench(one)
        else:
            yield {"step": label} | one


def main(arguments: list[str]) -> None:
    """Writes one table from `NAME [LABEL=]FILE…`."""
    name, *sources = arguments
    tables = {"plan": plan_tables.costs_table, "sizes": plan_tables.sizes_table}
    tables |= {"origins": benchmark_tables.origins_table}
    if name in tables:
        publish(name, tables[name]())
        return
    read = {}
    for source in sources:
        label, _, path = source.rpartition("=")
        read[path] = label, json.loads(Path(path).read_text(encoding="utf-8"))
    contents = [content for _, content in read.values()]
    kept: Any
    if name == "premise":
        kept = contents[0]["premise"]
        for found in kept.pop("projections"):
            drawn = projection(Projection.model_validate(found))
            save_drawing(f"premise-{found['space']}", drawn.svg)
    elif "table" in contents[0]:
        kept = benchmark_tables.condense_rows(contents[0])
    elif name == "scale":
        kept = {
            found["data"]: [one | {"dimension": found["dimension"]} for one in found["sizes"]]
            for found in (content["details"] for content in contents)
        }
        save_drawing("scale", service_tables.drawing(kept))
        publish("planned", plan_tables.planned_table(next(iter(kept.values()))))
    else:
        kept = [row for label, content in read.values() for row in _rows(label, content)]
        if "people" in kept[0]:
            kept = joined(kept)
    publish(name, markdown(kept), kept)


if __name__ == "__main__":
    main(sys.argv[1:])
