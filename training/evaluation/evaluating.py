"""Measures an artefact, and any peers, on one data set: embed, score, rank, count false alarms."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime

import numpy as np
import torch
from numpy.typing import NDArray

from model.artefact import Artefact, Description
from model.calibration import Scoring
from training.datasets.record import Dataset
from training.evaluation.cost import network_cost, time_depths
from training.evaluation.embedding import Progress, SearchFeatures, embed_search
from training.evaluation.measuring import (
    by_depth,
    calibrated_result,
    differences_to_cosine,
    plain_result,
)
from training.evaluation.peers import Peer
from training.evaluation.protocols import Search
from training.evaluation.query_values import query_values
from training.evaluation.rank_lists import rank_lists
from training.evaluation.ranking import QueryMetrics, ScoreRows, rank_queries
from training.evaluation.results import (
    DatasetResult,
    DepthResult,
    EvaluationReport,
    ScoringResult,
)
from training.evaluation.scoring import cosine_rows, fused_rows, mnet_rows

ProgressBar = Callable[[str, int], AbstractContextManager[Progress]]
"""From a description and a total to a bar; see `training.commands.progress`."""


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
    scorings: Sequence[Scoring],
    peers: Sequence[Peer],
    progress_bar: ProgressBar,
    features: SearchFeatures | None = None,
) -> DatasetResult:
    """Everything there is to say about an artefact on one data set.

    Args:
        artefact: its networks may be on any device.
        dataset: where the searches come from.
        search: the queries and the gallery.
        scorings: which rankings to measure.
        peers: other models to rank the same searches with, by cosine.
        progress_bar: shows how far the long steps are.
        features: of the search by this artefact's embedder, where they are known already.

    Raises:
        InputProblem: naming a crop that cannot be read, or where no query has a true match.
    """
    watch = Stopwatch()
    labels = search.labels()
    records = search.records
    if features is None:
        with (
            watch.measure("embedding"),
            progress_bar(f"Embedding {dataset.name}", len(records)) as bar,
        ):
            features = embed_search(
                artefact.embedder, artefact.description.preprocessing, search, bar
            )
    queries, gallery = features
    rows: dict[str, ScoreRows] = {"cosine": cosine_rows(queries, gallery)}
    calibration = artefact.description.calibration
    metrics: dict[str, QueryMetrics] = {}
    results: dict[str, ScoringResult] = {}
    depths: list[DepthResult] = []
    with _mnet(artefact, queries, gallery, scorings, dataset.name, progress_bar, watch) as learnt:
        if learnt:
            rows["mnet"] = learnt
            rows["fused"] = fused_rows(calibration.fusion, rows["cosine"], learnt)
        for scoring in scorings:
            with watch.measure("ranking"):
                metrics[scoring] = rank_queries(rows[scoring], labels)
            results[scoring] = calibrated_result(
                rows[scoring], labels, metrics[scoring], calibration.scorings[scoring]
            )
        if "mnet" in scorings:
            depths = time_depths(
                by_depth(rows["cosine"], rows["mnet"], labels),
                artefact.metric_network,
                queries,
                gallery,
            )
        lists = rank_lists(search, rows, metrics) if metrics else []
    peer_results = {}
    for peer in peers:
        with (
            watch.measure(f"embedding {peer.name}"),
            progress_bar(f"Embedding with {peer.name}", len(records)) as bar,
        ):
            others = peer.embed(records, bar)
        ranked = rank_queries(
            cosine_rows(others[: len(search.queries)], others[-len(search.gallery) :]), labels
        )
        metrics[peer.name] = ranked
        peer_results[peer.name] = plain_result(ranked)
    some = next(iter(metrics.values()))
    trained_on = {data.name for data in artefact.description.provenance.data}
    return DatasetResult(
        name=dataset.name,
        spec=dataset.spec,
        terms=dataset.terms,
        protocol=search.protocol,
        queries=len(search.queries),
        gallery=len(search.gallery),
        identities=len({record.identity for record in records}),
        seen_in_training=(
            dataset.name in trained_on
            and not search.held_out
            and any(record.split in (None, "train") for record in records)
        ),
        used_to_calibrate=search.held_out,
        not_counted=some.not_counted,
        scorings=results,
        differences=differences_to_cosine(metrics),
        rerank_depths=depths,
        peers=peer_results,
        seconds={step: round(seconds, 3) for step, seconds in watch.seconds.items()},
        crops=len(records),
        rank_lists=lists,
        query_values=query_values(search, metrics),
    )


@contextmanager
def _mnet(
    artefact: Artefact,
    queries: NDArray[np.float32],
    gallery: NDArray[np.float32],
    scorings: Sequence[Scoring],
    name: str,
    progress_bar: ProgressBar,
    watch: Stopwatch,
) -> Iterator[ScoreRows | None]:
    """M-Net's scores where a scoring needs them."""
    if not {"mnet", "fused"} & set(scorings):
        yield None
        return
    start = time.perf_counter()
    with (
        progress_bar(f"Scoring {name}", len(queries)) as bar,
        mnet_rows(artefact.metric_network, queries, gallery, bar) as rows,
    ):
        watch.seconds["scoring"] = time.perf_counter() - start
        yield rows


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
    )
