"""Writes the tables of the README and the documents from measured figures.

`python -m bench.figures NAME [LABEL=]FILE…` keeps the figures of these files in
`docs/figures/NAME.json`, and writes the table between the page's markers `<!-- NAME -->` and `<!--
/NAME -->`. It reads the `report.json` of `gmn evaluate --out`, the `benchmark.json` of `gmn
benchmark`, the output of `gmn bench --json` (`performance`, `revisions`, `parts`, `threads`,
`scale`, `start`), and that of `bench.adapting`, `bench.alarms`, `bench.cells`, `bench.centring`,
`bench.doubtful`, `bench.gpu_check`, `bench.likelihood`, `bench.people`, `bench.silent`,
`bench.small_galleries`, `bench.travel_times` and `bench.watch`.

`premise` shows the gaps of a report, and draws the two spaces.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.tables import FIGURES, fill, markdown_table, percent, pivot, publish
from model.provenance import Provenance
from training.evaluation.charts import scatter
from training.evaluation.peers import SUFFIXES
from training.evaluation.report_tables import premise
from training.evaluation.results import PremiseResult, Projection

METRICS = {"Rank-1": "rank_1", "mAP": "mAP"}
CENTRED_METRICS = {
    "mAP": "mAP",
    "found, by score": "found",
    "found, by distance to the level": "found_by_level",
}
# Figures of `bench.adapting`, and the signs of their means.
ADAPTED = {
    "mAP": ("mAP", ""),
    "gained": ("gained", "+"),
    "Rank-1": ("rank_1", ""),
    "found at 1%": ("found", ""),
}
PERFORMANCE = {
    "bench": "{bench}",
    "artefact": "{details[artefact]}",
    "ratio, of rounds": "{ratio:.2f}, {spread[0]:.2f}–{spread[1]:.2f}",
    "aim": "{reach:.2f}",
    "bare app's ratio": "{details[app_ratio]:.2f}",
    "served/s": "{details[served_images_per_second]:.1f}",
    "bare app/s": "{details[app_images_per_second]:.1f}",
    "bare/s": "{details[bare_images_per_second]:.1f}",
    "service's CPU ms": "{details[served_cpu_ms_per_image]:.1f}",
    "bare app's": "{details[app_cpu_ms_per_image]:.1f}",
    "bare": "{details[bare_cpu_ms_per_image]:.1f}",
    "p50 ms": "{details[served_p50_ms]:.1f}",
    "p99 ms": "{details[served_p99_ms]:.1f}",
}
START = {
    "artefact": "{details[artefact]}",
    "CPU s to `/readyz`": "{details[cpu_seconds]:.2f}, "
    "{details[cpu_seconds_range][0]:.2f}–{details[cpu_seconds_range][1]:.2f}",
    "RSS, MiB": "{details[rss_mib]:.0f}",
    "PSS, MiB": "{details[pss_mib]:.0f}",
    "the other's CPU s": "{details[against_cpu_seconds]:.2f}, "
    "{details[against_cpu_seconds_range][0]:.2f}–{details[against_cpu_seconds_range][1]:.2f}",
    "its RSS": "{details[against_rss_mib]:.0f}",
    "its PSS": "{details[against_pss_mib]:.0f}",
    "CPU ratio, of rounds": "{ratio:.2f}, {spread[0]:.2f}–{spread[1]:.2f}",
    "load before": "{details[load_average_before]:.1f}",
}
REVISIONS = {
    "bench": "{bench}",
    "artefact": "{details[artefact]}",
    "images/s, ratio": "{details[against_ratio]:.2f}, {details[against_spread][0]:.2f}–"
    "{details[against_spread][1]:.2f}",
    "CPU ms, ratio": "{details[against_cpu_ratio]:.2f}, {details[against_cpu_spread][0]:.2f}–"
    "{details[against_cpu_spread][1]:.2f}",
    "CPU ms": "{details[served_cpu_ms_per_image]:.1f}",
    "before": "{details[against_cpu_ms_per_image]:.1f}",
    "bare app's": "{details[app_cpu_ms_per_image]:.1f}",
    "bare": "{details[bare_cpu_ms_per_image]:.1f}",
}
SCALE = {
    "data": "{data}",
    "crops": "{crops:,d}",
    "enrolled/s": "{enrolled_per_second:,.0f}",
    "disk, B a crop": "{disk_bytes_per_crop:,.0f}",
    "RssAnon, B a crop": "{memory_bytes_per_crop:,.0f}",
    "start, s": "{start_seconds:.2f}",
    "first search, s": "{first_search_seconds:.2f}",
    "reading, s": "{read_seconds:.2f}",
    "exact, ms": "{exact_ms[all]:.1f}",
    "4 of 20 cameras, ms": "{exact_ms[4 of 20 cameras]:.1f}",
    "without 1 camera, ms": "{exact_ms[without 1 camera]:.1f}",
    "codes, ms": "{codes_ms:.1f}",
    "recall@100": "{recall:.4f}",
    "indexes anew, s": "{rebuild_seconds:.1f}",
    "longest write meanwhile, ms": "{longest_write_ms:.0f}",
}
MACHINES = {
    "side": "{details[side]}",
    "compared with": "{details[other_side]}",
    "ratio, of rounds": "{ratio:.2f}, {spread[0]:.2f}–{spread[1]:.2f}",
    "aim": "{reach:.2f}",
    "requests/s": "{details[requests_per_second]:,.0f}",
    "the other's": "{details[others_requests_per_second]:,.0f}",
    "CPU ms": "{details[cpu_ms_per_request]:.2f}",
    "p50 ms": "{details[p50_ms]:.0f}",
    "p99 ms": "{details[p99_ms]:.0f}",
    "shown by the other machine, p50 ms": "{details[followed_p50_ms]:.0f}",
    "p99": "{details[followed_p99_ms]:.0f}",
    "crops": "{details[crops]:,d}",
    "B a crop": "{details[bytes_per_crop]:,d}",
    "start of a new machine, s": "{details[start_s]:.1f}",
    "start, s": "{details[start_with_copy_s]:.1f}",
    "load before": "{details[load_average_before]:.1f}",
}
# Aims of silent people: share of their alarms that is left, and share of listed people lost.
MOST_SILENT_ALARMS = 0.1
MOST_LOST = 0.02
# Least share of wrong and cut crops that are found, and largest share of good ones called doubtful.
DOUBTFUL_AIMS = {"found": 0.8, "good": 0.02}
Figures = dict[str, Any]


def condense(label: str, report: Figures) -> Iterator[Figures]:
    """Yield the rows of a report, one for each data set and ranking.

    A row of another ranking than the cosine keeps `differences`: its metrics minus the cosine's,
    paired over the queries, as mean and ends of the 95% interval.

    Args:
        label: name of the report's model in the table.
        report: the content of the `report.json` of `gmn evaluate --out`.
    """
    for dataset in report["datasets"]:
        for scoring, result in dataset["scorings"].items():
            row = {
                "model": label,
                "data": dataset["name"],
                "scoring": scoring,
                "people": _describe_people(report, dataset),
                "metrics": _intervals(result["metrics"]),
            }
            if half := result.get("half_enrolled"):
                row["metrics"]["found at 1%"] = _ends(half["detection_rate"])
                row["metrics"]["FNIR at 1%"] = _ends(half["miss_rate"])
            if paired := dataset.get("differences", {}).get(f"{scoring} - cosine"):
                row["differences"] = _intervals(paired)
            yield row


def _describe_people(report: Figures, dataset: Figures) -> str:
    if Path(report["artefact"]).suffix in SUFFIXES:
        # The publisher of the model may not state its training data.
        return "ready-made model"
    if dataset["seen_because"]:
        held_out = report["split"] == "held-out" or not dataset["seen_in_training"]
        return "held-out identities" if held_out else "seen in training"
    sources = Provenance.model_validate(report["provenance"]).sources
    undocumented = [source.role for source in sources if not source.is_documented]
    # Weights with undocumented data may have been trained on the domain, and a student of such a
    # teacher may have learned of the domain from it.
    if "teacher" in undocumented:
        return "left out, teachers' training data unknown"
    if undocumented:
        return "left out, starting weights' training data unknown"
    return "unseen domain"


def _ends(interval: Mapping[str, float]) -> list[float]:
    return [interval["mean"], interval["low"], interval["high"]]


def _intervals(metrics: Mapping[str, Any]) -> dict[str, list[float]]:
    return {title: _ends(metrics[key]) for title, key in METRICS.items() if key in metrics}


def condense_benchmark(report: Figures) -> Iterator[Figures]:
    """Yield the rows of a `benchmark.json`, each with the ranking that its table names.

    Metrics and `differences`, to the table's first row, are means and ends of 95% intervals over
    people and seeds. A row of a single-source table has its training set. Training and test sets
    that were not run have a row without figures.
    """
    rankings = {row["name"]: row["scoring"] for row in report["table"]["rows"]}
    for dataset in report["datasets"]:
        for result in dataset["rankings"]:
            group = result["group"]
            if result["ranking"] == rankings[group]:
                place = {"trained on": dataset["trained_on"]} if dataset.get("trained_on") else {}
                yield place | {
                    "data": dataset["name"],
                    "row": group,
                    "ranking": result["ranking"],
                    "seeds": len(report["seeds"]),
                    "metrics": _intervals(result["metrics"]),
                    "differences": _intervals(result["differences"]),
                }
    for trained_on, tested_on in report.get("not_run", ()):
        yield {"trained on": trained_on, "data": tested_on, "row": "not run"}


def condense_cells(cells: Sequence[Figures]) -> Figures:
    """Return one row for the cells of an artefact, data set and kind of vectors.

    It keeps the cells of searches by other cameras, and the range over all cells.
    """
    first = cells[0]
    obtained = [cell["obtained"] for cell in cells]
    return {
        "artefact": first["artefact"],
        "centred": first["centred"],
        "scaled": first["scaled"],
        "other": [
            {name: cell[name] for name in ("size", "obtained", "found", "best", "spread")}
            for cell in cells
            if cell["mix"] == "other"
        ],
        "obtained": [min(obtained), max(obtained)],
        "least_of_best": round(min(cell["found"] / cell["best"] for cell in cells), 3),
    }


def _ranking_table(rows: Sequence[Figures]) -> str:
    cells = []
    for row in rows:
        for metric, interval in row["metrics"].items():
            cells.append({**row, "metric": metric, "interval": percent(interval)})
    names = {
        "data": "{data}, {people}",
        "model": "{model}",
    }
    return pivot(cells, names, "{metric} {scoring}", "{interval}")


def _benchmark_table(rows: Sequence[Figures]) -> str:
    lines = []
    for row in rows:
        names = ("trained on", "data", "row", "ranking", "seeds")
        line = {name: row[name] for name in names if name in row}
        for metric, interval in row.get("metrics", {}).items():
            line[metric] = percent(interval)
            gain = row["differences"].get(metric)
            line[f"Δ {metric}"] = percent(gain, "+").replace("-", "−") if gain else None
        lines.append(line)
    return markdown_table(lines)


def _premise_table(rows: Sequence[Figures]) -> str:
    (kept,) = rows
    return premise(PremiseResult.model_validate(kept | {"projections": []})).markdown()


def _scale_table(rows: Sequence[Figures]) -> str:
    sizes = [{**row["details"], **size} for row in rows for size in row["details"]["sizes"]]
    return markdown_table(fill(SCALE, size) for size in sizes)


def _performance_table(rows: Sequence[Figures]) -> str:
    return markdown_table(fill(PERFORMANCE, row) for row in rows)


def _start_table(rows: Sequence[Figures]) -> str:
    return markdown_table(fill(START, row) for row in rows)


def _revisions_table(rows: Sequence[Figures]) -> str:
    return markdown_table(fill(REVISIONS, row) for row in rows)


def _parts_table(rows: Sequence[Figures]) -> str:
    return _micros_table(rows, "parts", "part")


def _threads_table(rows: Sequence[Figures]) -> str:
    return _micros_table(rows, "threads", "threads")


def _micros_table(rows: Sequence[Figures], figures: str, title: str) -> str:
    cells = [
        {"name": name, "artefact": row["details"]["artefact"], "micros": f"{micros:,.0f}"}
        for row in rows
        for name, micros in row["details"][figures].items()
    ]
    return pivot(cells, {title: "{name}"}, "{artefact}, µs", "{micros}")


def _machines_table(rows: Sequence[Figures]) -> str:
    return markdown_table(fill(MACHINES, row) for row in rows)


def _adapting_table(rows: Sequence[Figures]) -> str:
    names = ("artefact", "data", "searched")
    starts = {
        (*[row[name] for name in names], row["draw"]): row for row in rows if not row["people"]
    }
    draws: dict[tuple[Any, ...], list[Figures]] = {}
    for row in rows:
        key = tuple(row[name] for name in names)
        start = starts[*key, row["draw"]]
        gained = {"gained": row["mAP"] - start["mAP"]} if row["people"] else {}
        draws.setdefault((*key, row["people"]), []).append(row | gained)
    lines = []
    for (*searched, people), group in draws.items():
        line = dict(zip(names, searched, strict=True))
        line["adapted to"] = f"{people} people" if people else "nobody"
        figures = {
            title: _describe_draws([row[name] for row in group], sign)
            for title, (name, sign) in ADAPTED.items()
            if name in group[0]
        }
        lines.append(line | dict.fromkeys(ADAPTED) | figures)
    return markdown_table(lines)


def _describe_draws(values: Sequence[float], sign: str) -> str:
    """Format the mean of draws, with the lowest and the highest."""
    mean = sum(values) / len(values)
    shown = f"{mean:{sign}.1f} [{min(values):{sign}.1f}, {max(values):{sign}.1f}]"
    return shown.replace("-", "−")


def _alarms_table(rows: Sequence[Figures]) -> str:
    names = {
        "artefact": "{artefact}",
        "people of": "{data}",
        "enrolled by": "{enrolled_by}",
        "crops a camera": "{crops}",
        "pictures": "{pictures}",
    }
    shown = [{**row, "share": _found_of_best(row)} for row in rows]
    cell = "{obtained[0]:.1f} [{obtained[1]:.1f}-{obtained[2]:.1f}] · {share}"
    return pivot(shown, names, "K = {size}", cell)


def _cells_table(rows: Sequence[Figures]) -> str:
    names = {"artefact": "{artefact}", "cameras": "{cameras}", "K": "{size}"}
    cell = "{obtained:.1f} · {found:.0f}/{best:.0f}"
    return pivot(rows, names, "{mix}", cell)


def _spreads_table(rows: Sequence[Figures]) -> str:
    lines = []
    for row in rows:
        line = {
            "artefact": row["artefact"],
            "vectors": "centred" if row["centred"] else "plain",
            "spreads": "yes" if row["scaled"] else "no",
        }
        for cell in row["other"]:
            figures = f"{cell['obtained']:.1f} · {cell['found']:.0f}/{cell['best']:.0f}"
            line[f"K = {cell['size']}"] = figures
        low, high = row["obtained"]
        line["obtained, all cells"] = f"{low:.1f} to {high:.1f}"
        line["found/best, least"] = f"{row['least_of_best']:.2f}"
        lines.append(line)
    return markdown_table(lines)


def _centring_table(rows: Sequence[Figures]) -> str:
    names = {"artefact": "{artefact}", "searched": "{searched}", "people in a mean": "{people}"}
    cells = [
        {**row, "metric": metric, "cell": (row[name], row[f"{name}_gain"], row[f"{name}_error"])}
        for row in rows
        for metric, name in CENTRED_METRICS.items()
    ]
    return pivot(cells, names, "{metric}", "{cell[0]:.1f} ({cell[1]:+.1f} ± {cell[2]:.1f})")


def _centred_galleries_table(rows: Sequence[Figures]) -> str:
    names = {
        "artefact": "{artefact}",
        "searched": "{searched}",
        "people of all cameras": "{people}",
        "further people of all but one": "{others}",
        "mAP": "{mAP:.1f}",
        "with means, worst": "{by_rule:+.1f}, {by_rule_worst:+.1f}",
        "centred": "{is_centred:.0%}",
        "as decided, worst": "{decided:+.1f}, {decided_worst:+.1f}",
    }
    return markdown_table(fill(names, row) for row in rows)


def _small_galleries_table(rows: Sequence[Figures]) -> str:
    names = {"artefact": "{artefact}", "cameras": "{cameras}", "K": "{size}"}
    return pivot(rows, names, "{mix}", "{obtained:.1f} · {found:.0f}")


def _found_of_best(row: Figures) -> str:
    return "–" if row["found"] is None else f"{row['found']:.0f}/{row['best']:.0f}"


def _watch_table(rows: Sequence[Figures]) -> str:
    names = {
        "artefact": "{artefact}",
        "camera": "{camera}",
        "traffic": "{traffic}",
        "asked": "{rate:.1%}",
    }
    cell = "{ratio[0]:.1f} [{ratio[1]:.1f}-{ratio[2]:.1f}] · {inside:.0%}/{above:.0%}/{found:.0%}"
    return pivot(rows, names, "{size} people", cell)


def _silent_table(rows: Sequence[Figures]) -> str:
    names = {
        "artefact": "{artefact}",
        "silent people enrolled by": "the {enrolled_by} cameras",
        "asked": "{rate:.1%}",
    }
    cell = (
        "{left} of {silent_alarms_before} · {found_before:.1%} → {found:.1%} · "
        "{stranger_alarms:.0%} · {inside:.0%}/{above:.0%}"
    )
    cells = [{**row, "left": _describe_alarms_left(row)} for row in rows]
    return pivot(cells, names, "{size} listed people", cell)


def _describe_alarms_left(row: Figures) -> str:
    left = f"{row['silent_alarms']:.0%}"
    lost = row["found_before"] - row["found"]
    is_met = row["silent_alarms"] <= MOST_SILENT_ALARMS and lost <= MOST_LOST
    return left if is_met else f"**{left}**"


def _people_table(rows: Sequence[Figures]) -> str:
    return markdown_table(
        [
            {
                "artefact": row["artefact"],
                "half": row["half"],
                "people": row["people"],
                "tracks": f"{row['tracks']:,.0f}",
                "precision": f"{row['precision']:.3f}",
                "recall": f"{row['recall']:.3f}",
                "counted": f"{row['counted']:.0f}",
                "interval": f"{row['low'] - 1:+.0%} to {row['high'] - 1:+.0%}",
                "has the true number": f"{row['inside']:.0%} of {row['draws']}",
            }
            for row in rows
        ]
    )


def _stated_table(rows: Sequence[Figures]) -> str:
    names = {"artefact": "{artefact}", "half": "{half}", "groups": "{groups:,d}"}
    return markdown_table(
        [
            {title: text.format(**row) for title, text in names.items()}
            | {"stated": f"{row['stated']:.1%}", "of one person": f"{row['of_one_person']:.1%}"}
            for row in rows
        ]
    )


def _doubtful_table(rows: Sequence[Figures]) -> str:
    return markdown_table(
        {
            "artefact": row["artefact"],
            "data": row["data"],
            "crops of a person, most": row["most"],
            "crops": f"{row['crops']:,}",
            "found": f"{row['found']:.1%}",
            "aim 80%": "met" if row["found"] >= DOUBTFUL_AIMS["found"] else "**missed**",
            "under a wrong name": f"{row['wrong']:.1%}",
            "cut to a quarter": f"{row['cut']:.1%}",
            "good ones called so": f"{row['good']:.1%}",
            "aim 2%": "met" if row["good"] <= DOUBTFUL_AIMS["good"] else "**missed**",
            "only crops called so": f"{row['only_good']:.1%}",
            "under a new name, found": f"{row['only_wrong']:.1%}",
        }
        for row in rows
    )


def _travel_times_table(rows: Sequence[Figures]) -> str:
    lines = []
    for row in rows:
        names = {title: row[title] for title in ("artefact", "times", "weight")}
        if row["kind"] == "official":
            measured = {
                f"{title}, {half}": f"{row[half][metric]:.1f}"
                for half in ("even", "odd", "all")
                for title, metric in METRICS.items()
            }
        else:
            low, high = row["spread"]
            measured = {
                "obtained": f"{row['obtained']:.1f} [{low:.1f}-{high:.1f}]",
                "found/best": _found_of_best(row),
                "obtained among 10": f"{row['obtained_of_few']:.1f}",
            }
        lines.append(names | measured)
    return markdown_table(lines)


def _likelihood_table(rows: Sequence[Figures]) -> str:
    names = {"artefact": "{artefact}", "data": "{data}", "scoring": "{scoring}"}
    cell = (
        "{cllr:.3f} − {min_cllr:.3f} = {excess:.3f}, {worst:.3f} · {same_below_1:.1%} · "
        "{different_from_10:.2%}"
    )
    return pivot(rows, names, "{way}", cell)


def _gpu_table(rows: Sequence[Figures]) -> str:
    lines = []
    for row in rows:
        figures = [f"{name}: {_describe_value(value)}" for name, value in row["figures"].items()]
        said = row.get("left_out") or "; ".join(figures)
        lines.append({"part": row["part"], "of": row["of"] or None, "figures": said})
    return markdown_table(lines)


def _describe_value(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return f"{value:,}" if isinstance(value, int | float) else str(value)


TABLES = {
    "adapting": _adapting_table,
    "gpu": _gpu_table,
    "premise": _premise_table,
    "small-gmn": _benchmark_table,
    "small-msfl": _benchmark_table,
    "small-single-source": _benchmark_table,
    "performance": _performance_table,
    "start": _start_table,
    "revisions": _revisions_table,
    "parts": _parts_table,
    "threads": _threads_table,
    "scale": _scale_table,
    "machines": _machines_table,
    "alarms": _alarms_table,
    "cells": _cells_table,
    "small-galleries": _small_galleries_table,
    "silent": _silent_table,
    "people": _people_table,
    "people-stated": _stated_table,
    "watch": _watch_table,
    "doubtful": _doubtful_table,
    "travel-times": _travel_times_table,
    "likelihood": _likelihood_table,
    "centring": _centring_table,
    "centred-galleries": _centred_galleries_table,
    "centred-cells": _cells_table,
    "spreads": _spreads_table,
}


# Tables of another part of a measurement's JSON object than its results.
PARTS = {"people-stated": "stated", "centred-galleries": "galleries"}


def table(name: str, kept: Sequence[Figures]) -> str:
    return TABLES.get(name, _ranking_table)(kept)


def read_rows(name: str, source: str) -> list[Figures]:
    label, _, path = source.rpartition("=")
    content = json.loads(Path(path).read_text(encoding="utf-8"))
    if name not in TABLES:
        return list(condense(label, content))
    if name == "premise":
        return [content["premise"]]
    if TABLES[name] is _benchmark_table:
        return list(condense_benchmark(content))
    if TABLES[name] is _spreads_table:
        return [condense_cells(content["results"])]
    return list(content[PARTS.get(name, "results")])


def main(arguments: Sequence[str]) -> None:
    name, *sources = arguments
    rows = [row for source in sources for row in read_rows(name, source)]
    if name == "premise":
        for space in rows[0].pop("projections"):
            drawn = scatter(Projection.model_validate(space))
            (FIGURES / f"premise-{space['space']}.svg").write_text(drawn.svg, encoding="utf-8")
    elif name not in TABLES:
        data = list(dict.fromkeys(row["data"] for row in rows))
        rows.sort(key=lambda row: data.index(row["data"]))
    publish(name, table(name, rows), rows)


if __name__ == "__main__":
    main(sys.argv[1:])
