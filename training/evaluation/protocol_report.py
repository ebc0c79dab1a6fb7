"""The outcome of a protocol: a report for every domain, their average, and papers' figures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from pydantic import BaseModel, ConfigDict

from model.problems import InputProblem
from training.datasets.protocols import Protocol
from training.datasets.record import Dataset
from training.evaluation.intervals import Estimate, average_intervals
from training.evaluation.papers import data_differences, people_differences, trained_as
from training.evaluation.query_values import QueryValues
from training.evaluation.report_tables import METRICS
from training.evaluation.results import EvaluationReport
from training.evaluation.tables import Cell, Table, Value, difference
from training.papers import AVERAGE, PaperRow, paper_rows
from training.seen import Candidate, choose_unseen

BASE = "cosine"


class ProtocolReport(BaseModel):
    """One run of `gmn evaluate --protocol`.

    Attributes:
        protocol, title: which one.
        reports: one per tested set, each with one data set, by the artefact that had not seen it.
        averages: by ranking and metric, the mean over the sets, each set weighing the same; its
            interval resamples people within every set.
        differences: by `mnet - cosine`, the same of the paired differences.
        remarks: where this run differs from the protocol.
        published: papers' rows on this protocol that every artefact is, with their figures.
    """

    model_config = ConfigDict(frozen=True)

    protocol: str
    title: str
    created_at: str
    reports: list[EvaluationReport]
    averages: dict[str, dict[str, Estimate]]
    differences: dict[str, dict[str, Estimate]]
    remarks: list[str]
    published: list[PaperRow]


def run_protocol(
    protocol: Protocol,
    candidates: Sequence[Candidate],
    datasets: Sequence[Dataset],
    evaluate_one: Callable[[Candidate, Dataset], EvaluationReport],
) -> ProtocolReport:
    """Measures every set by the one artefact that was not trained on it.

    All artefacts are chosen before the first one is measured.

    Args:
        protocol: which sets it tests.
        candidates: the artefacts there are.
        datasets: to be tested on.
        evaluate_one: measures one artefact on one set.

    Raises:
        InputProblem: where the protocol does not test a set, or no artefact, or more than one, was
            trained without it.
    """
    chosen = []
    for dataset in datasets:
        if protocol.targets and dataset.name not in protocol.targets:
            raise InputProblem(
                f"{dataset.spec}: protocol {protocol.name} tests {', '.join(protocol.targets)}; "
                "leave it out, or use --protocol lodo"
            )
        chosen.append(choose_unseen(candidates, dataset))
    reports = [
        evaluate_one(candidate, dataset)
        for candidate, dataset in zip(chosen, datasets, strict=True)
    ]
    values = [own for report in reports for own in [report.datasets[0].query_values] if own]
    return ProtocolReport(
        protocol=protocol.name,
        title=protocol.title,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        reports=reports,
        averages=_averages(values),
        differences=_averages(values, BASE),
        remarks=[
            remark
            for candidate, dataset in zip(chosen, datasets, strict=True)
            for remark in _remarks(protocol, candidate, dataset)
        ],
        published=[
            row.on({dataset.name for dataset in datasets})
            for row in paper_rows()
            if row.protocol == protocol.name
            and all(
                trained_as(row, dataset.name, candidate.description.provenance)
                for candidate, dataset in zip(chosen, datasets, strict=True)
            )
        ],
    )


def metric_tables(report: ProtocolReport) -> list[Table]:
    """Sets as rows, for each ranking; then the differences on average."""
    results = [result for own in report.reports for result in own.datasets]
    tables = []
    for name, average in report.averages.items():
        papers = [row for row in report.published if row.scoring == name]
        found = [(result.scorings | result.peers)[name].metrics for result in results]
        rows: list[list[Value]] = []
        for own, metrics in [*zip(results, found, strict=True), (None, average)]:
            shown = own.name if own else AVERAGE
            known = [row.figures[shown] for row in papers if shown in row.figures]
            rows.append(
                [
                    Cell(shown, link=f"{shown}/report.html" if own else ""),
                    *(metrics[metric] for metric in METRICS),
                    ", ".join(map(str, known)) or None,
                ]
            )
        cited = "; ".join(f"paper: {row.name}, {row.source}" for row in papers)
        columns = ["tested on", *METRICS.values(), "paper"]
        tables.append(Table(f"{name}, %", columns, rows, cited))
    differences = Table(
        "Average difference over the same queries, percentage points",
        ["", *METRICS.values()],
        [
            [name, *(difference(average[metric]) for metric in METRICS)]
            for name, average in report.differences.items()
        ],
        "intervals over people; coloured where they leave out 0",
    )
    return [*tables, *([differences] if differences.rows else [])]


def _averages(values: Sequence[QueryValues], less: str = "") -> dict[str, dict[str, Estimate]]:
    """Of each ranking that every set has its average metrics, perhaps less another ranking's."""
    names = [
        name
        for name in (values[0].rankings if values else ())
        if name != less and all({name, less or name} <= own.rankings.keys() for own in values)
    ]
    return {
        f"{name} - {less}" if less else name: average_intervals(
            [
                (
                    {
                        metric: found - (own.rankings[less][metric] if less else 0.0)
                        for metric, found in own.rankings[name].items()
                    },
                    own.identities,
                )
                for own in values
            ]
        )
        for name in names
    }


def _remarks(protocol: Protocol, candidate: Candidate, dataset: Dataset) -> list[str]:
    """Return where an artefact's training data are not the protocol's."""
    if not protocol.sources:
        return []
    provenance = candidate.description.provenance
    found = data_differences(protocol.name, dataset.name, provenance)
    start = f"{candidate.name}, measured on {dataset.name}, was trained"
    return [f"{start} {difference}." for difference in found + people_differences(provenance)]
