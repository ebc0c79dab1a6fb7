"""The outcome of an evaluation, as it is written to `report.json` and printed by `--json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, InstanceOf

from model.provenance import Provenance
from training.evaluation.intervals import Estimate


@dataclass(frozen=True)
class QueryValues:
    """The counted queries of one data set, as several rankings answered them.

    Attributes:
        search: a digest of queries and gallery; runs with the same one answered the same searches.
        identities: whose query it is, `(N,)`, numbered from 0.
        rankings: by ranking and metric, `(N,)` values 0 to 1.
    """

    search: str
    identities: NDArray[np.int64]
    rankings: Mapping[str, Mapping[str, NDArray[np.float64]]]


NO_VALUES = QueryValues("", np.empty(0, np.int64), {})


class Result(BaseModel):
    """A part of a report, which is not changed."""

    model_config = ConfigDict(frozen=True)


class OperatingPointResult(Result):
    """Asked against obtained false-alarm rate of searches, and the share of people found."""

    name: str
    asked: float
    threshold: float
    false_alarm_rate: Estimate
    detection_rate: Estimate


class ScoreDistribution(Result):
    """Histograms of cross-camera pairs' scores; `edges` has one number more than either count."""

    edges: list[float]
    genuine: list[int]
    impostor: list[int]


class VerificationResult(Result):
    """One operating point of comparing two crops: TAR@FAR.

    Attributes:
        asked: the share of impostor pairs that may be accepted.
        threshold: the lowest score that is accepted.
        false_accept_rate: the accepted share of impostor pairs, at most `asked`.
        true_accept_rate: the accepted share of genuine pairs; its interval is over identities.
    """

    asked: float
    threshold: float
    false_accept_rate: float
    true_accept_rate: Estimate


class HalfEnrolledResult(Result):
    """Searches with half of the people enrolled, at the best threshold for a false-alarm rate.

    Attributes:
        enrolled: number of people in the gallery.
        detection_rate: the share of enrolled people's searches that find them; a mean over random
            halves, its interval over people.
    """

    enrolled: int
    detection_rate: Estimate


class ScoringResult(Result):
    """One ranking of one data set.

    Attributes:
        metrics: mAP (step), mAP_trapezoid, mINP, rank_1, rank_5, rank_10; 0 to 1. Their intervals
            are over queries; over people where the set is searched in random splits.
        cmc: share of queries with a true match at rank 1, 2, … or better.
        operating_points: of searches; empty for a ready-made model, which has no calibration, and
            for a re-ranking, whose distances depend on the other candidates, as are the next three.
        detection_curve: pairs of false-alarm rate and detection rate.
        distribution: of scores.
        expected_calibration_error: of the pair probability, genuine and impostor pairs weighing
            one half each.
        over_identities: the metrics again, their intervals over identities, whose queries are
            alike: the wider and more honest ones.
        verification: TAR@FAR, at every rate that the number of impostor pairs can show; empty
            for a re-ranking.
        half_enrolled: None for a re-ranking, in random splits and in reports of older versions.
    """

    metrics: dict[str, Estimate]
    cmc: list[float]
    operating_points: list[OperatingPointResult] = []
    detection_curve: list[tuple[float, float]] = []
    distribution: ScoreDistribution | None = None
    expected_calibration_error: float | None = None
    over_identities: dict[str, Estimate] = {}
    verification: list[VerificationResult] = []
    half_enrolled: HalfEnrolledResult | None = None


class RankedCrop(Result):
    """One line of a rank list: a crop by its row in the gallery; `right` if it is the person's."""

    row: int
    identity: str
    camera: str
    score: float
    right: bool


class RankList(Result):
    """One query, by its row, and the best of its valid gallery by each ranking, best first."""

    row: int
    identity: str
    camera: str
    average_precision: dict[str, float]
    ranked: dict[str, list[RankedCrop]]


