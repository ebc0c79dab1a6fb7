"""From the scores of a search to the figures of its rankings."""

from __future__ import annotations

from collections.abc import Callable, Collection

import numpy as np

from model.calibration import ScoringCalibration
from training.evaluation.distributions import expected_calibration_error, score_distribution
from training.evaluation.intervals import Estimate, mean_intervals
from training.evaluation.metrics import PairLabels, QueryMetrics, ScoreRows, rank_queries
from training.evaluation.open_set import (
    detection_curve,
    half_enrolled,
    operating_points,
    search_extremes,
)
from training.evaluation.results import DepthResult, ScoringResult
from training.evaluation.scoring import reranked_rows
from training.evaluation.searches import RandomSplit, Search
from training.evaluation.verification import true_accept_rates

RERANK_DEPTHS = (10, 20, 50, 100, 200, 500, 1000)
PER_QUERY = (
    "average_precision",
    "average_precision_trapezoid",
    "inverse_negative_penalty",
    "first_rank",
)

RowsOf = Callable[[RandomSplit | None], ScoreRows]
"""The scores of a whole search, or of one split of it."""


def rank_search(search: Search, labels: PairLabels, rows_of: RowsOf) -> QueryMetrics:
    """Ranks a search; where its set is split at random, every split, the queries pooled.

    All splits have one number of queries, so that a mean over the pooled queries is the mean over
    the splits. A query is counted once for every split that it is in.
    """
    if not search.splits:
        return rank_queries(rows_of(None), labels)
    found = [
        rank_queries(rows_of(split), labels.part(split.queries, split.gallery))
        for split in search.splits
    ]
    pooled = {field: np.concatenate([getattr(one, field) for one in found]) for field in PER_QUERY}
    pooled["queries"] = np.concatenate(
        [split.queries[one.queries] for split, one in zip(search.splits, found, strict=True)]
    )
    return QueryMetrics(**pooled, not_counted=sum(one.not_counted for one in found))


def rows_of_split(rows: ScoreRows, split: RandomSplit | None) -> ScoreRows:
    """The rows and columns of one split; sets that are split at random are small ones."""
    if split is None:
        return rows
    scores = rows(slice(0, int(split.queries.max()) + 1))[np.ix_(split.queries, split.gallery)]
    return lambda own: scores[own]


def plain_result(metrics: QueryMetrics, labels: PairLabels, note: str = "") -> ScoringResult:
    """What any ranking has: its metrics, their intervals over queries and people, and the CMC.

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


def calibrated_result(
    rows: ScoreRows, search: Search, metrics: QueryMetrics, calibration: ScoringCalibration
) -> ScoringResult:
    """A pair score's metrics, and what its calibration promises against what it holds.

    Args:
        rows: of the search.
        search, metrics: what was ranked.
        calibration: the artefact's own.
    """
    labels = search.labels()
    extremes = search_extremes(rows, labels)
    rates, detected = detection_curve(extremes)
    return plain_result(metrics, labels).model_copy(
        update={
            "operating_points": operating_points(extremes, calibration),
            "detection_curve": list(zip(rates.tolist(), detected.tolist(), strict=True)),
            "distribution": score_distribution(rows, labels),
            "expected_calibration_error": expected_calibration_error(rows, labels, calibration),
            "verification": true_accept_rates(rows, labels),
            "half_enrolled": None if search.splits else half_enrolled(rows, labels),
        }
    )


def by_depth(
    search: Search, cosine: ScoreRows, mnet: ScoreRows, everything: QueryMetrics
) -> list[DepthResult]:
    """M-Net over the nearest `depth` by cosine, at ever larger depths up to the whole gallery.

    Args:
        search: what is ranked.
        cosine, mnet: its scores.
        everything: the metrics of M-Net's ranking of the whole gallery.
    """
    labels = search.labels()
    gallery = len((search.splits or (search,))[0].gallery)
    found = {}
    for depth in (depth for depth in RERANK_DEPTHS if depth < gallery):
        found[depth] = rank_search(
            search,
            labels,
            lambda split, depth=depth: reranked_rows(  # type: ignore[misc]
                rows_of_split(cosine, split), rows_of_split(mnet, split), depth
            ),
        )
    found[gallery] = everything
    means = {depth: metrics.means() for depth, metrics in found.items()}
    return [
        DepthResult(depth=depth, mAP=own["mAP"], rank_1=own["rank_1"])
        for depth, own in means.items()
    ]


def paired_differences(
    metrics: dict[str, QueryMetrics],
    labels: PairLabels,
    peers: Collection[str] = (),
    best: str = "cosine",
) -> dict[str, dict[str, Estimate]]:
    """Differences over the same queries, their intervals over people, by "one - other".

    Args:
        metrics: of every ranking of one search, by its name.
        labels: of the search.
        peers: names of the rankings by ready-made models.
        best: the artefact's ranking that each peer is compared with.

    Returns:
        The artefact's other rankings minus its cosine one, and `best` minus every peer.
    """
    pairs = [(name, "cosine") for name in metrics if name != "cosine" and name not in peers]
    pairs += [(best, peer) for peer in peers]
    found = {}
    for name, base in pairs:
        if name in metrics and base in metrics:
            theirs = metrics[base].values()
            apart = {
                metric: values - theirs[metric] for metric, values in metrics[name].values().items()
            }
            people = labels.query_identities[metrics[name].queries]
            found[f"{name} - {base}"] = mean_intervals(apart, people)
    return found
