"""The tables of a report, for its page and for a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from model.provenance import Provenance
from training.evaluation.intervals import Estimate
from training.evaluation.results import CostResult, DatasetResult, PremiseResult, ScoringResult
from training.evaluation.tables import Cell, Table, difference, percent

METRICS = {
    "mAP": "mAP step",
    "mAP_trapezoid": "mAP trapezoid",
    "mINP": "mINP",
    "rank_1": "Rank-1",
    "rank_5": "Rank-5",
    "rank_10": "Rank-10",
}


def dataset_tables(result: DatasetResult) -> list[Table]:
    """Return every figure of one data set, for its page and for a terminal."""
    tables = [
        _ranking(result.scorings),
        Table(
            "Differences over the same queries, percentage points",
            ["", *METRICS.values()],
            [
                [name, *(difference(values[metric]) for metric in METRICS)]
                for name, values in result.differences.items()
            ],
            "intervals over people; coloured where they leave out 0",
        ),
        _operating_points(result.scorings),
        Table(
            "Searches with half of the people enrolled, %",
            ["ranking", "people enrolled", "people found"],
            [
                [name, scoring.half_enrolled.enrolled, scoring.half_enrolled.detection_rate]
                for name, scoring in result.scorings.items()
                if scoring.half_enrolled
            ],
            "at the best threshold for 1 false alarm in 100 searches; intervals over people",
        ),
        _verification(result.scorings),
    ]
    return [table for table in tables if table.rows]


def _operating_points(scorings: Mapping[str, ScoringResult]) -> Table:
    return Table(
        "Searches, %",
        [
            "operating point",
            "false alarms asked",
            "obtained",
            "people found",
            "threshold",
        ],
        [
            [
                f"{name} {point.name}",
                f"{100 * point.asked:g}",
                obtained(point.false_alarm_rate, point.asked),
                point.detection_rate,
                f"{point.threshold:.4g}",
            ]
            for name, scoring in scorings.items()
            for point in scoring.operating_points
        ],
        "intervals over people; red where the whole interval lies above what was asked",
    )


def _verification(scorings: Mapping[str, ScoringResult]) -> Table:
    return Table(
        "Comparing two crops, %: TAR@FAR",
        ["ranking", "false accepts asked", "obtained", "true accepts", "threshold"],
        [
            [
                name,
                f"{100 * point.asked:g}",
                f"{100 * point.false_accept_rate:.2g}",
                point.true_accept_rate,
                f"{point.threshold:.4g}",
            ]
            for name, scoring in scorings.items()
            for point in scoring.verification
        ],
        "intervals over people",
    )


def _ranking(scorings: Mapping[str, ScoringResult]) -> Table:
    return Table(
        "Ranking, %",
        ["ranking", *METRICS.values(), "mAP over people", "calibration error"],
        [
            [
                name,
                *(scoring.metrics[metric] for metric in METRICS),
                # Its mean stands beside it already.
                Cell("", percent(scoring.over_identities["mAP"]).small)
                if scoring.over_identities
                else None,
                None
                if scoring.expected_calibration_error is None
                else f"{100 * scoring.expected_calibration_error:.1f}",
            ]
            for name, scoring in scorings.items()
        ],
        "with 95% intervals",
    )


def obtained(rate: Estimate, asked: float) -> Cell:
    """Return a false-alarm rate, marked where its whole interval lies above the one asked for."""
    return percent(rate, ".2f")._replace(mark="bad" if rate.low > asked else "")


def premise(found: PremiseResult) -> Table:
    """Return the gap of every two domains in both spaces."""
    return Table(
        "Domain gap",
        [
            *("domains", "space", "MMD²", "by chance", "× chance", "same domain"),
            *("classifier, %", "same domain, %"),
        ],
        [
            [
                " – ".join(gap.domains),
                name,
                f"{space.mmd:.4f}".replace("-", "−"),
                f"{space.mmd_by_chance:.4f}",
                f"{space.times_chance:.1f}",
                f"{space.mmd_same_domain:.4f}".replace("-", "−"),
                space.classifier,
                f"{100 * space.classifier_same_domain:.1f}",
            ]
            for gap in found.gaps
            for name, space in (("instance", gap.instance), ("pair", gap.pair))
        ],
        "same domain: between two halves of one",
        labels=2,
    )


def networks(cost: CostResult) -> Table:
    """Return a row for each network of an artefact: its size, and its work."""
    rows = [("embedder, one crop", cost.embedder_parameters, cost.embedder_multiply_adds)]
    if cost.metric_network_parameters:
        rows.append(("M-Net, one pair", cost.metric_network_parameters, cost.pair_multiply_adds))
    return Table(
        "Networks",
        ["network", "parameters, M", "multiply-adds, M"],
        [[name, f"{size / 1e6:,.2f}", f"{work / 1e6:,.2f}"] for name, size, work in rows],
        "a multiplication with its addition counts once, as the papers count FLOPs",
    )


def training_data(provenance: Provenance) -> Table:
    """Return the data sets that went into an artefact."""
    return Table(
        "Training data",
        [
            "set",
            "crops",
            "identities",
            "cameras",
            "terms",
        ],
        [
            [data.name, data.crops, data.identities, data.cameras, data.terms]
            for data in provenance.data
        ],
        words=True,
    )


def sources(provenance: Provenance) -> Table:
    """Return initial weights and teachers."""
    return Table(
        "Weights from elsewhere",
        [
            "weights",
            "role",
            "trained on",
            "terms",
        ],
        [
            [
                source.name,
                source.role,
                ", ".join([*(data.name for data in source.data), *source.documented_data])
                or "not documented",
                source.terms or None,
            ]
            for source in provenance.all_sources
        ],
        words=True,
    )


def settings(recipe: Mapping[str, Any]) -> Table:
    """Return a recipe's every setting by its dotted name."""
    rows = [[name, str(value)] for name, value in dotted(recipe).items()]
    return Table("Every setting", ["setting", "value"], rows, words=True)


def dotted(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings by their dotted names, as `--set` takes them."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            found |= dotted(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found
