"""Measures an artefact, and any peers, on one data set: embed, score, rank, count false alarms."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from typing import NamedTuple, cast

import torch

from model.artefact import Artefact, Description
from model.calibration import Scoring
from training.datasets.record import Dataset
from training.evaluation.cost import network_cost, time_depths
from training.evaluation.embedding import ProgressBar, SearchFeatures, embed_search
from training.evaluation.measuring import (
    by_depth,
    calibrated_result,
    paired_differences,
    plain_result,
    with_half_enrolled,
)
from training.evaluation.multi_shot import Pooling, multi_shot_result
from training.evaluation.peers import Peer
from training.evaluation.protocols import Search
from training.evaluation.query_values import query_values
from training.evaluation.rank_lists import rank_lists
from training.evaluation.ranking import PairLabels, QueryMetrics, ScoreRows
from training.evaluation.results import (
    DatasetResult,
    DepthResult,
    EvaluationReport,
    MultiShotResult,
    RankList,
    ScoringResult,
)
from training.evaluation.scoring import cosine_rows
from training.evaluation.searching import (
    NOTE,
    RE_RANKED,
    Rankings,
    open_rankings,
    rank_search,
    rows_of_split,
)
from training.seen import seen_people


class Stopwatch:
    """Wall-clock seconds by the name of a step."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def measure(self, step: str) -> Iterator[None]:
        """Adds the time of the block to the step."""
        start = time.perf_counter()
        yield
        self.seconds[step] = self.seconds.get(step, 0.0) + time.perf_counter() - start


def evaluate_search(
    artefact: Artefact,
    dataset: Dataset,
    search: Search,
    scorings: Sequence[str],
    peers: Sequence[Peer],
    progress_bar: ProgressBar,
    features: SearchFeatures | None = None,
    multi_shot: Pooling | None = None,
    mnet: ScoreRows | None = None,
) -> DatasetResult:
    """Everything there is to say about an artefact on one data set.

    Args:
        artefact: its networks may be on any device.
        dataset: where the searches come from.
        search: the queries and the gallery.
        scorings: which rankings to measure, of `searching.RANKINGS`.
        peers: other models to rank the same searches with, by cosine.
        progress_bar: shows how far the long steps are.
        features: of the search by this artefact's embedder, where they are known already.
        multi_shot: measure multi-shot queries too, their scores pooled so.
        mnet: M-Net's scores of the search, where they are known already.

    Raises:
        InputProblem: naming a crop that cannot be read, or where no query has a true match.
    """
    watch = Stopwatch()
    labels = search.labels()
    if features is None:
        with (
            watch.measure("embedding"),
            progress_bar(f"Embedding {dataset.name}", len(search.records)) as bar,
        ):
            features = embed_search(
                artefact.embedder, artefact.description.preprocessing, search, bar
            )
    with open_rankings(
        artefact, search, labels, features, scorings, progress_bar, watch.seconds, mnet
    ) as rankings:
        own = _measure_artefact(
            artefact, search, labels, features, rankings, scorings, watch, multi_shot
        )
    others = _measure_peers(peers, search, labels, progress_bar, watch)
    return _dataset_result(artefact, dataset, search, labels, own, others, watch)


class _OwnMeasures(NamedTuple):
    """What an artefact's rankings of one search gave, by the ranking's name."""

    metrics: dict[str, QueryMetrics]
    results: dict[str, ScoringResult]
    depths: list[DepthResult]
    lists: list[RankList]
    several: MultiShotResult | None


class _PeerMeasures(NamedTuple):
    """What the rankings of other models gave, by the model's name."""

    metrics: dict[str, QueryMetrics]
    results: dict[str, ScoringResult]


