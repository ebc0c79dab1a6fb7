"""Several runs side by side: seeds of one recipe as one, differences query by query."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from training.evaluation.intervals import Estimate, people_and_seeds_interval
from training.evaluation.report_tables import dotted
from training.evaluation.results import ScoringResult
from training.evaluation.runs import Group, Model, deciding

METRICS = ("mAP", "rank_1", "rank_5", "rank_10", "mINP")
FALLBACK = "cosine"
OPERATING_POINT = "far_1e-2"
PLACE = ["name", "split", "protocol"]
"""One searched data set: runs are compared where these are the same."""


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
    """Several runs side by side, as it is written to `comparison.json`.

    Attributes:
        runs: who took part.
        settings: by dotted name, what differs, a value for each group in order.
        datasets: what was searched.
    """

    model_config = ConfigDict(frozen=True)

    runs: list[RunName]
    settings: dict[str, list[str]]
    datasets: list[ComparedDataset]


class Queries(NamedTuple):
    """The queries of one search as the seeds of a group ranked them.

    Attributes:
        search: the digest of queries and gallery.
        identities: whose query it is, `(N,)`.
        values: by metric, `(S, N)`.
    """

    search: str
    identities: NDArray[np.int64]
    values: dict[str, NDArray[np.float64]]


def compare(groups: Sequence[Group]) -> Comparison:
    """All numbers of a comparison; the first group is what others differ from."""
    answers = pd.DataFrame(
        {
            "group": group.name,
            "model": model.name,
            # Figures of two versions of a set do not compare.
            "name": ", ".join(filter(None, (result.name, result.version))),
            "split": run.report.split,
            "protocol": result.protocol,
            "result": result,
            "values": run.values.get(number),
        }
        for group in groups
        for model in group.models
        for run in model.folders
        for number, result in enumerate(run.report.datasets)
    ).drop_duplicates(["group", "model", *PLACE], keep="last")
    return Comparison(
        runs=[_run_name(group, model) for group in groups for model in group.models],
        settings=differing_settings(groups),
        datasets=[_compared(own) for _, own in answers.groupby(PLACE, sort=False)],
    )


def differing_settings(groups: Sequence[Group]) -> dict[str, list[str]]:
    """Settings that decide and are not the same in every group, by their dotted names."""
    known = pd.DataFrame(
        {
            "data": ", ".join(one.name for one in group.models[0].report.provenance.data),
            **{name: str(own) for name, own in dotted(deciding(group.models[0].recipe)).items()},
        }
        for group in groups
    ).fillna("")
    return {str(name): values.tolist() for name, values in known.items() if values.nunique() > 1}


def _run_name(group: Group, model: Model) -> RunName:
    return RunName(
        group=group.name,
        name=model.name,
        folders=["/".join(run.path.resolve().parts[-2:]) for run in model.folders],
        artefact_fingerprint=model.report.artefact_fingerprint,
        seed=model.recipe.get("seed"),
        created_at=model.report.provenance.created_at,
        commit=model.report.provenance.commit,
    )


def _compared(answers: pd.DataFrame) -> ComparedDataset:
    """What the groups made of one data set; a row of the answers is a model's."""
    groups = [(str(name), own) for name, own in answers.groupby("group", sort=False)]
    base_name, base = groups[0]
    rankings = []
    for name, own in groups:
        for ranking in own["result"].iloc[0].scorings:
            found = _ranking(name, ranking, own)
            if name != base_name:
                found = found.model_copy(update=_difference(ranking, own, base))
            rankings.append(found)
    peers = {
        name: result for _, own in groups for name, result in own["result"].iloc[0].peers.items()
    }
    rankings += [
        ComparedRanking(group=name, ranking="cosine", peer=True, metrics=_mean_of_ends([result]))
        for name, result in peers.items()
    ]
    first = base.iloc[0]
    return ComparedDataset(
        name=first["name"],
        split=first["split"],
        protocol=first["protocol"],
        queries=first["result"].queries,
        gallery=first["result"].gallery,
        identities=first["result"].identities,
        baseline=base_name,
        rankings=rankings,
    )


def _ranking(group: str, ranking: str, answers: pd.DataFrame) -> ComparedRanking:
    results: list[ScoringResult] = [
        result.scorings[ranking] for result in answers["result"] if ranking in result.scorings
    ]
    queries, several = _queries(answers, ranking), len(results) > 1
    metrics = _mean_of_ends(results)
    if queries is not None:
        metrics = {
            metric: people_and_seeds_interval(queries.values[metric], None, queries.identities)
            for metric in METRICS
        }
    point = next((own for own in results[0].operating_points if own.name == OPERATING_POINT), None)
    point = None if several else point
    return ComparedRanking(
        group=group,
        ranking=ranking,
        metrics=metrics,
        over_people=queries is not None,
        seeds={metric: [result.metrics[metric].mean for result in results] for metric in METRICS}
        if several
        else {},
        false_alarm_rate=point and point.false_alarm_rate,
        detection_rate=point and point.detection_rate,
    )


def _difference(ranking: str, answers: pd.DataFrame, base: pd.DataFrame) -> dict[str, object]:
    """To the baseline's own ranking of that name, or its cosine where it has none."""
    against = ranking if ranking in base["result"].iloc[0].scorings else FALLBACK
    ours, theirs = _queries(answers, ranking), _queries(base, against)
    if ours is None or theirs is None or ours.search != theirs.search:
        return {}
    return {
        "against": against,
        "differences": {
            metric: people_and_seeds_interval(
                ours.values[metric], theirs.values[metric], ours.identities
            )
            for metric in METRICS
        },
        "over_seeds": len(answers) + len(base) > 2,
    }


def _queries(answers: pd.DataFrame, ranking: str) -> Queries | None:
    """What was kept of a ranking's queries; None unless all seeds kept those of one search."""
    known = [own for own in answers["values"] if own is not None and ranking in own.rankings]
    if len(known) < len(answers) or len({own.search for own in known}) != 1:
        return None
    values = {
        metric: np.stack([own.rankings[ranking][metric] for own in known]) for metric in METRICS
    }
    return Queries(known[0].search, known[0].identities, values)


def _mean_of_ends(results: Sequence[ScoringResult]) -> dict[str, Estimate]:
    """The reports' own estimates; of several seeds, their means and the means of their ends."""
    return {
        metric: Estimate(
            **pd.DataFrame(result.metrics[metric].model_dump() for result in results).mean()
        )
        for metric in METRICS
    }
