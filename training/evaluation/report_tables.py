"""The tables of a report, for its page and for the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from model.permitted_use import corrected_terms
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
    """Make the tables of all figures of one data set."""
    tables = [
        _ranking(result.scorings),
        Table(
            "Differences over the same queries, percentage points",
            ["", *METRICS.values()],
            [
                [name, *(difference(values[metric]) for metric in METRICS)]
                for name, values in result.differences.items()
            ],
            "intervals over people; coloured if they exclude 0",
        ),
        _operating_points(result.scorings),
        Table(
            "Searches with half of the people enrolled, %",
            ["ranking", "people enrolled", "people found", "FNIR"],
            [
                [
                    name,
                    scoring.half_enrolled.enrolled,
                    scoring.half_enrolled.detection_rate,
                    scoring.half_enrolled.miss_rate,
                ]
                for name, scoring in result.scorings.items()
                if scoring.half_enrolled
            ],
            "at the best threshold for 1 false alarm in 100 searches; intervals over people",
        ),
        _verification(result.scorings),
        _likelihood(result.scorings),
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
        "intervals over people; red if the whole interval lies above the rate asked for",
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


def _likelihood(scorings: Mapping[str, ScoringResult]) -> Table:
    return Table(
        "Likelihood ratios of two crops",
        ["ranking", "people fitted", "Cllr", "minCllr", "one person, below 1", "two, 10 and more"],
        [
            [
                name,
                scoring.likelihood.people,
                f"{scoring.likelihood.cllr:.3f}",
                f"{scoring.likelihood.min_cllr:.3f}",
                f"{scoring.likelihood.same_below_1:.2%}",
                f"{scoring.likelihood.different_from_10:.2%}",
            ]
            for name, scoring in scorings.items()
            if scoring.likelihood
        ],
        "fitted to one half of the people, measured on the other",
    )


def _ranking(scorings: Mapping[str, ScoringResult]) -> Table:
    return Table(
        "Ranking, %",
        ["ranking", *METRICS.values(), "mAP over people", "calibration error"],
        [
            [
                name,
                *(scoring.metrics[metric] for metric in METRICS),
                # The mean is in a column of its own.
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
    """Format a false-alarm rate; mark it if its whole interval lies above the rate asked for."""
    return percent(rate, ".2f")._replace(mark="bad" if rate.low > asked else "")


def premise(result: PremiseResult) -> Table:
    """Make a table of the gaps between domains in both spaces."""
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
            for gap in result.gaps
            for name, space in (("instance", gap.instance), ("pair", gap.pair))
        ],
        "same domain: between two halves of one",
        labels=2,
    )


def networks(cost: CostResult) -> Table:
    """Make a table of the parameters and multiply-adds of an artefact's networks."""
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
    """Make a table of the data sets that an artefact was trained on."""
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
    """Make a table of initial weights and teachers."""
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
                corrected_terms(source.terms, provenance) or None,
            ]
            for source in provenance.sources
        ],
        words=True,
    )


def settings(recipe: Mapping[str, Any]) -> Table:
    """Make a table of all settings of a recipe, by their dotted names."""
    rows = [[name, str(value)] for name, value in dotted(recipe).items()]
    return Table("Every setting", ["setting", "value"], rows, words=True)


def dotted(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested settings to dotted names, as `--set` takes them."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            flat |= dotted(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
