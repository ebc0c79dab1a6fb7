"""Everything that is measured of an artefact, and of any peers, on one data set."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from typing import NamedTuple, cast

from model.artefact import Artefact
from model.calibration import SCORINGS, Scoring
from training.datasets.record import Dataset
from training.evaluation.embedding import (
    ProgressBar,
    SearchFeatures,
    embed_search,
)
from training.evaluation.k_reciprocal import k_reciprocal_rows
from training.evaluation.measuring import (
    by_depth,
    calibrated_result,
    paired_differences,
    plain_result,
    rank_search,
    rows_of_split,
)
from training.evaluation.metrics import QueryMetrics, ScoreRows
from training.evaluation.multi_shot import Pooling, multi_shot_result
from training.evaluation.open_set import half_enrolled
from training.evaluation.pair_scores import SearchScores, open_scores
from training.evaluation.peers import Peer
from training.evaluation.query_values import query_values
from training.evaluation.rank_lists import rank_lists
from training.evaluation.results import (
    DatasetResult,
    DepthResult,
    MultiShotResult,
    RankList,
    ScoringResult,
)
from training.evaluation.scoring import cosine_rows
from training.evaluation.searches import RandomSplit, Search
from training.seen import seen_people

RE_RANKED = "k_reciprocal"
RANKINGS: tuple[str, ...] = (*SCORINGS, RE_RANKED)
NOTE = (
    "A distance that depends on the other candidates is no pair score: it has no probability and "
    "no operating points."
)


def needs_metric_network(scorings: Sequence[str]) -> bool:
    """Whether any of these rankings is of M-Net's scores."""
    return bool({"mnet", "fused"} & set(scorings))


def evaluate_search(
    artefact: Artefact,
    dataset: Dataset,
    search: Search,
    scorings: Sequence[str],
    progress_bar: ProgressBar,
    peers: Sequence[Peer] = (),
    features: SearchFeatures | None = None,
    multi_shot: Pooling | None = None,
    mnet: ScoreRows | None = None,
) -> DatasetResult:
    """Everything there is to say about an artefact on one data set.

    Args:
        artefact: its networks may be on any device.
        dataset: where the searches come from.
        search: the queries and the gallery.
        scorings: which rankings to measure, of `RANKINGS`.
        progress_bar: shows how far the long steps are.
        peers: other models to rank the same searches with, by cosine.
        features: of the search by this artefact's embedder, where they are known already.
        multi_shot: measure multi-shot queries too, their scores pooled so.
        mnet: M-Net's scores of the search, where they are known already.

    Raises:
        InputProblem: naming a crop that cannot be read, or where no query has a true match.
    """
    watch = Stopwatch()
    if features is None:
        with (
            watch.measure("embedding"),
            progress_bar(f"Embedding {dataset.name}", len(search.records)) as bar,
        ):
            preprocessing = artefact.description.preprocessing
            features = embed_search(artefact.embedder, preprocessing, search, bar)
    network = artefact.require_metric_network() if needs_metric_network(scorings) else None
    with ExitStack() as opened:
        scoring = watch.measure("scoring") if network and mnet is None else nullcontext()
        with scoring:
            scores = opened.enter_context(
                open_scores(network, features, search.labels(), progress_bar, mnet=mnet)
            )
        own = _measure(artefact, search, features, scores, scorings, multi_shot, watch)
    beside = {peer.name: _measure_peer(peer, search, progress_bar, watch) for peer in peers}
    return _result(artefact, dataset, search, own, beside, watch)


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


class OwnRankings(NamedTuple):
    """What an artefact's rankings of one search gave, by the ranking's name."""

    metrics: dict[str, QueryMetrics]
    results: dict[str, ScoringResult]
    depths: list[DepthResult]
    lists: list[RankList]
    several: MultiShotResult | None


def _measure(
    artefact: Artefact,
    search: Search,
    features: SearchFeatures,
    scores: SearchScores,
    scorings: Sequence[str],
    multi_shot: Pooling | None,
    watch: Stopwatch,
) -> OwnRankings:
    """The artefact's rankings; those of pair scores with probabilities and operating points."""
    labels, calibration = search.labels(), artefact.description.calibration
    metrics: dict[str, QueryMetrics] = {}
    results: dict[str, ScoringResult] = {}
    rows: dict[str, ScoreRows] = {}
    for name in scorings:
        if name == RE_RANKED:
            with watch.measure("re-ranking"):
                metrics[name] = rank_search(search, labels, partial(_re_ranked, search, features))
            results[name] = plain_result(metrics[name], labels, NOTE)
            continue
        pair_scoring = cast(Scoring, name)
        rows[name] = scores.rows(calibration.fusion, pair_scoring)
        with watch.measure("ranking"):
            metrics[name] = rank_search(search, labels, partial(rows_of_split, rows[name]))
        fitted = calibration.scorings[pair_scoring]
        results[name] = calibrated_result(rows[name], search, metrics[name], fitted)
    return OwnRankings(
        metrics,
        results,
        depths=by_depth(search, scores.cosine, rows["mnet"], metrics["mnet"])
        if "mnet" in rows
        else [],
        lists=rank_lists(search, rows, {name: metrics[name] for name in rows}),
        several=multi_shot_result(labels, features, rows, multi_shot)
        if multi_shot and rows and not search.splits
        else None,
    )


def _re_ranked(search: Search, features: SearchFeatures, split: RandomSplit | None) -> ScoreRows:
    """The scores of k-reciprocal re-ranking, which order one search and no more."""
    queries, gallery = features
    if split is not None:
        queries, gallery = queries[split.queries], gallery[split.gallery]
    one_list = split is None and search.gallery is search.queries
    return k_reciprocal_rows(queries, gallery, one_list=one_list)


def _measure_peer(
    peer: Peer, search: Search, progress_bar: ProgressBar, watch: Stopwatch
) -> tuple[QueryMetrics, ScoringResult]:
    """The ranking of another model, by cosine."""
    records, labels = search.records, search.labels()
    with (
        watch.measure(f"embedding {peer.name}"),
        progress_bar(f"Embedding with {peer.name}", len(records)) as bar,
    ):
        features = peer.embed(records, bar)
    cosine = cosine_rows(features[: len(search.queries)], features[-len(search.gallery) :])
    metrics = rank_search(search, labels, partial(rows_of_split, cosine))
    found = None if search.splits else half_enrolled(cosine, labels)
    return metrics, plain_result(metrics, labels).model_copy(update={"half_enrolled": found})


def _result(
    artefact: Artefact,
    dataset: Dataset,
    search: Search,
    own: OwnRankings,
    peers: dict[str, tuple[QueryMetrics, ScoringResult]],
    watch: Stopwatch,
) -> DatasetResult:
    metrics = own.metrics | {name: found for name, (found, _) in peers.items()}
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
        differences=paired_differences(metrics, search.labels(), list(peers), best),
        rerank_depths=own.depths,
        peers={name: result for name, (_, result) in peers.items()},
        seconds={step: round(seconds, 3) for step, seconds in watch.seconds.items()},
        crops=len(search.records),
        rank_lists=own.lists,
        query_values=query_values(search, metrics),
        multi_shot=own.several,
        splits=max(1, len(search.splits)),
        version=dataset.version,
    )
