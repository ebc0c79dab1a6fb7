"""What an evaluation found, as it is written to `report.json` and printed by `--json`."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from model.artefact import Provenance
from training.evaluation.intervals import Interval, mean_interval


class Figure(BaseModel):
    """A mean over queries and its 95% bootstrap interval."""

    model_config = ConfigDict(frozen=True)

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, interval: Interval) -> Figure:
        """The same numbers, as they are written."""
        return cls(mean=interval.mean, low=interval.low, high=interval.high)

    @classmethod
    def over(cls, values: NDArray[np.float64]) -> Figure:
        """The mean of per-query values, `(N,)`; the interval is over queries."""
        return cls.of(mean_interval(values))


class OperatingPointResult(BaseModel):
    """Asked against obtained false-alarm rate of searches, and the share of people found."""

    model_config = ConfigDict(frozen=True)

    name: str
    asked: float
    threshold: float
    false_alarm_rate: Figure
    detection_rate: Figure


class ScoreDistribution(BaseModel):
    """Histograms of cross-camera pairs' scores; `edges` has one number more than either count."""

    model_config = ConfigDict(frozen=True)

    edges: list[float]
    genuine: list[int]
    impostor: list[int]


class VerificationResult(BaseModel):
    """One operating point of comparing two crops: TAR@FAR.

    Attributes:
        asked: the share of impostor pairs that may be accepted.
        threshold: the lowest score that is accepted.
        false_accept_rate: the share of impostor pairs that is, at most what was asked.
        true_accept_rate: the share of genuine pairs that is; its interval is over identities.
    """

    model_config = ConfigDict(frozen=True)

    asked: float
    threshold: float
    false_accept_rate: float
    true_accept_rate: Figure


class ScoringResult(BaseModel):
    """One ranking of one data set.

    Attributes:
        metrics: mAP (step), mAP_trapezoid, mINP, rank_1, rank_5, rank_10; 0 to 1.
        cmc: share of queries with a true match at rank 1, 2, … or better.
        operating_points: of searches; empty for a peer, which has no calibration.
        detection_curve: pairs of false-alarm rate and detection rate.
        distribution: of scores; None for a peer.
        expected_calibration_error: of the pair probability, genuine and impostor pairs weighing
            one half each; None for a peer.
        over_identities: the metrics again, their intervals over identities, whose queries are
            alike: the wider and more honest ones.
        verification: TAR@FAR, at every rate that the number of impostor pairs can show.
        note: what else a reader must know of this ranking.
    """

    model_config = ConfigDict(frozen=True)

    metrics: dict[str, Figure]
    cmc: list[float]
    operating_points: list[OperatingPointResult] = []
    detection_curve: list[tuple[float, float]] = []
    distribution: ScoreDistribution | None = None
    expected_calibration_error: float | None = None
    over_identities: dict[str, Figure] = {}
    verification: list[VerificationResult] = []
    note: str = ""


class DepthResult(BaseModel):
    """Ranking by M-Net of the nearest `depth` by cosine; the others follow in cosine order."""

    model_config = ConfigDict(frozen=True)

    depth: int
    mAP: float  # noqa: N815 - the field's name for it
    rank_1: float


class MultiShotResult(BaseModel):
    """The same search with all crops of a person under one camera as one query.

    Attributes:
        how: `mean` or `max`, of a person's scores; cosine compares their mean feature.
        queries: number of such queries.
        crops_per_query: how many crops a query has, on average.
    """

    model_config = ConfigDict(frozen=True)

    how: str
    queries: int
    crops_per_query: float
    scorings: dict[str, ScoringResult]


class DatasetResult(BaseModel):
    """Everything measured on one data set.

    Attributes:
        seen_in_training: some of these people may have been in the artefact's training.
        used_to_calibrate: the people are those held out, on whom the artefact was calibrated.
        not_counted: queries without a true match under another camera.
        differences: by `mnet - cosine`, the paired difference of each metric over the queries.
        seconds: wall-clock time by step; `embedding` and `scoring` hold what their names say,
            `ranking` the rest up to the metrics, cosine similarities included.
        multi_shot: beside the single-shot figures, where it was asked for.
        splits: over how many random splits the ranking metrics are pooled; 1 is the set itself.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    spec: str
    terms: str
    protocol: str
    queries: int
    gallery: int
    identities: int
    seen_in_training: bool
    used_to_calibrate: bool
    not_counted: int
    scorings: dict[str, ScoringResult]
    differences: dict[str, dict[str, Figure]]
    rerank_depths: list[DepthResult]
    peers: dict[str, ScoringResult]
    seconds: dict[str, float]
    multi_shot: MultiShotResult | None = None
    splits: int = 1


class EvaluationReport(BaseModel):
    """One run of `gmn evaluate`."""

    model_config = ConfigDict(frozen=True)

    artefact: str
    artefact_fingerprint: str
    embedding_fingerprint: str
    architecture: dict[str, Any]
    calibration_data: str
    provenance: Provenance
    split: str
    created_at: str
    machine: dict[str, str]
    datasets: list[DatasetResult]
