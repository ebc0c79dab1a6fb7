"""Everything that is measured of an artefact, and of any peers, on one data set."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any, cast

import numpy as np

from model.artefact import Artefact
from model.calibration import SCORINGS, Scoring, ScoringCalibration
from training.datasets.record import Dataset
from training.evaluation.embedding import ProgressBar, SearchFeatures, embed_searches
from training.evaluation.intervals import Estimate, mean_intervals
from training.evaluation.k_reciprocal import k_reciprocal_rows
from training.evaluation.metrics import PairLabels, QueryMetrics, ScoreRows, rank_queries
from training.evaluation.open_set import (
    detection_curve,
    half_enrolled,
    operating_points,
    search_extremes,
)
from training.evaluation.peers import Peer
from training.evaluation.query_values import query_values
from training.evaluation.rank_lists import rank_lists
from training.evaluation.results import (
    DatasetResult,
    ScoringResult,
)
from training.evaluation.scoring import (
    SearchScores,
    cosine_rows,
    open_scores,
)
from training.evaluation.searches import RandomSplit, Search
from training.evaluation.verification import (
    expected_calibration_error,
    score_distribution,
    true_accept_rates,
)
from training.seen import seen_people

RE_RANKED = "k_reciprocal"
RANKINGS: tuple[str, ...] = (*SCORINGS, RE_RANKED)
NOTE = (
    "A distance that depends on the other candidates is no pair score: it has no probability and "
    "no operating points."
)
RowsOf = Callable[[RandomSplit | None], ScoreRows]
"""The scores of a whole search, or of one split of it."""


def needs_metric_network(scorings: Sequence[str]) -> bool:
    """Return whether any of these rankings is of M-Net's scores."""
    return bool({"mnet", "fused"} & set(scorings))


def evaluate_search(
    artefact: Artefact,
    dataset: Dataset,
    search: Search,
    scorings: Sequence[str],
    progress_bar: ProgressBar,
    peers: Sequence[Peer] = (),
    features: SearchFeatures | None = None,
    scores: SearchScores | None = None,
) -> DatasetResult:
    """Return everything there is to say about an artefact on one data set.

    Args:
        artefact: its networks may be on any device.
        dataset, search: what is searched.
        scorings: which rankings to measure, of `RANKINGS`.
        progress_bar: shows how far the long steps are.
        peers: other models to rank the same searches with, by cosine.
        features: of the search by this artefact's embedder, where they are known already.
        scores: of the search by this artefact's networks, where they are known already.

    Raises:
        InputProblem: naming a crop that cannot be read, or where no query has a true match.
    """
    seconds: dict[str, float] = {}
    if features is None:
        preprocessing = artefact.description.preprocessing
        only = {dataset.name: search}
        with timed(seconds, "embedding"):
            found = embed_searches(artefact.embedder, preprocessing, only, progress_bar)
        features = found[dataset.name]
    labels = search.labels()
    with ExitStack() as opened:
        if scores is None:
            network = artefact.require_metric_network() if needs_metric_network(scorings) else None
            with timed(seconds, "scoring") if network else nullcontext():
                scores = opened.enter_context(open_scores(network, features, labels, progress_bar))
        rows = {
            name: scores.rows(artefact.description.calibration.fusion, cast(Scoring, name))
            for name in scorings
            if name != RE_RANKED
        }
        metrics, results = _measure_rankings(artefact, search, features, rows, scorings, seconds)
        own = DatasetResult(
            **_described(artefact, dataset, search),
            not_counted=next(iter(metrics.values())).not_counted,
            scorings=results,
            rank_lists=rank_lists(search, rows, {name: metrics[name] for name in rows}),
        )
    beside: dict[str, ScoringResult] = {}
    for peer in peers:
        metrics[peer.name], beside[peer.name] = _measure_peer(peer, search, progress_bar, seconds)
    return own.model_copy(
        update={
            "peers": beside,
            "differences": paired_differences(
                metrics, labels, list(beside), artefact.description.default_scoring
            ),
            "seconds": {step: round(value, 3) for step, value in seconds.items()},
            "query_values": query_values(search, metrics),
        }
    )


def _measure_rankings(
    artefact: Artefact,
    search: Search,
    features: SearchFeatures,
    rows: Mapping[str, ScoreRows],
    scorings: Sequence[str],
    seconds: dict[str, float],
) -> tuple[dict[str, QueryMetrics], dict[str, ScoringResult]]:
    """Every ranking's metrics; pair scores are the ones with rows, and have a calibration."""
    metrics: dict[str, QueryMetrics] = {}
    results: dict[str, ScoringResult] = {}
    labels = search.labels()
    re_ranked = partial(_re_ranked, search, features)
    for name in scorings:
        of_split = partial(rows_of_split, rows[name]) if name in rows else re_ranked
        with timed(seconds, "ranking" if name in rows else "re-ranking"):
            metrics[name] = rank_search(search, of_split)
        results[name] = plain_result(metrics[name], labels, "" if name in rows else NOTE)
        if name in rows:
            fitted = artefact.description.calibration.scorings[cast(Scoring, name)]
            figures = _calibrated_figures(rows[name], search, fitted)
            results[name] = results[name].model_copy(update=figures)
    return metrics, results


