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

from bench.tables import FIGURES, percent, table, write_into_page
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
        rows += [
            _row(label, name, found, dataset, _people(report, dataset), differences)
            for name, found in dataset["scorings"].items()
        ]
        for name, found in dataset["peers"].items():
            row = _row(name, "cosine", found, dataset, READY_MADE, {})
            ahead = {
                f"{label}, {pair.removesuffix(f' - {name}')}": _with_interval(values)
                for pair, values in differences.items()
                if pair.endswith(f" - {name}")
            }
            rows.append(row | ({"ahead": ahead} if ahead else {}))
    return rows


def _row(
    model: str,
    scoring: str,
    found: dict[str, Any],
    dataset: dict[str, Any],
    people: str,
    differences: dict[str, Any],
) -> dict[str, Any]:
    row = {"model": model, "data": dataset["name"], "people": people}
    row |= {name: dataset[name] for name in ("queries", "gallery", "identities")}
    row |= {"scoring": scoring, "metrics": _with_interval(found["metrics"])}
    if paired := differences.get(f"{scoring} - cosine"):
        row["differences"] = _with_interval(paired)
    if half := found.get("half_enrolled"):
        row["found"] = [half["detection_rate"][end] for end in ("mean", "low", "high")]
        row["enrolled"] = half["enrolled"]
    return row


def _people(report: dict[str, Any], dataset: dict[str, Any]) -> str:
    """How far the artefact knows the people of a data set."""
    trained_on = {data["name"] for data in report["provenance"]["data"]}
    if not dataset.get("seen_because", dataset["name"] in trained_on):
        return _unseen(report["provenance"])
    if report["split"] == "held-out" or not dataset.get("seen_in_training", True):
        return HELD_OUT
    return SEEN


def _unseen(provenance: dict[str, Any]) -> str:
    """What is known of people under cameras that an artefact was not trained on."""
    known = Provenance.model_validate(
        {"terms": "", "recipe": {}, "command": "", "commit": None, "created_at": ""}
        | {"held_out": {}, "initial_weights": "none", "metrics": {}}
        | provenance
        | {"data": []}
    )
    sources = [source for source in known.all_sources if not source.is_documented]
    if any(source.role == "teacher" for source in sources):
        return UNSEEN_BUT_TEACHERS
    return UNSEEN_BUT_START if sources else UNSEEN


def _with_interval(metrics: dict[str, Any]) -> dict[str, list[float]]:
    return {
        title: [metrics[key][end] for end in ("mean", "low", "high")]
        for title, key in METRICS.items()
    }


def condense_served(label: str, printed: dict[str, Any]) -> list[dict[str, Any]]:
    """The row of one printed summary, of `gmn enroll` or `gmn query`."""
    if "crops_per_second" in printed:
        return [
            {"step": label, "crops": printed["enrolled"], "per_second": _rate(printed, "crops")}
        ]
    return [
        {
            "step": label,
            "crops": printed["queries"],
            "per_second": _rate(printed, "queries"),
            "in_flight": printed["in_flight"],
            "ms_per_query": round(printed["ms_per_query"], 1),
            "rank_1": printed["rank_1"],
            # Of a ranking that was cut, mAP is a lower bound only.
            "mAP": printed["mAP"] if printed["whole_rankings"] else None,
            "verdicts": printed["verdicts"],
            "matches_right": printed["matches_right"],
        }
    ]


def condense_bench(label: str, printed: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of a serving bench: of ResNet-50, and of the bundled artefact beside it."""
    measured = [printed | printed["details"], printed["details"]["bundled"]]
    return [
        {
            "bench": label,
            "backbone": one["backbone"],
            "ratio": one["ratio"],
            "spread": one["spread"],
            "served": one["served_images_per_second"],
            "bare": one["bare_images_per_second"],
            "service_ms": one.get("service_ms"),
            "client_ms": one["client_cpu_ms_per_image"],
        }
        for one in measured
    ]


def markdown(rows: list[dict[str, Any]]) -> str:
    """The rows as a table: of rankings, benches, or of what a service was seen doing."""
    if "bench" in rows[0]:
        return _bench_table(rows)
    return _served_table(rows) if "step" in rows[0] else _ranking_table(rows)


def _bench_table(rows: list[dict[str, Any]]) -> str:
    phases = ("decode", "queue", "embed", "search", "rerank", "total")
    figures = ("served", "bare", "client_ms")
    lines = []
    for row in rows:
        low, high = row["spread"]
        taken = row["service_ms"] or {}
        cells = [row["bench"], row["backbone"], f"{row['ratio']:.2f}, {low:.2f}–{high:.2f}"]
        cells += [f"{row[name]:.1f}" for name in figures]
        lines.append(cells + [f"{taken[name]:.1f}" if taken else None for name in phases])
    titles = ("bench", "network", "ratio, of rounds", "served/s", "bare/s", "client ms")
    return table((*titles, *(f"{name} ms" for name in phases)), lines)


def _served_table(rows: list[dict[str, Any]]) -> str:
    titles = ("step", "crops", "per second", "ms per query", *METRICS, "answered match, right")
    lines = []
    for row in rows:
        asked: list[str | None] = [None] * 4
        if "ms_per_query" in row:
            asked = [
                f"{row['ms_per_query']:.1f}, {row['in_flight']} in flight",
                f"{100 * row['rank_1']:.1f}",
                None if row["mAP"] is None else f"{100 * row['mAP']:.1f}",
                f"{row['verdicts']['match']:,}, {row['matches_right']:,}",
            ]
        lines.append([row["step"], f"{row['crops']:,}", f"{row['per_second']:.0f}", *asked])
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
        reader = condense_bench if "bench" in content else condense_served
        rows += (condense if "datasets" in content else reader)(label, content)
    write_table(name, rows)


def write_table(name: str, rows: list[dict[str, Any]]) -> None:
    """Keeps rows in `docs/figures/NAME.json` and writes their table into the page that has it.

    Raises:
        InputProblem: when no page has the table's markers.
    """
    write_into_page(name, markdown(rows))
    FIGURES.mkdir(parents=True, exist_ok=True)
    (FIGURES / f"{name}.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def _rate(printed: dict[str, Any], what: str) -> float:
    return round(float(printed[f"{what}_per_second"]), 1)


if __name__ == "__main__":
    main(sys.argv[1:])