def _measure_artefact(
    artefact: Artefact,
    search: Search,
    labels: PairLabels,
    features: SearchFeatures,
    rankings: Rankings,
    scorings: Sequence[str],
    watch: Stopwatch,
    multi_shot: Pooling | None,
) -> _OwnMeasures:
    """The artefact's rankings; those of pair scores with probabilities and operating points."""
    calibration = artefact.description.calibration
    metrics: dict[str, QueryMetrics] = {}
    results: dict[str, ScoringResult] = {}
    for scoring in scorings:
        with watch.measure("re-ranking" if scoring in RE_RANKED else "ranking"):
            metrics[scoring] = rankings.rank(scoring)
        if scoring in RE_RANKED:
            results[scoring] = plain_result(metrics[scoring], labels, NOTE)
            continue
        rows = rankings.pair_scores[scoring]
        results[scoring] = calibrated_result(
            rows, labels, metrics[scoring], calibration.scorings[cast(Scoring, scoring)]
        )
        if not search.splits:
            results[scoring] = with_half_enrolled(results[scoring], rows, labels)
    depths: list[DepthResult] = []
    if "mnet" in scorings:
        depths = time_depths(
            by_depth(search, labels, rankings), artefact.require_metric_network(), *features
        )
    compared = {name: own for name, own in metrics.items() if name not in RE_RANKED}
    own_rows = {name: rankings.pair_scores[name] for name in compared}
    several = None
    if multi_shot and own_rows and not search.splits:
        several = multi_shot_result(labels, features, own_rows, multi_shot)
    lists = rank_lists(search, own_rows, compared)
    return _OwnMeasures(metrics, results, depths, lists, several)


def _measure_peers(
    peers: Sequence[Peer],
    search: Search,
    labels: PairLabels,
    progress_bar: ProgressBar,
    watch: Stopwatch,
) -> _PeerMeasures:
    """The rankings of other models, by cosine."""
    records, measured = search.records, _PeerMeasures({}, {})
    for peer in peers:
        with (
            watch.measure(f"embedding {peer.name}"),
            progress_bar(f"Embedding with {peer.name}", len(records)) as bar,
        ):
            features = peer.embed(records, bar)
        cosine = cosine_rows(features[: len(search.queries)], features[-len(search.gallery) :])
        metrics = rank_search(search, labels, partial(rows_of_split, cosine))
        result = plain_result(metrics, labels)
        measured.metrics[peer.name] = metrics
        measured.results[peer.name] = (
            result if search.splits else with_half_enrolled(result, cosine, labels)
        )
    return measured


def _dataset_result(
    artefact: Artefact,
    dataset: Dataset,
    search: Search,
    labels: PairLabels,
    own: _OwnMeasures,
    peers: _PeerMeasures,
    watch: Stopwatch,
) -> DatasetResult:
    metrics = own.metrics | peers.metrics
    # Chosen on other people than these: the artefact names it.
    best: str = artefact.description.default_scoring
    best = best if best in own.metrics else "cosine"
    seen = seen_people(artefact.description.provenance, artefact.training, dataset)
    return DatasetResult(
        name=dataset.name,
        spec=dataset.spec,
        terms=dataset.terms,
        protocol=search.protocol,
        queries=len(search.queries),
        gallery=len(search.gallery),
        identities=len({record.identity for record in search.records}),
        seen_in_training=bool(seen.of(search)),
        seen_identities=len(seen.of(search)),
        seen_because=list(seen.reasons),
        used_to_calibrate=search.held_out,
        not_counted=next(iter(metrics.values())).not_counted,
        scorings=own.results,
        differences=paired_differences(metrics, labels, list(peers.metrics), best),
        rerank_depths=own.depths,
        peers=peers.results,
        seconds={step: round(seconds, 3) for step, seconds in watch.seconds.items()},
        crops=len(search.records),
        rank_lists=own.lists,
        query_values=query_values(search, metrics),
        multi_shot=own.several,
        splits=max(1, len(search.splits)),
        version=dataset.version,
    )


def build_report(
    name: str,
    description: Description,
    split: str,
    results: list[DatasetResult],
    device: torch.device,
) -> EvaluationReport:
    """The report of one evaluation.

    Args:
        name: what the artefact was called on the command line.
        description: the artefact's.
        split: `all` or `held-out`.
        results: one per data set.
        device: where the networks ran.
    """
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
        cost=network_cost(description, results),
        default_scoring=description.default_scoring,
    )
