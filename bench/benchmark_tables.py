"""Tables of documents with rows of `gmn benchmark`, and with origins of the shipped artefacts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.tables import ends, percent
from model.artefact import load_artefact, shipped_artefacts
from training.evaluation.intervals import people_and_seeds_interval
from training.evaluation.results import QueryValues
from training.evaluation.runs import QUERY_VALUES, read_query_values
from training.evaluation.tables import Table

METRICS = {"mAP": "mAP", "Rank-1": "rank_1"}


def condense_rows(report: Mapping[str, Any]) -> dict[str, Any]:
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
        for result in dataset["rankings"]:
            group = result["group"]
            ranking = result["ranking"]
            if ranking != rankings[group]:
                continue
            folders = [Path(run) / "tests" / dataset["name"] for run in report["runs"][group]]
            # A report on one data set numbers it 0.
            tests = [
                read_query_values(folder / QUERY_VALUES)[0] for folder in folders if folder.is_dir()
            ]
            searches[dataset["name"]] = tests[0].search
            rows.append(
                {
                    "data": dataset["name"],
                    "row": group,
                    "ranking": ranking,
                    "queries": dataset["queries"],
                    "gallery": dataset["gallery"],
                    "identities": dataset["identities"],
                    "seeds": len(tests),
                    "metrics": _intervals(result["metrics"]),
                    "differences": _intervals(result["differences"]),
                    "over_cosine": {} if ranking == "cosine" else _over_cosine(tests, ranking),
                }
            )
    runs = sorted({run for group in report["runs"].values() for run in group})
    return {"table": report["table"]["name"], "rows": rows, "origin": _origin(runs, searches)}


def benchmark_table(kept: Mapping[str, Any]) -> str:
    """Format the result of `condense_rows` as a table with a paragraph on its origin."""
    columns = ["data", "row", "ranking", "seeds"]
    for name in METRICS:
        columns += [name, f"Δ {name} to the first row", f"Δ {name} to its cosine"]
    lines = []
    for row in kept["rows"]:
        line = [row["data"], row["row"], row["ranking"], str(row["seeds"])]
        for name in METRICS:
            line.append(percent(row["metrics"][name]))
            line += [_signed(row[key].get(name)) for key in ("differences", "over_cosine")]
        lines.append(line)
    origin = kept["origin"]
    weights = "; ".join(f"{name} SHA-256 {sha[:12]}" for name, sha in origin["weights"].items())
    searches = "; ".join(f"{name} {digest[:12]}" for name, digest in origin["searches"].items())
    return (
        f"{Table('', columns, lines).markdown()}\n\n"
        f"Commit {', '.join(sha[:7] for sha in origin['commits'])}; initial weights: {weights}; "
        f"digest of the searches: {searches}. Each run's training data and artefact are in "
        f"[figures](figures)."
    )


def origins_table() -> str:
    """List file, commit, training data and initial weights of each shipped artefact."""
    lines = []
    for name, path in shipped_artefacts().items():
        provenance = load_artefact(path).description.provenance
        sources = [
            f"{source.role} {source.name}, {(source.sha256 or 'unknown')[:12]}"
            for source in provenance.all_sources
        ]
        lines.append(
            [
                name,
                hashlib.sha256(path.read_bytes()).hexdigest()[:12],
                (provenance.commit or "")[:7],
                provenance.created_at[:10],
                "; ".join(f"{dataset.name} {dataset.crops:,}" for dataset in provenance.data),
                "; ".join(sources),
            ]
        )
    columns = ["artefact", "its SHA-256", "commit", "on", "crops trained on", "weights and SHA-256"]
    return Table("", columns, lines).markdown()


def _intervals(metrics: Mapping[str, Any]) -> dict[str, list[float]]:
    return {name: ends(metrics[key]) for name, key in METRICS.items() if key in metrics}


def _signed(interval: Sequence[float] | None) -> str | None:
    if interval is None:
        return None
    mean, low, high = (100 * share for share in interval)
    return f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]".replace("-", "−")


def _over_cosine(tests: Sequence[QueryValues], ranking: str) -> dict[str, list[float]]:
    intervals = {}
    for name, key in METRICS.items():
        ahead = np.stack(
            [test.rankings[ranking][key] - test.rankings["cosine"][key] for test in tests]
        )
        estimate = people_and_seeds_interval([(ahead, None, tests[0].identities)])
        intervals[name] = ends(estimate.model_dump())
    return intervals


def _origin(runs: Sequence[str], searches: Mapping[str, str]) -> dict[str, Any]:
    commits: set[str] = set()
    weights: dict[str, str] = {}
    trained = []
    for run in runs:
        provenance = json.loads((Path(run) / "report.json").read_text())["provenance"]
        commits.add(provenance["commit"])
        weights |= {source["name"]: source["sha256"] for source in provenance["sources"]}
        artefact = (Path(run) / "model.safetensors").read_bytes()
        trained.append(
            {
                "run": "/".join(Path(run).parts[-3:]),
                "command": provenance["command"],
                "artefact_sha256": hashlib.sha256(artefact).hexdigest(),
                "data": {dataset["name"]: dataset["crops"] for dataset in provenance["data"]},
            }
        )
    return {
        "commits": sorted(commits),
        "weights": weights,
        "searches": dict(searches),
        "runs": trained,
    }
