"""The results of an evaluation, as written to `report.json` and printed by `--json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, InstanceOf

from model.arrays import Array, Codes
from model.centring import LEAST_SHOWN
from model.provenance import Provenance
from model.wording import counted
from training.evaluation.intervals import Estimate


@dataclass(frozen=True)
class QueryValues:
    """The metrics of every counted query of one data set, by several rankings.

    Attributes:
        search: a digest of queries and gallery; runs with the same digest can be compared.
        identities: the person of each query, `(N,)`, numbered from 0.
        rankings: the values of the queries, `(N,)`, 0 to 1, by ranking and metric.
    """

    search: str
    identities: Codes
    rankings: Mapping[str, Mapping[str, Array]]


NO_VALUES = QueryValues("", np.empty(0, np.int64), {})


class Result(BaseModel):
    """Base class of the parts of a report."""

    model_config = ConfigDict(frozen=True)


class OperatingPointResult(Result):
    """The false-alarm rate of searches, asked for and obtained, and the share of people found."""

    name: str
    asked: float
    threshold: float
    false_alarm_rate: Estimate
    detection_rate: Estimate


class ScoreDistribution(Result):
    """Histograms of the scores of cross-camera pairs; n counts have n + 1 `edges`."""

    edges: list[float]
    genuine: list[int]
    impostor: list[int]


class VerificationResult(Result):
    """TAR@FAR: an operating point of the comparison of two crops.

    Attributes:
        asked: the share of impostor pairs that may be accepted.
        threshold: the lowest score that is accepted.
        false_accept_rate: the accepted share of impostor pairs, at most `asked`.
        true_accept_rate: the accepted share of genuine pairs; its interval is over people.
    """

    asked: float
    threshold: float
    false_accept_rate: float
    true_accept_rate: Estimate


class HalfEnrolledResult(Result):
    """Searches with half of the people enrolled, at the best threshold for a false-alarm rate.

    Attributes:
        enrolled: the number of people in the gallery.
        detection_rate: the share of searches for enrolled people that find them, as a mean over
            random halves; its interval is over people.
        miss_rate: FNIR, the share of searches for enrolled people who do not reach the threshold,
            at whatever rank; a mean over the same halves.
    """

    enrolled: int
    detection_rate: Estimate
    miss_rate: Estimate


class LikelihoodResult(Result):
    """Likelihood ratios of two crops, fitted to one half of the people, measured on the other.

    Both ways of dividing them are averaged.

    Attributes:
        people: number of people whose pairs they were fitted to.
        cllr, min_cllr: the cost of the ratios, and of the best that rise with the score.
        same_below_1: share of pairs of one person whose ratio speaks for two.
        different_from_10: share of pairs of two people whose ratio is 10 or more.
    """

    people: int
    cllr: float
    min_cllr: float
    same_below_1: float
    different_from_10: float


class ScoringResult(Result):
    """One ranking of one data set.

    Attributes:
        metrics: mAP (step), mAP_trapezoid, mINP, rank_1, rank_5, rank_10, from 0 to 1. Intervals
            are over queries, or over people if the set is searched in random splits.
        cmc: the share of queries with a true match at rank 1, 2, … or better.
        detection_curve: pairs of false-alarm rate and detection rate; empty for a re-ranking, which
            has no pair score.
        operating_points: the rates of searches. This field and the next two are empty for a
            ready-made model, which has no calibration, and for a re-ranking.
        distribution: histograms of the scores.
        expected_calibration_error: the error of the pair probability, with genuine and impostor
            pairs weighing one half each.
        over_identities: the metrics with intervals over people. These are wider and more honest,
            because queries of one person are alike.
        verification: TAR@FAR at every rate that the number of impostor pairs allows; empty for a
            re-ranking.
        half_enrolled: None for a re-ranking, and in random splits.
        likelihood: None for a re-ranking, and if a half has fewer than 100 people. `gmn evaluate`
            measures it.
    """

    metrics: dict[str, Estimate]
    cmc: list[float]
    detection_curve: list[tuple[float, float]] = []
    operating_points: list[OperatingPointResult] = []
    distribution: ScoreDistribution | None = None
    expected_calibration_error: float | None = None
    over_identities: dict[str, Estimate] = {}
    verification: list[VerificationResult] = []
    half_enrolled: HalfEnrolledResult | None = None
    likelihood: LikelihoodResult | None = None


class RankedCrop(Result):
    """A crop in a rank list, by its row in the gallery; `right` if it shows the query's person."""

    row: int
    identity: str
    camera: str
    score: float
    right: bool


class RankList(Result):
    """A query, by its row, and its best gallery crops by each ranking, best first."""

    row: int
    identity: str
    camera: str
    average_precision: dict[str, float]
    ranked: dict[str, list[RankedCrop]]


class SpaceGap(Result):
    """The gap between two domains in one space.

    Attributes:
        mmd: the squared maximum mean discrepancy, unbiased; near 0 between like domains.
        mmd_by_chance: its 95% quantile if people are assigned to the domains at random.
        mmd_same_domain: the same between two halves of a domain, as a mean over both domains.
        classifier: the balanced accuracy of a classifier of the domain; one half by chance. Its
            interval is over couples of people.
        classifier_same_domain: the same between two halves of a domain, as a mean over both.
    """

    mmd: float
    mmd_by_chance: float
    mmd_same_domain: float
    classifier: Estimate
    classifier_same_domain: float

    @property
    def times_chance(self) -> float:
        """The ratio of the discrepancy to its value by chance."""
        return self.mmd / self.mmd_by_chance if self.mmd_by_chance > 0 else float("inf")


