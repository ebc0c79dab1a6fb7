"""Tables of the README and the documents, from measured figures and never by hand.

`python -m bench.figures NAME [LABEL=]FILE…` keeps the figures of these files in
`docs/figures/NAME.json`, and writes the table between the page's markers `<!-- NAME -->` and
`<!-- /NAME -->`. It reads the `report.json` of `gmn evaluate --out`, the file of
`bench.few_people --out`, the output of `gmn enroll`, `gmn query --data` and `gmn bench` with
`--json`, and the `benchmark.json` of `gmn benchmark` with the folders of its runs.

`premise` shows the gaps of a report, and draws the two spaces. `scale` shows and draws the curves
of `gmn bench scale`. `origins` needs no file: it shows the shipped artefacts.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bench import benchmark_tables, service_tables
from bench.tables import ends, percent, publish, save_drawing
from model.provenance import Provenance
from training.evaluation.charts import projection
from training.evaluation.peers import SUFFIXES
from training.evaluation.report_tables import premise
from training.evaluation.results import PremiseResult, Projection
from training.evaluation.tables import Table

METRICS = {"Rank-1": "rank_1", "mAP": "mAP"}
FOUND = "found at 1%"
UNSEEN = "unseen domain"
HELD_OUT = "held-out identities"
SEEN = "seen in training"
# The publisher of a ready-made model may not state its training data.
READY_MADE = "ready-made model"
# Weights with undocumented data may have been trained on the domain; so may their students.
UNSEEN_BUT_START = "left out, starting weights' training data unknown"
# A student of a ready-made model may have learned of the domain from its teacher.
UNSEEN_BUT_TEACHERS = "left out, teachers' training data unknown"


def condense(label: str, report: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of a report, one for each data set and ranking.

    A row of another ranking than the cosine keeps `differences`: its metrics minus the cosine's,
    paired over the queries, as mean and ends of the 95% interval.

    Args:
        label: the name of the report's model in the table.
        report: the content of the `report.json` of `gmn evaluate --out`.
    """
    rows = []
    for dataset in report["datasets"]:
        differences = dataset.get("differences", {})
        for scoring, result in dataset["scorings"].items():
            row = _row(label, scoring, result, dataset) | {"people": _people(report, dataset)}
            if paired := differences.get(f"{scoring} - cosine"):
                row["differences"] = _with_interval(paired)
            rows.append(row)
    return rows


def _row(
    model: str, scoring: str, result: dict[str, Any], dataset: dict[str, Any]
) -> dict[str, Any]:
    row = {
        "model": model,
        "data": dataset["name"],
        "scoring": scoring,
        "queries": dataset["queries"],
        "gallery": dataset["gallery"],
        "identities": dataset["identities"],
        "metrics": _with_interval(result["metrics"]),
    }
    if half := result.get("half_enrolled"):
        row |= {"found": ends(half["detection_rate"]), "enrolled": half["enrolled"]}
    return row


def _people(report: dict[str, Any], dataset: dict[str, Any]) -> str:
    """Say how far the model knows the people of a data set."""
    if Path(report["artefact"]).suffix in SUFFIXES:
        return READY_MADE
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
    """Format kept figures as a table, by the fields that they have."""
    if isinstance(kept, dict):
        if "origin" in kept:
            return benchmark_tables.benchmark_table(kept)
        if "gaps" in kept:
            return premise(PremiseResult.model_validate(kept | {"projections": []})).markdown()
        return service_tables.curves_table(kept)
    if "galleries" in kept[0]:
        return few_people_table(kept)
    if "bench" in kept[0]:
        return service_tables.bench_table(kept)
    if "step" in kept[0]:
        return service_tables.steps_table(kept)
    return _ranking_table(kept)


def few_people_table(rows: list[dict[str, Any]]) -> str:
    """Return the cosine's row for each set of `bench.few_people`, and a column for each size."""
    sizes = list(dict.fromkeys(row["size"] for row in rows))
    groups: dict[tuple[str, ...], dict[int, dict[str, Any]]] = {}
    for row in rows:
        if row["scoring"] != "cosine":
            # M-Net's figures hardly differ; they are kept beside the cosine's.
            continue
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
    mean, low, high = (100 * share for share in row["obtained"])
    return f"{mean:.1f} [{low:.1f}-{high:.1f}] · {100 * row['found']:.0f}/{100 * row['best']:.0f}"


def _ranking_table(rows: list[dict[str, Any]]) -> str:
    """Format a row for each model and data set, and a column for each metric and scoring."""
    groups: dict[tuple[str, int, str], dict[str, dict[str, Any]]] = {}
    for row in rows:
        group = groups.setdefault((row["data"], row["queries"], row["model"]), {})
        group[row["scoring"]] = row
    titles = list(METRICS)
    if any("found" in row for row in rows):
        titles.append(FOUND)
    scorings = dict.fromkeys(row["scoring"] for row in rows)
    if {"cosine", "mnet"} <= scorings.keys():
        # The fused score lies between the two, whose figures are kept with its own.
        scorings.pop("fused", None)
    columns = [(title, scoring) for title in titles for scoring in scorings]
    lines = []
    for (data, _, model), by_scoring in sorted(groups.items(), key=lambda entry: entry[0][:2]):
        people = next(iter(by_scoring.values()))["people"]
        cells = [_cell(by_scoring.get(scoring), title) for title, scoring in columns]
        lines.append([f"{data}, {people}", model, *cells])
    return Table("", ["data", "model", *(" ".join(column) for column in columns)], lines).markdown()


def _cell(row: dict[str, Any] | None, title: str) -> str | None:
    if row is None:
        return None
    interval = row.get("found") if title == FOUND else row["metrics"].get(title)
    return percent(interval) if interval else None


def joined(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Order rows by data set, artefacts before ready-made models."""
    data = list(dict.fromkeys(row["data"] for row in rows))
    return sorted(rows, key=lambda row: (data.index(row["data"]), row["people"] == READY_MADE))


def _rows(label: str, content: Any) -> Iterator[dict[str, Any]]:
    for result in content if isinstance(content, list) else [content]:
        if "datasets" in result:
            yield from condense(label, result)
        elif "galleries" in result:
            yield result
        elif "bench" in result:
            yield from service_tables.condense_bench(result)
        else:
            yield {"step": label} | result


def main(arguments: list[str]) -> None:
    name, *sources = arguments
    if name == "origins":
        publish(name, benchmark_tables.origins_table())
        return
    read = {}
    for source in sources:
        label, _, path = source.rpartition("=")
        read[path] = label, json.loads(Path(path).read_text(encoding="utf-8"))
    contents = [content for _, content in read.values()]
    kept: Any
    if name == "premise":
        kept = contents[0]["premise"]
        for space in kept.pop("projections"):
            drawing = projection(Projection.model_validate(space))
            save_drawing(f"premise-{space['space']}", drawing.svg)
    elif "table" in contents[0]:
        kept = benchmark_tables.condense_rows(contents[0])
    elif name == "scale":
        curves = [content["details"] for content in contents]
        kept = {
            curve["data"]: [size | {"dimension": curve["dimension"]} for size in curve["sizes"]]
            for curve in curves
        }

        save_drawing("scale", service_tables.drawing(kept))
    else:
        kept = [row for label, content in read.values() for row in _rows(label, content)]
        if "people" in kept[0]:
            kept = joined(kept)
    publish(name, markdown(kept), kept)


if __name__ == "__main__":
    main(sys.argv[1:])
