"""Measure an artefact or a ready-made model on data sets, and make its report."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch

from model.artefact import Artefact, Description
from model.problems import InputProblem
from training.cost import embedder_cost, pair_cost
from training.datasets.protocols import limit_test_identities
from training.datasets.record import Dataset
from training.datasets.registry import showing_people
from training.evaluation.centring import centre_search
from training.evaluation.embedding import ProgressBar, SearchFeatures, embed_searches, no_bar
from training.evaluation.evaluate_search import CENTRED, RE_RANKED, evaluate_search
from training.evaluation.likelihood import measure_halves
from training.evaluation.peers import Peer
from training.evaluation.premise import measure_premise, sample_identity_pairs
from training.evaluation.results import CostResult, DatasetResult, EvaluationReport
from training.evaluation.scoring import open_scores
from training.evaluation.searches import Search, held_out_people, standard_search
from training.provenance import current_time

CPU = torch.device("cpu")


def evaluate(
    model: Artefact | Peer,
    datasets: Sequence[Dataset],
    name: str = "artefact",
    *,
    scorings: Sequence[str] | None = None,
    held_out: bool = False,
    premise: bool = False,
    people: int | None = None,
    device: torch.device = CPU,
    progress_bar: ProgressBar = no_bar,
) -> tuple[EvaluationReport, list[Search]]:
    """Return a model's report on some data sets, and the search of each set.

    Args:
        model: an artefact, whose networks are moved to the device; or a ready-made model, which
            ranks by cosine.
        datasets: the data sets, as `read_datasets` returns them.
        name: the name of the model in the report.
        scorings: the rankings, some of `RANKINGS`; None for all scorings of the model.
        held_out: search for people that the artefact's training held out, instead of all people.
            For a ready-made model they are the people held out by default.
        premise: whether to measure the domain gap.
        people: the largest number of people of each set to search for; None is all.
        device: the device for the networks.
        progress_bar: shows the progress of long steps.

    Raises:
        InputProblem: a set cannot be searched, none of its people is held out, a crop cannot be
            read, or a ranking needs an M-Net that the model does not have.
    """
    artefact = None if isinstance(model, Peer) else model
    about = model if isinstance(model, Peer) else model.description
    rankings = scorings or (artefact.description.scorings if artefact else ["cosine"])
    if artefact is None and (premise or "mnet" in rankings):
        raise InputProblem(
            f"{name}: a ready-made model has no M-Net; leave out --premise, and use --scoring with "
            f"cosine, {CENTRED} and {RE_RANKED} only"
        )
    network = None
    if artefact is not None:
        artefact.embedder.to(device)
        if "mnet" in rankings:
            network = artefact.require_metric_network(name).to(device)
    searches = []
    for dataset in datasets:
        held_out_settings = about.provenance.held_out
        fewer = limit_test_identities(dataset, people, held_out_settings if held_out else None)
        search = (
            held_out_people(fewer, held_out_settings)
            if held_out
            else standard_search(fewer, people)
        )
        searches.append(search)
    results = []
    seconds = 0.0
    for dataset, search in zip(datasets, searches, strict=True):
        began = time.perf_counter()
        features = _embed(model, dataset.name, search, progress_bar)
        seconds += time.perf_counter() - began
        centred = centre_search(dataset, search, features) if CENTRED in rankings else None
        with (
            open_scores(network, features, search.labels(), progress_bar) as scores,
            progress_bar(f"Computing the figures of {dataset.name}", 0),
        ):
            result = evaluate_search(artefact, dataset, search, rankings, features, scores, centred)
        with progress_bar(f"Computing the likelihood ratios of {dataset.name}", 0):
            likelihoods = measure_halves(dataset, search, features, network, rankings)
            if centred is not None:
                of_centred = measure_halves(dataset, search, centred.features, None, ["cosine"])
                if "cosine" in of_centred:
                    likelihoods[CENTRED] = of_centred["cosine"]
        scored = {
            name: scoring.model_copy(update={"likelihood": likelihoods.get(name)})
            for name, scoring in result.scorings.items()
        }
        results.append(result.model_copy(update={"scorings": scored}))
    crops = sum(len(search.records) for search in searches)
    split = "held-out" if held_out else "all"
    report = build_report(name, about, split, results, device, crops / seconds)
    if artefact is not None and premise:
        records = []
        for dataset, search in zip(datasets, searches, strict=True):
            records += showing_people(dataset.spec, search.records)
        measured = measure_premise(artefact, sample_identity_pairs(records))
        report = report.model_copy(update={"premise": measured})
    return report, searches


def _embed(
    model: Artefact | Peer,
    dataset: str,
    search: Search,
    progress_bar: ProgressBar,
) -> SearchFeatures:
    if isinstance(model, Artefact):
        size = model.description.preprocessing
        embedded = embed_searches(model.embedder, size, {dataset: search}, progress_bar)
        return embedded[dataset]
    with progress_bar(f"Embedding {dataset}", len(search.records)) as progress:
        return SearchFeatures.of(search, model.embed(search.records, progress))


def build_report(
    name: str,
    about: Description | Peer,
    split: str,
    results: list[DatasetResult],
    device: torch.device,
    images_per_second: float,
    checkpoint: str = "",
) -> EvaluationReport:
    """Make the report of an artefact or a ready-made model; `split` is `all` or `held-out`."""
    artefact_fields: dict[str, Any] = {}
    if isinstance(about, Description):
        architecture = {"embedder", "metric_network", "preprocessing"}
        artefact_fields = {
            "architecture": about.model_dump(mode="json", include=architecture),
            "calibration_data": about.calibration.data,
            "cost": _cost(about),
        }
    return EvaluationReport(
        artefact=name,
        artefact_fingerprint=about.artefact_fingerprint,
        embedding_fingerprint=about.embedding_fingerprint,
        provenance=about.provenance,
        split=split,
        created_at=current_time(),
        machine={
            "device": str(device),
            "torch": torch.__version__,
        },
        images_per_second=round(images_per_second, 1),
        datasets=results,
        checkpoint=checkpoint,
        **artefact_fields,
    )


def _cost(description: Description) -> CostResult:
    embedder = embedder_cost(description.embedder, description.preprocessing)
    network = description.metric_network
    pair = None if network is None else pair_cost(description.embedder.dimension, network)
    return CostResult(
        embedder_parameters=embedder.parameters,
        embedder_multiply_adds=embedder.multiply_adds,
        metric_network_parameters=pair.parameters if pair else 0,
        pair_multiply_adds=pair.multiply_adds if pair else 0,
    )