def _described(artefact: Artefact, dataset: Dataset, search: Search) -> dict[str, Any]:
    """Return what is searched, and which of its people the artefact has seen."""
    seen = seen_people(artefact.description.provenance, artefact.training, dataset)
    own = {name: getattr(dataset, name) for name in ("name", "spec", "terms", "version")}
    return own | {
        "protocol": search.protocol,
        "queries": len(search.queries),
        "gallery": len(search.gallery),
        "identities": len({record.identity for record in search.records}),
        "crops": len(search.records),
        "splits": max(1, len(search.splits)),
        "seen_in_training": bool(seen.of(search)),
        "seen_identities": len(seen.of(search)),
        "seen_because": list(seen.reasons),
        "used_to_calibrate": search.held_out,
    }


@contextmanager
def timed(seconds: dict[str, float], step: str) -> Iterator[None]:
    """Adds the wall-clock time of the block to the step's seconds."""
    start = time.perf_counter()
    yield
    seconds[step] = seconds.get(step, 0.0) + time.perf_counter() - start


def rank_search(search: Search, rows_of: RowsOf) -> QueryMetrics:
    """Ranks a search; where its set is split at random, every split, the queries pooled.

    All splits have one number of queries, so that a mean over the pooled queries is the mean over
    the splits. A query is counted once for every split that it is in.
    """
    labels = search.labels()
    if not search.splits:
        return rank_queries(rows_of(None), labels)
    found = []
    for split in search.splits:
        one = rank_queries(rows_of(split), labels.part(split.queries, split.gallery))
        found.append(replace(one, queries=split.queries[one.queries]))
    return QueryMetrics.pooled(found)


def rows_of_split(rows: ScoreRows, split: RandomSplit | None) -> ScoreRows:
    """Return the rows and columns of one split; sets that are split at random are small ones."""
    if split is None:
        return rows
    scores = rows(slice(0, int(split.queries.max()) + 1))[np.ix_(split.queries, split.gallery)]
    return lambda own: scores[own]


def _re_ranked(search: Search, features: SearchFeatures, split: RandomSplit | None) -> ScoreRows:
    """Return the scores of k-reciprocal re-ranking, which order one search and no more."""
    queries, gallery = features
    if split is not None:
        queries = queries[split.queries]
        gallery = gallery[split.gallery]
    one_list = split is None and search.gallery is search.queries
    return k_reciprocal_rows(queries, gallery, one_list=one_list)


def plain_result(metrics: QueryMetrics, labels: PairLabels, note: str = "") -> ScoringResult:
    """Return the metrics of a ranking, their intervals over queries and people, and the CMC.

    A query that is in several random splits counts several times, so these have no interval over
    queries: both are over people.
    """
    values = metrics.values()
    over_people = mean_intervals(values, labels.query_identities[metrics.queries])
    pooled = len(np.unique(metrics.queries)) < len(metrics.queries)
    return ScoringResult(
        metrics=over_people if pooled else mean_intervals(values),
        cmc=metrics.cmc().tolist(),
        over_identities=over_people,
        note=note,
    )


def _calibrated_figures(
    rows: ScoreRows, search: Search, calibration: ScoringCalibration
) -> dict[str, Any]:
    """Return what the calibration of a pair score promises against what it holds."""
    labels = search.labels()
    extremes = search_extremes(rows, labels)
    return {
        "operating_points": operating_points(extremes, calibration),
        "detection_curve": detection_curve(extremes),
        "distribution": score_distribution(rows, labels),
        "expected_calibration_error": expected_calibration_error(rows, labels, calibration),
        "verification": true_accept_rates(rows, labels),
        "half_enrolled": None if search.splits else half_enrolled(rows, labels),
    }


def _measure_peer(
    peer: Peer, search: Search, progress_bar: ProgressBar, seconds: dict[str, float]
) -> tuple[QueryMetrics, ScoringResult]:
    """Return the ranking of another model, by cosine."""
    records = search.records
    labels = search.labels()
    with (
        timed(seconds, f"embedding {peer.name}"),
        progress_bar(f"Embedding with {peer.name}", len(records)) as bar,
    ):
        features = peer.embed(records, bar)
    cosine = cosine_rows(*SearchFeatures.of(search, features))
    metrics = rank_search(search, partial(rows_of_split, cosine))
    found = None if search.splits else half_enrolled(cosine, labels)
    return metrics, plain_result(metrics, labels).model_copy(update={"half_enrolled": found})


def paired_differences(
    metrics: dict[str, QueryMetrics],
    labels: PairLabels,
    peers: Sequence[str] = (),
    best: str = "cosine",
) -> dict[str, dict[str, Estimate]]:
    """The artefact's rankings less its cosine one, and `best` less every peer, by "one - other".

    The differences are over the same queries, their intervals over people.

    Args:
        metrics: of every ranking of one search, by its name.
        labels: of the search.
        peers: names of the rankings by ready-made models.
        best: the artefact's ranking that each peer is compared with, chosen on other people than
            these; where it is not measured, the cosine is.
    """
    pairs = [(name, "cosine") for name in metrics if name != "cosine" and name not in peers]
    pairs += [(best if best in metrics else "cosine", peer) for peer in peers]
    found = {}
    for name, base in pairs:
        if name in metrics and base in metrics:
            ours = metrics[name].values()
            theirs = metrics[base].values()
            apart = {metric: values - theirs[metric] for metric, values in ours.items()}
            people = labels.query_identities[metrics[name].queries]
            found[f"{name} - {base}"] = mean_intervals(apart, people)
    return found
