"""The tables of a report, for its page and for a terminal."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from training.evaluation.intervals import Estimate
from training.evaluation.results import (
    DatasetResult,
    OperatingPointResult,
    ScoringResult,
)
from training.evaluation.tables import NOTHING, Cell, Table, Value, difference, percent

METRICS = {
    "mAP": "mAP (step)",
    "mAP_trapezoid": "mAP (trapezoid)",
    "mINP": "mINP",
    "rank_1": "Rank-1",
    "rank_5": "Rank-5",
    "rank_10": "Rank-10",
}
MAIN = ("mAP", "rank_1")
"""The metrics whose intervals have room on a terminal; page and JSON have all."""


def terminal_tables(result: DatasetResult) -> list[Table]:
    """What a terminal shows of one data set."""
    named = {**result.scorings, **result.peers}
    single = {name: own.metrics for name, own in named.items()}
    tables = [_brief("Ranking, %, with 95% intervals", single, percent)]
    if shots := result.multi_shot:
        several = {name: own.metrics for name, own in shots.scorings.items()}
        tables.append(_brief(f"Several crops a query ({shots.how}), %", several, percent))
    title = "Differences over the same queries, percentage points"
    tables.append(_brief(title, result.differences, difference))
    tables += [operating_points(result), half_enrolled(result), verification(result)]
    return [table for table in tables if table.rows]


def _brief(
    title: str,
    rows: Mapping[str, Mapping[str, Estimate]],
    form: Callable[[Estimate], Cell],
) -> Table:
    """The metrics with the intervals of the main two."""
    return Table(
        title,
        ["", *METRICS.values()],
        [
            [
                name,
                *(
                    form(own[metric]) if metric in MAIN else form(own[metric]).text
                    for metric in METRICS
                ),
            ]
            for name, own in rows.items()
        ],
    )


def ranking(title: str, rows: Mapping[str, ScoringResult], note: str = "") -> Table:
    """Every metric of some rankings."""
    wider = any(own.over_identities for own in rows.values())
    return Table(
        title,
        [
            "ranking",
            *METRICS.values(),
            *(["mAP over people"] if wider else []),
            "calibration error",
        ],
        [
            [
                name,
                *(own.metrics[metric] for metric in METRICS),
                *([_over_people(own)] if wider else []),
                None
                if own.expected_calibration_error is None
                else f"{100 * own.expected_calibration_error:.1f}",
            ]
            for name, own in rows.items()
        ],
        note,
    )


def differences(result: DatasetResult) -> Table:
    """The artefact's rankings less its cosine, and its default one less each peer's."""
    return Table(
        "Differences over the same queries, percentage points",
        ["", *METRICS.values()],
        [
            [name, *(difference(values[metric]) for metric in METRICS)]
            for name, values in result.differences.items()
        ],
        "intervals over people; coloured where they leave out 0",
    )


def operating_points(result: DatasetResult) -> Table:
    """Asked against obtained false alarms, and the people found."""
    return Table(
        "Searches, %",
        ["operating point", "false alarms asked", "obtained", "people found", "threshold"],
        [
            [
                f"{name} {point.name}",
                f"{100 * point.asked:g}",
                obtained(point),
                point.detection_rate,
                f"{point.threshold:.4g}",
            ]
            for name, own in result.scorings.items()
            for point in own.operating_points
        ],
        "intervals over people; red where more false alarms than asked are certain",
    )


def obtained(point: OperatingPointResult) -> Cell:
    """The false-alarm rate, marked where its whole interval lies above the one asked for."""
    cell = percent(point.false_alarm_rate, ".2f")
    return cell._replace(mark="bad") if point.false_alarm_rate.low > point.asked else cell


def half_enrolled(result: DatasetResult) -> Table:
    """The people found where half of them are enrolled."""
    return Table(
        "Searches with half of the people enrolled, %",
        ["ranking", "people enrolled", "people found"],
        [
            [name, own.half_enrolled.enrolled, own.half_enrolled.detection_rate]
            for name, own in with_peers(result).items()
            if own.half_enrolled
        ],
        "at the best threshold for 1 false alarm in 100 searches; intervals over people",
    )


def verification(result: DatasetResult) -> Table:
    """TAR@FAR."""
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
            for name, own in result.scorings.items()
            for point in own.verification
        ],
        "intervals over people",
    )


def with_peers(result: DatasetResult) -> dict[str, ScoringResult]:
    """The artefact's rankings, and those of ready-made models."""
    return result.scorings | {f"{name} (peer, cosine)": peer for name, peer in result.peers.items()}


def _over_people(scoring: ScoringResult) -> Value:
    """mAP's interval over identities alone; its mean stands beside it already."""
    estimate = scoring.over_identities.get("mAP")
    return Cell("", percent(estimate).small) if estimate else NOTHING
