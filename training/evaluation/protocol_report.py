"""What a protocol found: a report for every domain, their average, and papers' figures beside."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime

from pydantic import BaseModel, ConfigDict

from model.problems import InputProblem
from training.datasets.protocols import Protocol
from training.datasets.record import Dataset
from training.evaluation.intervals import Estimate, average_intervals
from training.evaluation.papers import data_differences, people_differences
from training.evaluation.query_values import QueryValues
from training.evaluation.report_tables import METRICS
from training.evaluation.results import EvaluationReport
from training.evaluation.tables import Cell, Table, Value, difference, percent
from training.papers import PaperRow, paper_rows
from training.seen import Candidate, choose_unseen

BASE, AVERAGE = "cosine", "average"
Form = Callable[[Estimate], Cell]


class ProtocolReport(BaseModel):
    """One run of `gmn evaluate --protocol`.

    Attributes:
        protocol, title: which one.
        reports: one per tested set, each with one data set, by the artefact that had not seen it.
        averages: by ranking and metric, the mean over the sets, each set weighing the same; its
            interval resamples people within every set.
        differences: by `mnet - cosine`, the same of the paired differences.
        remarks: where this run differs from the protocol.
        published: papers' figures on this protocol.
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
        averages={name: _average(values, name) for name in _in_all(values)},
        differences={
            f"{name} - {BASE}": _average(values, name, BASE)
            for name in _in_all(values)
            if name != BASE and BASE in _in_all(values)
        },
        remarks=[
            remark
            for candidate, dataset in zip(chosen, datasets, strict=True)
            for remark in _remarks(protocol, candidate, dataset)
        ],
        published=_published(protocol, chosen, datasets),
    )


def metric_tables(report: ProtocolReport) -> list[Table]:
    """A table for each ranking, sets as rows; then the differences on average."""
    first = report.reports[0].datasets[0].scorings
    tables = []
    for name, average in report.averages.items():
        if name not in first:
            continue
        rows: list[list[Value]] = [
            [
                Cell(result.name, link=f"{result.name}/report.html"),
                own.artefact,
                *(result.scorings[name].metrics[metric] for metric in METRICS),
            ]
            for own in report.reports
            for result in own.datasets
        ]
        rows.append([AVERAGE, "", *(average[metric] for metric in METRICS)])
        columns = ["tested on", "artefact", *METRICS.values()]
        tables.append(Table(f"{name}, %", columns, rows, labels=2))
    differences = Table(
        "Average difference over the same queries, percentage points",
        ["", *METRICS.values()],
        [
            [name, *(difference(apart[metric]) for metric in METRICS)]
            for name, apart in report.differences.items()
        ],
    )
    return [*tables, differences]


def table_beside_papers(report: ProtocolReport) -> Table:
    """This run's rankings and differences on every set, and below them papers' figures."""
    results = [result for own in report.reports for result in own.datasets]
    names = [result.name for result in results]
    others = {name for row in report.published for name in row.figures} - {*names, AVERAGE}
    columns = [*names, *sorted(others), AVERAGE]

    def row(name: str, sets: Sequence[Mapping[str, Estimate]], form: Form) -> list[Value]:
        found = dict(zip([*names, AVERAGE], sets, strict=True))
        return [name, *(_both(found[one], form) if one in found else None for one in columns)]

    rows = [
        row(
            f"{name}, this run",
            [*((own.scorings | own.peers)[name].metrics for own in results), average],
            percent,
        )
        for name, average in report.averages.items()
    ]
    rows += [
        row(f"{name}, this run", [*(own.differences[name] for own in results), average], difference)
        for name, average in report.differences.items()
    ]
    for paper in report.published:
        known = (paper.figures.get(name) for name in columns)
        rows.append([f"{paper.name}, paper", *(str(own) if own else None for own in known)])
    cited = "; ".join(dict.fromkeys(row.source for row in report.published))
    note = "intervals are mAP's" + (f"; papers' rows: {cited}" if cited else "")
    return Table("mAP / Rank-1, %", ["", *columns], rows, note)


def _both(metrics: Mapping[str, Estimate], form: Form) -> Cell:
    first, second = form(metrics["mAP"]), form(metrics["rank_1"])
    return first._replace(text=f"{first.text} / {second.text}")


def _in_all(values: Sequence[QueryValues]) -> list[str]:
    """The rankings that every set has."""
    return [
        name
        for name in (values[0].rankings if values else ())
        if all(name in own.rankings for own in values)
    ]


def _average(values: Sequence[QueryValues], name: str, less: str = "") -> dict[str, Estimate]:
    """The average of a ranking's metrics over the sets, perhaps less another ranking's."""
    sets = []
    for own in values:
        figures = dict(own.rankings[name])
        if less:
            figures = {
                metric: found - own.rankings[less][metric] for metric, found in figures.items()
            }
        sets.append((figures, own.identities))
    return average_intervals(sets)


def _published(
    protocol: Protocol, chosen: Sequence[Candidate], datasets: Sequence[Dataset]
) -> list[PaperRow]:
    """The papers' rows whose recipe and sets are those of every artefact."""
    found = []
    tested = {dataset.name for dataset in datasets}
    for row in paper_rows():
        same = row.protocol == protocol.name and all(
            row.is_of(one.description.provenance.recipe)
            and not data_differences(
                protocol.name,
                set(protocol.sources) - {dataset.name},
                protocol.test_images,
                one.description.provenance,
            )
            for one, dataset in zip(chosen, datasets, strict=True)
        )
        if same:
            whole = row.figures.keys() - {AVERAGE} <= tested
            figures = {name: own for name, own in row.figures.items() if name != AVERAGE or whole}
            found.append(row.model_copy(update={"figures": figures}))
    return found


def _remarks(protocol: Protocol, candidate: Candidate, dataset: Dataset) -> list[str]:
    """Where an artefact's training data are not the protocol's."""
    sources = set(protocol.sources) - {dataset.name}
    if not sources:
        return []
    provenance = candidate.description.provenance
    found = data_differences(
        f"protocol {protocol.name}", sources, protocol.test_images, provenance
    ) + people_differences(provenance)
    start = f"{candidate.name}, measured on {dataset.name}, was trained"
    return [f"{start} {difference}." for difference in found]
