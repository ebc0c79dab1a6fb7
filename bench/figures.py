"""The tables of the README and the results page, from evaluation reports and never by hand.

`python -m bench.figures unseen twin=runs/without-cuhk01/unseen/report.json …` keeps the reports'
figures in `docs/figures/unseen.json` and writes the table between the page's markers
`<!-- unseen -->` and `<!-- /unseen -->`. Beside reports it reads what `gmn enroll --json`,
`gmn query --data … --json` and `gmn bench … --json` printed.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from bench.tables import ends, percent, publish, table
from model.provenance import Provenance

METRICS = {"Rank-1": "rank_1", "mAP": "mAP"}
FOUND = "found at 1%"
UNSEEN, HELD_OUT, SEEN = "unseen domain", "held-out identities", "seen in training"
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


def condense_bench(label: str, printed: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of a serving bench: of the artefacts `bundled` and `small`, or of the one named."""
    details = dict(printed["details"])
    beside = details.pop("small", None)
    first = details | {name: printed[name] for name in ("ratio", "spread")}
    return [{"bench": label} | row for row in (first, beside) if row]


def markdown(rows: list[dict[str, Any]]) -> str:
    """The rows as a table: of rankings, benches, or of what a service was seen doing."""
    if "bench" in rows[0]:
        return _bench_table(rows)
    return _served_table(rows) if "step" in rows[0] else _ranking_table(rows)


def _bench_table(rows: list[dict[str, Any]]) -> str:
    phases = ("decode", "queue", "embed", "search", "rerank", "wall")
    figures = {
        "served/s": "served_images_per_second",
        "bare/s": "bare_crops_per_second",
        "service's CPU ms": "service_cpu_ms_per_image",
        "bare CPU ms": "bare_cpu_ms_per_crop",
        "p50 ms": "p50_ms",
        "p99 ms": "p99_ms",
    }
    lines = []
    for row in rows:
        low, high = row["spread"]
        taken = row.get("service_ms")
        cells = [row["bench"], row["artefact"], f"{row['ratio']:.2f}, {low:.2f}–{high:.2f}"]
        cells += [f"{row[name]:.1f}" for name in figures.values()]
        cells.append(f"{100 * row['client_share_of_processor']:.1f}%")
        lines.append(cells + [f"{taken[name]:.1f}" if taken else None for name in phases])
    titles = ("bench", "artefact", "ratio, of rounds", *figures, "client's share")
    return table((*titles, *(f"{name} ms" for name in phases)), lines)


def _served_table(rows: list[dict[str, Any]]) -> str:
    titles = ("step", "crops", "per second", "ms per query", *METRICS, "answered match, right")
    lines: list[list[str | None]] = []
    for row in rows:
        if "queries" not in row:
            figures = [f"{row['enrolled']:,}", f"{row['crops_per_second']:.0f}", *[None] * 4]
        else:
            figures = [
                f"{row['queries']:,}",
                f"{row['queries_per_second']:.0f}",
                f"{row['ms_per_query']:.1f}, {row['in_flight']} in flight",
                f"{100 * row['rank_1']:.1f}",
                # Of a ranking that was cut, mAP is a lower bound only.
                f"{100 * row['mAP']:.1f}" if row["whole_rankings"] else None,
                f"{row['verdicts']['match']:,}, {row['matches_right']:,}",
            ]
        lines.append([row["step"], *figures])
    return table(titles, lines)


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
    return table(["data", "model", *(" ".join(column) for column in columns)], lines)


def _figure(row: dict[str, Any] | None, title: str) -> str | None:
    own = row and (row.get("found") if title == FOUND else row["metrics"].get(title))
    return percent(own) if own else None


def main(arguments: list[str]) -> None:
    """Writes one table from `NAME LABEL=REPORT…`."""
    name, *sources = arguments
    rows = []
    for source in sources:
        label, _, path = source.partition("=")
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        if "datasets" in content:
            rows += condense(label, content)
        else:
            served = "bench" not in content
            rows += [{"step": label} | content] if served else condense_bench(label, content)
    publish(name, markdown(rows), rows)


if __name__ == "__main__":
    main(sys.argv[1:])
