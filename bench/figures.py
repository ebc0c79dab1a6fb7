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

import hashlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench import tables
from bench.tables import METRICS, markdown_table, publish, save_drawing
from model.artefact import load_artefact, shipped_artefacts
from model.provenance import Provenance
from training.evaluation.charts import DASHES, chart, projection
from training.evaluation.intervals import people_and_seeds_interval
from training.evaluation.peers import SUFFIXES
from training.evaluation.report_tables import premise
from training.evaluation.results import PremiseResult, Projection, QueryValues
from training.evaluation.runs import QUERY_VALUES, read_query_values

UNSEEN = "unseen domain"
HELD_OUT = "held-out identities"
SEEN = "seen in training"
# The publisher of a ready-made model may not state its training data.
READY_MADE = "ready-made model"
# Weights with undocumented data may have been trained on the domain; so may their students.
UNSEEN_BUT_START = "left out, starting weights' training data unknown"
# A student of a ready-made model may have learned of the domain from its teacher.
UNSEEN_BUT_TEACHERS = "left out, teachers' training data unknown"
ROW_FIELDS = ("queries", "gallery", "identities")
Figures = dict[str, Any]
# The columns of `gmn bench scale`, and how their values are written.
SCALE_FORMATS = {
    "crops": ",d",
    "enrolled/s": ",.0f",
    "disk, B a crop": ",.0f",
    "RssAnon, B a crop": ",.0f",
    "start, s": ".2f",
    "first search, s": ".2f",
    "reading, s": ".2f",
    "exact, ms": ".1f",
    "4 of 20 cameras, ms": ".1f",
    "without 1 camera, ms": ".1f",
    "codes, ms": ".1f",
    "recall@100": ".4f",
}
PANELS = {
    "query, ms": ("exact, ms", "4 of 20 cameras, ms", "codes, ms"),
    "bytes a crop": ("disk, B a crop", "RssAnon, B a crop"),
    "seconds": ("start, s", "reading, s"),
    "enrolled a second": ("enrolled/s",),
}


def condense(label: str, report: Figures) -> list[Figures]:
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
            row = {"model": label, "data": dataset["name"], "scoring": scoring}
            row |= {name: dataset[name] for name in ROW_FIELDS}
            row["metrics"] = _intervals(result["metrics"])
            if half := result.get("half_enrolled"):
                row |= {"found": _ends(half["detection_rate"]), "enrolled": half["enrolled"]}
            row["people"] = _people(report, dataset)
            if paired := differences.get(f"{scoring} - cosine"):
                row["differences"] = _intervals(paired)
            rows.append(row)
    return rows


def _people(report: Figures, dataset: Figures) -> str:
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


def _ends(interval: Mapping[str, float]) -> list[float]:
    return [interval["mean"], interval["low"], interval["high"]]


def _intervals(metrics: Mapping[str, Any]) -> dict[str, list[float]]:
    return {title: _ends(metrics[key]) for title, key in METRICS.items() if key in metrics}


def condense_rows(report: Figures) -> Figures:
    """Collect the figures for the documents from `benchmark.json` and the folders of its runs.

    Returns:
        `rows` has figures for each test set and row, each metric as mean and ends of the 95%
        interval over people and seeds: `metrics`, `differences` to the table's first row, and
        `over_cosine` to the cosine of the same runs, for a ranking other than the cosine.
        `origin` has commits, initial weights and artefacts with their SHA-256, training data, and
        the digest of the searches of each test set.
    """
    rankings = {row["name"]: row["scoring"] for row in report["table"]["rows"]}
    rows = []
    searches = {}
    for dataset in report["datasets"]:
        name = dataset["name"]
        for result in dataset["rankings"]:
            group = result["group"]
            ranking = result["ranking"]
            if ranking != rankings[group]:
                continue
            folders = [Path(run) / "tests" / name for run in report["runs"][group]]
            # A report on one data set numbers it 0.
            tests = [
                read_query_values(folder / QUERY_VALUES)[0] for folder in folders if folder.is_dir()
            ]
            searches[name] = tests[0].search
            row = {"data": name, "row": group, "ranking": ranking}
            row |= {field: dataset[field] for field in ROW_FIELDS}
            row["seeds"] = len(tests)
            row["metrics"] = _intervals(result["metrics"])
            row["differences"] = _intervals(result["differences"])
            row["over_cosine"] = {} if ranking == "cosine" else _over_cosine(tests, ranking)
            rows.append(row)
    runs = sorted({run for group in report["runs"].values() for run in group})
    origin = _origin(runs) | {"searches": searches}
    return {"table": report["table"]["name"], "rows": rows, "origin": origin}


def _over_cosine(tests: Sequence[QueryValues], ranking: str) -> dict[str, list[float]]:
    estimates = {}
    for key in METRICS.values():
        ahead = np.stack(
            [test.rankings[ranking][key] - test.rankings["cosine"][key] for test in tests]
        )
        estimate = people_and_seeds_interval([(ahead, None, tests[0].identities)])
        estimates[key] = estimate.model_dump()
    return _intervals(estimates)


