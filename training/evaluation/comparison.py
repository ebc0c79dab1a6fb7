"""What a comparison of runs found, as it is written to `comparison.json`."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from training.evaluation.intervals import Estimate


class RunName(BaseModel):
    """One artefact that took part, and the folders that report on it."""

    model_config = ConfigDict(frozen=True)

    group: str
    name: str
    folders: list[str]
    artefact_fingerprint: str
    seed: int | None
    created_at: str
    commit: str | None


class ComparedRanking(BaseModel):
    """One group's ranking of one data set.

    Attributes:
        group: runs of one recipe; a peer's name where it is one.
        metrics: mAP, rank_1, rank_5, rank_10, mINP; 0 to 1, means over seeds and queries.
        over_people: whether their intervals are over people rather than over queries, and over
            seeds where there are several.
        seeds: by metric, each seed's own mean; empty for a single run.
        against: which ranking of the baseline the differences are to; empty without any.
        differences: paired over the same queries, their intervals over people, and over seeds where
            `over_seeds`.
        over_seeds: whether one of the two groups has several seeds; where neither has, a difference
            may be one of seeds, and no verdict is given.
        false_alarm_rate, detection_rate: of searches at the operating point far_1e-2.
    """

    model_config = ConfigDict(frozen=True)

    group: str
    ranking: str
    metrics: dict[str, Estimate]
    peer: bool = False
    over_people: bool = False
    seeds: dict[str, list[float]] = {}
    against: str = ""
    differences: dict[str, Estimate] = {}
    over_seeds: bool = False
    false_alarm_rate: Estimate | None = None
    detection_rate: Estimate | None = None


class ComparedDataset(BaseModel):
    """One searched data set and every group's rankings of it; the baseline is the first group."""

    model_config = ConfigDict(frozen=True)

    name: str
    split: str
    protocol: str
    queries: int
    gallery: int
    identities: int
    baseline: str
    rankings: list[ComparedRanking]


class Comparison(BaseModel):
    """Several runs side by side.

    Attributes:
        runs: who took part.
        settings: by dotted name, what differs, a value for each group in order.
        datasets: what was searched.
    """

    model_config = ConfigDict(frozen=True)

    runs: list[RunName]
    settings: dict[str, list[str]]
    datasets: list[ComparedDataset]
