"""What a protocol found: a report for every domain, their average, and papers' figures beside."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from model.problems import InputProblem
from training.datasets.generalisation import Protocol
from training.datasets.record import Dataset
from training.evaluation.intervals import Estimate, average_intervals
from training.evaluation.query_values import QueryValues
from training.evaluation.results import EvaluationReport
from training.evaluation.unseen import Candidate, choose_unseen

PUBLISHED = Path(__file__).with_name("published.toml")
BASE = "cosine"


class PublishedFigures(BaseModel):
    """A paper's mAP and Rank-1 on one test set, percent."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mAP: float  # noqa: N815 - the field's name for it
    rank_1: float


class PublishedRow(BaseModel):
    """One line of a paper's table; `results` are by test set, `average` over them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    protocol: str
    row: str
    source: str
    results: dict[str, PublishedFigures]


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
    published: list[PublishedRow]


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
        published=published_rows(protocol.name),
    )


def published_rows(protocol: str) -> list[PublishedRow]:
    """What papers report on a protocol."""
    content = tomllib.loads(PUBLISHED.read_text(encoding="utf-8"))
    rows = [PublishedRow.model_validate(row) for row in content["row"]]
    return [row for row in rows if row.protocol == protocol]


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


def _remarks(protocol: Protocol, candidate: Candidate, dataset: Dataset) -> list[str]:
    """Where an artefact's training data are not the protocol's."""
    sources = set(protocol.sources) - {dataset.name}
    if not sources:
        return []
    provenance, found = candidate.description.provenance, []
    known = {data.name for data in provenance.data}
    if known != sources:
        found.append(
            f"on {', '.join(sorted(known)) or 'nothing that it names'}; protocol {protocol.name} "
            f"trains on {', '.join(sorted(sources))}"
        )
    for data in provenance.data:
        tested = data.splits is not None and bool({"query", "gallery"} & set(data.splits))
        # A set without splits trains whole by every protocol.
        if data.splits is not None and tested != protocol.test_images:
            found.append(
                f"on the {', '.join(data.splits)} images of {data.name}; protocol {protocol.name} "
                f"trains on {'the test images, too' if protocol.test_images else 'train alone'}"
            )
    held_out = provenance.held_out.get("fraction", 0.0)
    if held_out:
        found.append(f"on {1 - held_out:.0%} of the people; the protocol trains on all")
    limit = provenance.recipe.get("sampling", {}).get("identities_per_set")
    if limit:
        found.append(f"on at most {limit:,} people of each set; the protocol trains on all")
    start = f"{candidate.name}, measured on {dataset.name}, was trained"
    return [f"{start} {difference}." for difference in found]