def _origin(runs: Sequence[str]) -> Figures:
    commits: set[str] = set()
    weights: dict[str, str] = {}
    trained = []
    for run in runs:
        provenance = json.loads((Path(run) / "report.json").read_text())["provenance"]
        commits.add(provenance["commit"])
        weights |= {source["name"]: source["sha256"] for source in provenance["sources"]}
        trained.append(
            {
                "run": "/".join(Path(run).parts[-3:]),
                "command": provenance["command"],
                "artefact_sha256": _sha256(Path(run) / "model.safetensors"),
                "data": {dataset["name"]: dataset["crops"] for dataset in provenance["data"]},
            }
        )
    return {"commits": sorted(commits), "weights": weights, "runs": trained}


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def origins_table() -> str:
    """List file, commit, training data and initial weights of each shipped artefact."""
    lines = []
    for name, path in shipped_artefacts().items():
        provenance = load_artefact(path).description.provenance
        data = [f"{dataset.name} {dataset.crops:,}" for dataset in provenance.data]
        sources = [
            f"{source.role} {source.name}, {(source.sha256 or 'unknown')[:12]}"
            for source in provenance.all_sources
        ]
        commit = (provenance.commit or "")[:7]
        day = provenance.created_at[:10]
        lines.append([name, _sha256(path)[:12], commit, day, "; ".join(data), "; ".join(sources)])
    columns = ["artefact", "its SHA-256", "commit", "on", "crops trained on", "weights and SHA-256"]
    return markdown_table(columns, lines)


def curves_table(curves: Mapping[str, list[Figures]]) -> str:
    """Format each size of each kind of data of `gmn bench scale` as a row."""
    rows = []
    for data, sizes in curves.items():
        for size in sizes:
            values = zip(_scale_values(size), SCALE_FORMATS.values(), strict=True)
            cells = [None if value is None else format(value, style) for value, style in values]
            rows.append([data, *cells])
    return markdown_table(("data", *SCALE_FORMATS), rows)


def _scale_values(size: Figures) -> list[float | None]:
    """Return a size's value in each column of `SCALE_FORMATS`."""
    crops = size["crops"]
    exact = size["flat_ms"]
    return [
        crops,
        size["enrolled_per_second"],
        size["disk_bytes"] / crops,
        size["anonymous_bytes"] / crops,
        size["start_seconds"],
        size["first_search_seconds"],
        size["read_seconds"],
        *(exact[cameras]["p50"] for cameras in ("all", "4 of 20 cameras", "without 1 camera")),
        size.get("ann_ms", {}).get("p50"),
        size["recall"],
    ]


def drawing(curves: Mapping[str, list[Figures]]) -> str:
    """Draw the curves as SVG: a panel for each measure, a line style for each data."""
    alt = "Latency, bytes, start and enrollment rate over the number of crops"
    with chart("", alt, size=(9.6, 6.2)) as canvas:
        canvas.figure.clear()
        for axes, title in zip(canvas.figure.subplots(2, 2).flat, PANELS, strict=True):
            for dash, (data, sizes) in enumerate(curves.items()):
                values = [
                    dict(zip(SCALE_FORMATS, _scale_values(size), strict=True)) for size in sizes
                ]
                for colour, column in enumerate(PANELS[title]):
                    measured = [row for row in values if row[column] is not None]
                    axes.plot(
                        [row["crops"] for row in measured],
                        [row[column] for row in measured],
                        marker="o",
                        label=f"{column.split(',')[0]}, {data}",
                        color=f"C{colour}",
                        linestyle=DASHES[dash],
                    )
            axes.set(xscale="log", yscale="log", xlabel="crops", ylabel=title)
            axes.legend()
    return canvas.svg


def condense_bench(printed: Figures) -> list[Figures]:
    """Return the rows of a serving bench: `bundled` and `small`, or the artefact that was named."""
    details = dict(printed["details"])
    small = details.pop("small", None)
    first = details | {name: printed[name] for name in ("ratio", "spread", "reach")}
    return [{"bench": printed["bench"]} | row for row in (first, small) if row]


def markdown(kept: Any) -> str:
    """Format kept figures as a table, by the fields that they have."""
    if isinstance(kept, dict):
        if "origin" in kept:
            return tables.benchmark_table(kept)
        if "gaps" in kept:
            return premise(PremiseResult.model_validate(kept | {"projections": []})).markdown()
        return curves_table(kept)
    if "traffic" in kept[0]:
        return tables.watch_table(kept)
    if "pictures" in kept[0]:
        return tables.pictures_table(kept)
    if "galleries" in kept[0]:
        return tables.few_people_table(kept)
    if "bench" in kept[0]:
        return tables.bench_table(kept)
    if "step" in kept[0]:
        return tables.steps_table(kept)
    return tables.ranking_table(kept)


def joined(rows: Sequence[Figures]) -> list[Figures]:
    """Order rows by data set, artefacts before ready-made models."""
    data = list(dict.fromkeys(row["data"] for row in rows))
    return sorted(rows, key=lambda row: (data.index(row["data"]), row["people"] == READY_MADE))


def _rows(label: str, content: Any) -> Iterator[Figures]:
    for result in content if isinstance(content, list) else [content]:
        if "datasets" in result:
            yield from condense(label, result)
        elif "galleries" in result or "pictures" in result:
            yield result
        elif "bench" in result:
            yield from condense_bench(result)
        else:
            yield {"step": label} | result


def main(arguments: list[str]) -> None:
    name, *sources = arguments
    if name == "origins":
        publish(name, origins_table())
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
            drawn = projection(Projection.model_validate(space))
            save_drawing(f"premise-{space['space']}", drawn.svg)
    elif "table" in contents[0]:
        kept = condense_rows(contents[0])
    elif name == "scale":
        kept = {}
        for curve in (content["details"] for content in contents):
            dimension = {"dimension": curve["dimension"]}
            kept[curve["data"]] = [size | dimension for size in curve["sizes"]]
        save_drawing("scale", drawing(kept))
    else:
        kept = [row for label, content in read.values() for row in _rows(label, content)]
        if "people" in kept[0]:
            kept = joined(kept)
    publish(name, markdown(kept), kept)


if __name__ == "__main__":
    main(sys.argv[1:])
