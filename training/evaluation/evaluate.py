"""Measures an artefact on data sets, and reports what was found."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import torch

from model.artefact import Artefact, Description
from training.cost import embedder_cost, pair_cost
from training.datasets.protocols import limit_test_identities
from training.datasets.record import CropRecord, Dataset
from training.datasets.registry import showing_people
from training.evaluation.embedding import ProgressBar, no_bar
from training.evaluation.evaluate_search import evaluate_search, needs_metric_network
from training.evaluation.peers import Peer
from training.evaluation.premise import measure_premise, sample_identity_pairs
from training.evaluation.results import (
    CostResult,
    DatasetResult,
    EvaluationReport,
    PremiseResult,
)
from training.evaluation.searches import Search, held_out_people, standard_search


@dataclass(frozen=True)
class EvaluationSettings:
    """The measurements of an artefact on data sets.

    Attributes:
        scorings: which rankings, of `RANKINGS`; None for those that the artefact offers.
        held_out: search for the people that the artefact's training held out, not for all.
        peers: models to stand beside.
        premise: measure the domain gap; None does where a page shows it and the data suffice.
        page: a page will be written.
        pictures: it shows crops.
        device: where the networks run.
        people: search for at most so many people of each set; None is all.
    """

    scorings: Sequence[str] | None = None
    held_out: bool = False
    peers: Sequence[Peer] = ()
    premise: bool | None = False
    page: bool = False
    pictures: bool = False
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    people: int | None = None


def evaluate(
    loaded: Artefact,
    datasets: Sequence[Dataset],
    settings: EvaluationSettings | None = None,
    name: str = "artefact",
    progress_bar: ProgressBar = no_bar,
) -> tuple[EvaluationReport, list[Search]]:
    """Return one artefact on some sets: its report, and the searches whose crops a page shows.

    Args:
        loaded: as `load_artefact` reads it; its networks are moved to the device.
        datasets: as `read_datasets` reads them.
        settings: what to measure; None is all rankings that the artefact offers.
        name: what a report calls the artefact.
        progress_bar: shows how far the long steps are.

    Raises:
        InputProblem: where a set cannot be searched, or none of its people is held out, or
            where the artefact has no M-Net for a scoring that needs it, or a crop no feature.
    """
    settings = settings or EvaluationSettings()
    scorings = settings.scorings or loaded.description.scorings
    if needs_metric_network(scorings):
        loaded.require_metric_network(name)
    searches = [_search(loaded, dataset, settings) for dataset in datasets]
    artefact = loaded.on(settings.device)
    results = [
        evaluate_search(
            artefact,
            dataset,
            search,
            scorings,
            progress_bar,
            peers=settings.peers,
        )
        for dataset, search in zip(datasets, searches, strict=True)
    ]
    split = "held-out" if settings.held_out else "all"
    records = [
        record
        for dataset, search in zip(datasets, searches, strict=True)
        for record in showing_people(dataset.spec, search.records)
    ]
    premise = _domain_gap(artefact, records, settings, progress_bar)
    report = build_report(
        name, loaded.description, split, results, settings.device, premise=premise
    )
    return report, searches if settings.pictures else []


def build_report(
    name: str,
    description: Description,
    split: str,
    results: list[DatasetResult],
    device: torch.device,
    checkpoint: str = "",
    premise: PremiseResult | None = None,
) -> EvaluationReport:
    """Return the report of one evaluation; `split` is `all` or `held-out`."""
    return EvaluationReport(
        artefact=name,
        artefact_fingerprint=description.artefact_fingerprint,
        embedding_fingerprint=description.embedding_fingerprint,
        architecture=description.model_dump(
            mode="json", include={"embedder", "metric_network", "preprocessing"}
        ),
        calibration_data=description.calibration.data,
        provenance=description.provenance,
        split=split,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        machine={
            "device": str(device),
            "processor": platform.machine(),
            "cores": str(os.cpu_count()),
            "torch": torch.__version__,
        },
        datasets=results,
        cost=_cost(description, results),
        default_scoring=description.default_scoring,
        checkpoint=checkpoint,
        premise=premise,
    )


def _cost(description: Description, results: Sequence[DatasetResult]) -> CostResult:
    """Size and work of an artefact's networks, with the speed that an evaluation had."""
    embedder = embedder_cost(description.embedder, description.preprocessing)
    network = description.metric_network
    pair = None if network is None else pair_cost(description.embedder.dimension, network)

    def rate(step: str, things: Callable[[DatasetResult], int]) -> float | None:
        own = [result for result in results if step in result.seconds]
        seconds = sum(result.seconds[step] for result in own)
        return round(sum(map(things, own)) / seconds, 1) if seconds > 0 else None

    return CostResult(
        embedder_parameters=embedder.parameters,
        embedder_multiply_adds=embedder.multiply_adds,
        metric_network_parameters=pair.parameters if pair else 0,
        pair_multiply_adds=pair.multiply_adds if pair else 0,
        crops_per_second=rate("embedding", lambda own: own.crops),
        pairs_per_second=rate("scoring", lambda own: own.queries * own.gallery),
    )


def _search(artefact: Artefact, dataset: Dataset, settings: EvaluationSettings) -> Search:
    """Return the search of the chosen people.

    Raises:
        InputProblem: where a set cannot be searched, or none of its people is held out.
    """
    held_out = artefact.description.provenance.held_out
    fewer = limit_test_identities(dataset, settings.people, held_out if settings.held_out else None)
    if settings.held_out:
        return held_out_people(fewer, held_out)
    return standard_search(fewer, settings.people)


def _domain_gap(
    artefact: Artefact,
    records: Sequence[CropRecord],
    settings: EvaluationSettings,
    progress_bar: ProgressBar,
) -> PremiseResult | None:
    """The premise, where requested; by default where a page is written and the data suffice."""
    if settings.premise is False or (settings.premise is None and not settings.page):
        return None
    pairs = sample_identity_pairs(records)
    if settings.premise is None and not pairs:
        return None
    with progress_bar("Measuring the domain gap", 4 * sum(map(len, pairs.values()))) as bar:
        return measure_premise(artefact, pairs, progress=bar)
