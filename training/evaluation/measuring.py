"""From rows of scores to the figures of one ranking."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial

import numpy as np

from model.calibration import ScoringCalibration
from training.evaluation.distributions import expected_calibration_error, score_distribution
from training.evaluation.half_enrolled import FALSE_ALARM_RATE, half_enrolled
from training.evaluation.intervals import Estimate, mean_intervals
from training.evaluation.open_set import (
    SearchExtremes,
    detection_curve,
    operating_point_figures,
    search_extremes,
)
from training.evaluation.protocols import RandomSplit, Search
from training.evaluation.ranking import PairLabels, QueryMetrics, ScoreRows
from training.evaluation.results import (
    DepthResult,
    HalfEnrolledResult,
    OperatingPointResult,
    ScoringResult,
)
from training.evaluation.scoring import reranked_rows
from training.evaluation.searching import Rankings, rank_search
from training.evaluation.verification import true_accept_rates

RERANK_DEPTHS = (10, 20, 50, 100, 200, 500, 1000)


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
    rows: ScoreRows,
    labels: PairLabels,
    metrics: QueryMetrics,
    calibration: ScoringCalibration,
) -> ScoringResult:
    """A pair score's metrics, and what its calibration promises against what it holds.

    Args:
        rows, labels, metrics: of the search.
        calibration: the artefact's own.
    """
    extremes = search_extremes(rows, labels)
    rates, detected = detection_curve(extremes)
    return plain_result(metrics, labels).model_copy(
        update={
            "operating_points": _operating_points(extremes, calibration),
            "detection_curve": list(zip(rates.tolist(), detected.tolist(), strict=True)),
            "distribution": score_distribution(rows, labels),
            "expected_calibration_error": expected_calibration_error(rows, labels, calibration),
            "verification": true_accept_rates(rows, labels),
        }
    )


def with_half_enrolled(result: ScoringResult, rows: ScoreRows, labels: PairLabels) -> ScoringResult:
    """The result with its open-set figure where half of the people are enrolled."""
    found = half_enrolled(rows, labels)
    if found is None:
        return result
    figure = HalfEnrolledResult(
        enrolled=found.enrolled,
        false_alarm_rate=FALSE_ALARM_RATE,
        detection_rate=found.detection_rate,
    )
    return result.model_copy(update={"half_enrolled": figure})


def _operating_points(
    extremes: SearchExtremes, calibration: ScoringCalibration
) -> list[OperatingPointResult]:
    usual_size = int(np.median(extremes.impostors))
    return [
        OperatingPointResult(
            name=point.name,
            asked=point.asked,
            threshold=calibration.search_threshold(point.asked, usual_size),
            false_alarm_rate=point.false_alarm_rate,
            detection_rate=point.detection_rate,
        )
        for point in operating_point_figures(extremes, calibration)
    ]


def by_depth(search: Search, labels: PairLabels, rankings: Rankings) -> list[DepthResult]:
    """M-Net over the nearest `depth` by cosine, at ever larger depths up to the whole gallery."""
    gallery = len(labels.gallery_identities)
    if search.splits:
        gallery = len(search.splits[0].gallery)
    found = []
    for depth in (depth for depth in RERANK_DEPTHS if depth < gallery):
        rows_of = partial(_reranked, rankings, depth)
        means = rank_search(search, labels, rows_of).means()
        found.append(DepthResult(depth=depth, mAP=means["mAP"], rank_1=means["rank_1"]))
    everything = rankings.rank("mnet").means()
    found.append(DepthResult(depth=gallery, mAP=everything["mAP"], rank_1=everything["rank_1"]))
    return found


def _reranked(rankings: Rankings, depth: int, split: RandomSplit | None) -> ScoreRows:
    return reranked_rows(rankings.rows("cosine", split), rankings.rows("mnet", split), depth)


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
            ours, theirs = metrics[name].values(), metrics[base].values()
            apart = {metric: values - theirs[metric] for metric, values in ours.items()}
            people = labels.query_identities[metrics[name].queries]
            found[f"{name} - {base}"] = mean_intervals(apart, people)
    return found
