"""Several runs side by side: seeds of one recipe as one, differences query by query."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, zip_longest
from typing import Any

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict

from training.evaluation.intervals import Estimate, people_and_seeds_interval
from training.evaluation.report_tables import dotted
from training.evaluation.results import ScoringResult
from training.evaluation.runs import Group, RunFolder, deciding

METRICS = ("mAP", "rank_1", "rank_5", "rank_10", "mINP")
FALLBACK = "cosine"
AVERAGE = "average"
OPERATING_POINT = "far_1e-2"
Values = dict[str, Any]
"""By metric, a value per seed and query, `(S, N)`; `search`; and `identities`, `(N,)`."""
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


def compare(groups: Sequence[Group]) -> Comparison:
    """Return all numbers of a comparison; the first group is what others differ from."""
    return Comparison(
        runs=[_run_name(group.name, model) for group in groups for model in group.models],
        settings=differing_settings(groups),
        datasets=[_compared(own) for _, own in _answers(groups).groupby(PLACE, sort=False)],
    )


def average(groups: Sequence[Group]) -> ComparedDataset:
    """The average over the data sets, each weighing the same; every group has as many seeds."""
    return _compared(_answers(groups))


def _answers(groups: Sequence[Group]) -> pd.DataFrame:
    """Return a row for each model on each data set that was searched."""
    return pd.DataFrame(
        {
            "group": group.name,
            "model": number,
            # Figures of two versions of a set do not compare.
            "name": ", ".join(filter(None, (result.name, result.version))),
            "split": run.report.split,
            "protocol": result.protocol,
            "result": result,
            "values": run.values.get(place),
        }
        for group in groups
        for number, model in enumerate(group.models)
        for run in model
        for place, result in enumerate(run.report.datasets)
    ).drop_duplicates(["group", "model", *PLACE], keep="last")


def differing_settings(groups: Sequence[Group]) -> dict[str, list[str]]:
    """Settings that decide and are not the same in every group, by their dotted names."""
    known = pd.DataFrame(
        {
            "data": ", ".join(one.name for one in group.first.report.provenance.data),
            **{name: str(own) for name, own in dotted(deciding(group.first.recipe)).items()},
        }
        for group in groups
    ).fillna("")
    return {str(name): values.tolist() for name, values in known.items() if values.nunique() > 1}


def _run_name(group: str, model: Sequence[RunFolder]) -> RunName:
    report = model[0].report
    return RunName(
        group=group,
        name=model[0].name,
        folders=["/".join(run.path.resolve().parts[-2:]) for run in model],
        artefact_fingerprint=report.artefact_fingerprint,
        seed=model[0].recipe.get("seed"),
        created_at=report.provenance.created_at,
        commit=report.provenance.commit,
    )


def _compared(answers: pd.DataFrame) -> ComparedDataset:
    """Return what the groups made of a data set, or of several on average."""
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
    places = base.drop_duplicates(PLACE)
    first = places.iloc[0]
    several = len(places) > 1
    return ComparedDataset(
        name=AVERAGE if several else first["name"],
        split=first["split"],
        protocol=f"{len(places)} sets weigh the same" if several else first["protocol"],
        queries=sum(result.queries for result in places["result"]),
        gallery=sum(result.gallery for result in places["result"]),
        identities=sum(result.identities for result in places["result"]),
        baseline=base_name,
        rankings=rankings,
    )


def _ranking(group: str, ranking: str, answers: pd.DataFrame) -> ComparedRanking:
    sets: list[list[ScoringResult]] = [
        [result.scorings[ranking] for result in own["result"] if ranking in result.scorings]
        for _, own in answers.groupby(PLACE, sort=False)
    ]
    several = len(sets[0]) > 1
    searches = _searches(answers, ranking)
    points = [] if several or len(sets) > 1 else sets[0][0].operating_points
    point = next((own for own in points if own.name == OPERATING_POINT), None)
    seeds = {
        metric: np.mean([[one.metrics[metric].mean for one in own] for own in sets], axis=0)
        for metric in METRICS
    }
    return ComparedRanking(
        group=group,
        ranking=ranking,
        metrics=_intervals(searches, []) if searches else _mean_of_ends(list(chain(*sets))),
        over_people=bool(searches),
        seeds={metric: own.tolist() for metric, own in seeds.items()} if several else {},
        false_alarm_rate=point and point.false_alarm_rate,
        detection_rate=point and point.detection_rate,
    )


def _difference(ranking: str, answers: pd.DataFrame, base: pd.DataFrame) -> dict[str, object]:
    """To the baseline's own ranking of that name, or its cosine where it has none."""
    against = ranking if ranking in base["result"].iloc[0].scorings else FALLBACK
    ours = _searches(answers, ranking)
    theirs = _searches(base, against)
    if not ours or [own["search"] for own in ours] != [own["search"] for own in theirs]:
        return {}
    return {
        "against": against,
        "differences": _intervals(ours, theirs),
        "over_seeds": len(answers) + len(base) > 2 * len(ours),
    }


def _intervals(ours: Sequence[Values], theirs: Sequence[Values]) -> dict[str, Estimate]:
    """Return every metric's mean, or its difference to what others have, with its interval."""
    return {
        metric: people_and_seeds_interval(
            [
                (own[metric], None if other is None else other[metric], own["identities"])
                for own, other in zip_longest(ours, theirs)
            ]
        )
        for metric in METRICS
    }


def _searches(answers: pd.DataFrame, ranking: str) -> list[Values]:
    """Return what all seeds kept of a ranking on each data set; empty unless of the same search."""
    found = []
    for _, own in answers.groupby(PLACE, sort=False):
        known = [one for one in own["values"] if one is not None and ranking in one.rankings]
        if len(known) < len(own) or len({one.search for one in known}) != 1:
            return []
        found.append(
            {
                metric: np.stack([one.rankings[ranking][metric] for one in known])
                for metric in METRICS
            }
            | {"search": known[0].search, "identities": known[0].identities}
        )
    return found


def _mean_of_ends(results: Sequence[ScoringResult]) -> dict[str, Estimate]:
    """Return the reports' own estimates; of several, their means and the means of their ends."""
    return {
        metric: Estimate(
            **pd.DataFrame(result.metrics[metric].model_dump() for result in results).mean()
        )
        for metric in METRICS
    }
