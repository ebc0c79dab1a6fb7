"""From rows of scores to the figures of one ranking."""

from __future__ import annotations

import numpy as np

from model.calibration import ScoringCalibration
from training.evaluation.distributions import expected_calibration_error, score_distribution
from training.evaluation.intervals import difference_interval
from training.evaluation.open_set import (
    detection_curve,
    operating_point_figures,
    search_extremes,
)
from training.evaluation.ranking import PairLabels, QueryMetrics, ScoreRows, rank_queries
from training.evaluation.results import DepthResult, Figure, OperatingPointResult, ScoringResult
from training.evaluation.scoring import reranked_rows

RERANK_DEPTHS = (10, 20, 50, 100, 200, 500, 1000)


def plain_result(metrics: QueryMetrics) -> ScoringResult:
    """What any ranking has: its metrics with intervals, and the CMC."""
    return ScoringResult(
        metrics={name: Figure.over(values) for name, values in metrics.values().items()},
        cmc=metrics.cmc().tolist(),
    )


def calibrated_result(
    rows: ScoreRows, labels: PairLabels, metrics: QueryMetrics, calibration: ScoringCalibration
) -> ScoringResult:
    """A pair score's metrics, and what its calibration promises against what it holds."""
    extremes = search_extremes(rows, labels)
    rates, detected = detection_curve(extremes)
    usual_size = int(np.median(extremes.impostors))
    points = [
        OperatingPointResult(
            name=point.name,
            asked=point.asked,
            threshold=calibration.search_threshold(point.asked, usual_size),
            false_alarm_rate=Figure.of(point.false_alarm_rate),
            detection_rate=Figure.of(point.detection_rate),
        )
        for point in operating_point_figures(extremes, calibration)
    ]
    return plain_result(metrics).model_copy(
        update={
            "operating_points": points,
            "detection_curve": list(zip(rates.tolist(), detected.tolist(), strict=True)),
            "distribution": score_distribution(rows, labels),
            "expected_calibration_error": expected_calibration_error(rows, labels, calibration),
        }
    )


def by_depth(cosine: ScoreRows, mnet: ScoreRows, labels: PairLabels) -> list[DepthResult]:
    """M-Net over the nearest `depth` by cosine, at ever larger depths up to the whole gallery."""
    gallery = len(labels.gallery_identities)
    found = []
    for depth in (*(depth for depth in RERANK_DEPTHS if depth < gallery), gallery):
        means = rank_queries(reranked_rows(cosine, mnet, depth), labels).means()
        found.append(DepthResult(depth=depth, mAP=means["mAP"], rank_1=means["rank_1"]))
    return found


def differences_to_cosine(metrics: dict[str, QueryMetrics]) -> dict[str, dict[str, Figure]]:
    """Every other ranking minus the cosine one, over the same queries."""
    if "cosine" not in metrics:
        return {}
    base = metrics["cosine"].values()
    return {
        f"{name} - cosine": {
            metric: Figure.of(difference_interval(values, base[metric]))
            for metric, values in other.values().items()
        }
        for name, other in metrics.items()
        if name != "cosine"
    }