class DomainGap(Result):
    """The gap between two domains in instance space and in pair space, over the same crops.

    Attributes:
        classifier_difference: the balanced accuracy in pair space minus that in instance space,
            paired over couples of people; below 0 the domains are nearer in pair space.
    """

    domains: tuple[str, str]
    instance: SpaceGap
    pair: SpaceGap
    classifier_difference: Estimate


class Projection(Result):
    """A t-SNE of a space: the points of each domain, with coordinates from −1 to 1.

    Attributes:
        genuine: says which points of each domain are genuine pairs; empty for instances.
    """

    space: str
    domains: dict[str, list[tuple[float, float]]]
    genuine: list[bool] = []


class PremiseResult(Result):
    """The domain gap in both spaces; numbers of people and points are per domain."""

    pair_feature: str
    people: int
    points: int
    gaps: list[DomainGap]
    projections: list[Projection]


class CostResult(Result):
    """The cost of the networks.

    Attributes:
        embedder_parameters, metric_network_parameters: the numbers of parameters.
        embedder_multiply_adds: the multiply-adds for one crop, which the papers call FLOPs.
        pair_multiply_adds: the multiply-adds for one pair.
    """

    embedder_parameters: int
    embedder_multiply_adds: int
    metric_network_parameters: int
    pair_multiply_adds: int


class CentringResult(Result):
    """The means by which a search is centred, and whether they help.

    Attributes:
        cameras: the number of cameras of queries and gallery.
        cameras_with_mean: how many of them have a mean of their own.
        is_centred: whether the gallery shows enough people for any mean.
        gain: the mean difference in average precision of people of the gallery who are left out of
            the means, −1 to 1; None if too few of them are under two cameras.
        gain_error: its standard error over people.
        gain_is_clear: whether it is larger than this error.
    """

    cameras: int
    cameras_with_mean: int = 0
    is_centred: bool = False
    gain: float | None = None
    gain_error: float | None = None
    gain_is_clear: bool = False

    @property
    def sentence(self) -> str:
        """A sentence on the means and the gain."""
        if not self.is_centred:
            return (
                f"Nothing is centred: the gallery shows fewer than the {LEAST_SHOWN} people whom a "
                "mean takes."
            )
        means = f"{self.cameras_with_mean} of {counted(self.cameras, 'camera')} had a mean"
        if self.gain is None or self.gain_error is None:
            return (
                f"{means}; too few people of the gallery are under two cameras to show a gain in "
                "mAP."
            )
        return (
            f"{means}; people left out of the means gained {100 * self.gain:+.1f} ± "
            f"{100 * self.gain_error:.1f} points of mAP, which is "
            f"{'clear' if self.gain_is_clear else 'not clear'}."
        )


class DatasetResult(Result):
    """All figures of one data set.

    Attributes:
        not_counted: the number of queries without a true match under another camera.
        seen_in_training: whether the artefact may have been trained on some of these people.
        seen_identities: the number of such people among those searched for.
        seen_because: clauses that say why, such as "was trained on 20 of its 24 crops". They refer
            to the whole data set, and not only to the people searched for.
        used_to_calibrate: whether the artefact's calibration was fitted to these people, and its
            default ranking chosen by them.
        differences: under keys such as `mnet - cosine`, the differences of each metric, paired
            over the queries; intervals are over people.
        version: the version of the set that was read; empty if there is only one.
        worst_queries: the hardest query of each of the people who are found worst; empty in random
            splits.
        rank_lists: some queries, from the hardest to the easiest.
        centring: None unless the ranking `centred` was measured.
        query_values: the metrics of every query, which are written to `queries.npz` instead.
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
    worst_queries: list[RankList] = []
    rank_lists: list[RankList] = []
    centring: CentringResult | None = None
    query_values: InstanceOf[QueryValues] = Field(NO_VALUES, exclude=True, repr=False)

    @property
    def seen_sentence(self) -> str:
        """A sentence on the people in the search whom the artefact may have been trained on."""
        reasons = "; it ".join(self.seen_because) or "may have been trained on this set"
        return (
            f"The artefact {reasons}. It may have been trained on {self.seen_identities:,} of the "
            "people searched for."
        )


class EvaluationReport(Result):
    """The report of an evaluation.

    Attributes:
        images_per_second: crops that were decoded and embedded in a second, on the device that
            `machine` names.
        architecture, calibration_data, cost: empty for a ready-made model.
        premise: the domain gap, if it was measured.
        checkpoint: says which weights of a run were measured; empty for `gmn evaluate`.
    """

    artefact: str
    artefact_fingerprint: str
    embedding_fingerprint: str
    provenance: Provenance
    split: str
    created_at: str
    machine: dict[str, str]
    datasets: list[DatasetResult]
    images_per_second: float
    architecture: dict[str, Any] = {}
    calibration_data: str = ""
    cost: CostResult | None = None
    premise: PremiseResult | None = None
    checkpoint: str = ""