class SpaceGap(Result):
    """The gap between two domains in one space.

    Attributes:
        mmd: squared maximum mean discrepancy, unbiased: near 0 for one and the same domain.
        mmd_by_chance: its 95% quantile where people are dealt to the domains at random.
        mmd_same_domain: between two halves of one domain, the mean of both.
        classifier: balanced accuracy of a classifier that names the domain; one half by chance.
            Its interval is over couples of people.
        classifier_same_domain: between two halves of one domain, the mean of both.
    """

    mmd: float
    mmd_by_chance: float
    mmd_same_domain: float
    classifier: Estimate
    classifier_same_domain: float

    @property
    def times_chance(self) -> float:
        """How many times what chance makes of it the discrepancy is."""
        return self.mmd / self.mmd_by_chance if self.mmd_by_chance > 0 else float("inf")


class DomainGap(Result):
    """Two domains in instance and in pair space, seen through the same crops.

    Attributes:
        classifier_difference: pair space's balanced accuracy less instance space's, paired over
            couples of people; below 0 the domains are nearer in pair space.
    """

    domains: tuple[str, str]
    instance: SpaceGap
    pair: SpaceGap
    classifier_difference: Estimate


class Projection(Result):
    """A space as t-SNE draws it: by domain its points, with coordinates −1 to 1.

    Attributes:
        genuine: of each domain's points, which are one person's pairs; empty for instances.
    """

    space: str
    domains: dict[str, list[tuple[float, float]]]
    genuine: list[bool] = []


class PremiseResult(Result):
    """GMN's premise: is the domain gap smaller in pair space? People and points are per domain."""

    pair_feature: str
    people: int
    points: int
    gaps: list[DomainGap]
    projections: list[Projection]


class CostResult(Result):
    """The cost of the networks.

    Attributes:
        embedder_parameters, metric_network_parameters: numbers that an artefact holds.
        embedder_multiply_adds: for one crop; the papers call this number FLOPs.
        pair_multiply_adds: for one pair.
    """

    embedder_parameters: int
    embedder_multiply_adds: int
    metric_network_parameters: int
    pair_multiply_adds: int


class DatasetResult(Result):
    """Everything measured on one data set.

    Attributes:
        seen_in_training: some of these people may have been in the artefact's training.
        seen_identities: how many of the people searched for.
        seen_because: why, a clause each, such as "was trained on 20 of its 24 crops"; they are of
            the whole set, not only of the people searched for.
        used_to_calibrate: the artefact was calibrated on these people, and its default ranking
            chosen by them.
        not_counted: queries without a true match under another camera.
        differences: by `mnet - cosine`, the paired difference of each metric over the queries, its
            interval over people.
        version: which version of the set was read; empty where there is one only.
        rank_lists: some queries, from the hardest to the easiest.
        query_values: every query's own figures; they go into `queries.npz`, not into the JSON.
    """

    name: str
    spec: str
    terms: str
    protocol: str
    queries: int
    gallery: int
    identities: int
    not_counted: int
    scorings: dict[str, ScoringResult]
    seen_in_training: bool = False
    used_to_calibrate: bool = False
    differences: dict[str, dict[str, Estimate]] = {}
    version: str = ""
    seen_identities: int = 0
    seen_because: list[str] = []
    rank_lists: list[RankList] = []
    query_values: InstanceOf[QueryValues] = Field(NO_VALUES, exclude=True, repr=False)

    @property
    def seen_sentence(self) -> str:
        """Why some people were in the artefact's training, and how many of those searched for."""
        reasons = "; it ".join(self.seen_because) or "may have been trained on this set"
        return (
            f"The artefact {reasons}. So {self.seen_identities:,} of the people searched for may "
            "have been in its training."
        )


class EvaluationReport(Result):
    """One run of `gmn evaluate`.

    Attributes:
        images_per_second: crops that were decoded and embedded in a second, on the device that
            `machine` names; None in reports of older versions.
        architecture, calibration_data, cost: empty for a ready-made model.
        premise: where it was measured.
        checkpoint: which weights of its run were measured; empty for an evaluation.
    """

    artefact: str
    artefact_fingerprint: str
    embedding_fingerprint: str
    provenance: Provenance
    split: str
    created_at: str
    machine: dict[str, str]
    datasets: list[DatasetResult]
    images_per_second: float | None = None
    architecture: dict[str, Any] = {}
    calibration_data: str = ""
    cost: CostResult | None = None
    premise: PremiseResult | None = None
    checkpoint: str = ""
