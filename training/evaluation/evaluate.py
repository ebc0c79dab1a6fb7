"""Measures artefacts and ready-made models on data sets, and reports the figures."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime

import torch

from model.artefact import Artefact, Description
from model.problems import InputProblem
from training.cost import embedder_cost, pair_cost
from training.datasets.protocols import limit_test_identities
from training.datasets.record import Dataset
from training.datasets.registry import showing_people
from training.evaluation.embedding import ProgressBar, SearchFeatures, embed_records, no_bar
from training.evaluation.evaluate_search import (
    RE_RANKED,
    evaluate_search,
    timed,
)
from training.evaluation.peers import Peer
from training.evaluation.premise import measure_premise, sample_identity_pairs
from training.evaluation.results import (
    CostResult,
    DatasetResult,
    EvaluationReport,
)
from training.evaluation.scoring import open_scores
from training.evaluation.searches import Search, held_out_people, standard_search


@dataclass(frozen=True)
class EvaluationSettings:
    """The measurements of a model on data sets.

    Attributes:
        scorings: which rankings, of `RANKINGS`; None for all that the model offers.
        held_out: search for the people that the artefact's training held out, not for all. Of a
            ready-made model they are the people that recipes hold out by default.
        premise: measure the domain gap.
        device: where the networks run.
        people: the largest number of people of each set that are searched for; None is all.
    """

    scorings: Sequence[str] | None = None
    held_out: bool = False
    premise: bool = False
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    people: int | None = None


def evaluate(
    model: Artefact | Peer,
    datasets: Sequence[Dataset],
    settings: EvaluationSettings | None = None,
    name: str = "artefact",
    progress_bar: ProgressBar = no_bar,
) -> tuple[EvaluationReport, list[Search]]:
    """Return one model's report on some data sets, and the search of each set.

    Args:
        model: as `load_artefact` reads it, whose networks are moved to the device; or a ready-made
            one, which ranks by cosine.
        datasets: as `read_datasets` reads them.
        settings: what to measure; None is all rankings that the model offers.
        name: the name of the model in the report.
        progress_bar: shows how far the long steps are.

    Raises:
        InputProblem: where a set cannot be searched, or none of its people is held out, or
            where the model has no M-Net for a scoring that needs it, or a crop no feature.
    """
    settings = settings or EvaluationSettings()
    artefact = None if isinstance(model, Peer) else model
    about = model if isinstance(model, Peer) else model.description
    scorings = settings.scorings or (artefact.description.scorings if artefact else ["cosine"])
    if artefact is None and (settings.premise or "mnet" in scorings):
        raise InputProblem(
            f"{name}: a ready-made model has no M-Net; leave out --premise, and of --scoring all "
            f"but cosine and {RE_RANKED}"
        )
    if artefact is not None and "mnet" in scorings:
        artefact.require_metric_network(name)
    searches = [_search(dataset, about.provenance.held_out, settings) for dataset in datasets]
    if artefact is not None:
        artefact.on(settings.device)
    results = [
        _measure(model, dataset, search, scorings, progress_bar)
        for dataset, search in zip(datasets, searches, strict=True)
    ]
    split = "held-out" if settings.held_out else "all"
    report = build_report(name, about, split, results, settings.device)
    if artefact is not None and settings.premise:
        records = []
        for dataset, search in zip(datasets, searches, strict=True):
            records += showing_people(dataset.spec, search.records)
        premise = measure_premise(artefact, sample_identity_pairs(records))
        report = report.model_copy(update={"premise": premise})
    return report, searches


def build_report(
    name: str,
    about: Description | Peer,
    split: str,
    results: list[DatasetResult],
    device: torch.device,
    checkpoint: str = "",
) -> EvaluationReport:
    """Return the report of an artefact, or a ready-made model; `split` is `all` or `held-out`."""
    report = EvaluationReport(
        artefact=name,
        artefact_fingerprint=about.artefact_fingerprint,
        embedding_fingerprint=about.embedding_fingerprint,
        provenance=about.provenance,
        split=split,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        machine={
            "device": str(device),
            "processor": platform.machine(),
            "cores": str(os.cpu_count()),
            "torch": torch.__version__,
        },
        datasets=results,
        checkpoint=checkpoint,
    )
    if isinstance(about, Peer):
        return report
    architecture = {"embedder", "metric_network", "preprocessing"}
    return report.model_copy(
        update={
            "architecture": about.model_dump(mode="json", include=architecture),
            "calibration_data": about.calibration.data,
            "cost": _cost(about, results),
            "default_scoring": about.default_scoring,
        }
    )


def _cost(description: Description, results: Sequence[DatasetResult]) -> CostResult:
    embedder = embedder_cost(description.embedder, description.preprocessing)
    network = description.metric_network
    pair = None if network is None else pair_cost(description.embedder.dimension, network)
    crops = sum(result.crops for result in results)
    pairs = sum(result.queries * result.gallery for result in results)
    return CostResult(
        embedder_parameters=embedder.parameters,
        embedder_multiply_adds=embedder.multiply_adds,
        metric_network_parameters=pair.parameters if pair else 0,
        pair_multiply_adds=pair.multiply_adds if pair else 0,
        crops_per_second=_rate(crops, "embedding", results),
        pairs_per_second=_rate(pairs, "scoring", results),
    )


def _rate(count: int, step: str, results: Sequence[DatasetResult]) -> float | None:
    seconds = sum(result.seconds.get(step, 0.0) for result in results)
    return round(count / seconds, 1) if seconds > 0 else None


def _search(
    dataset: Dataset, held_out: Mapping[str, float], settings: EvaluationSettings
) -> Search:
    fewer = limit_test_identities(dataset, settings.people, held_out if settings.held_out else None)
    if settings.held_out:
        return held_out_people(fewer, held_out)
    return standard_search(fewer, settings.people)


def _measure(
    model: Artefact | Peer,
    dataset: Dataset,
    search: Search,
    scorings: Sequence[str],
    progress_bar: ProgressBar,
) -> DatasetResult:
    artefact = None if isinstance(model, Peer) else model
    seconds: dict[str, float] = {}
    with (
        timed(seconds, "embedding"),
        progress_bar(f"Embedding {dataset.name}", len(search.records)) as progress,
    ):
        if isinstance(model, Peer):
            embedded = model.embed(search.records, progress)
        else:
            preprocessing = model.description.preprocessing
            embedded = embed_records(
                model.embedder, preprocessing, search.records, progress=progress
            )
    features = SearchFeatures.of(search, embedded)
    network = None
    if artefact is not None and "mnet" in scorings:
        network = artefact.metric_network
    with ExitStack() as opened:
        with timed(seconds, "scoring") if network else nullcontext():
            scores = opened.enter_context(
                open_scores(network, features, search.labels(), progress_bar)
            )
        return evaluate_search(artefact, dataset, search, scorings, features, scores, seconds)
