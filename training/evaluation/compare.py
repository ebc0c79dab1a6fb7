"""Several runs side by side: seeds of one recipe as one, differences query by query."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain, zip_longest
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
FALLBACK, AVERAGE = "cosine", "average"
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
    return Comparison(
        runs=[_run_name(group, model) for group in groups for model in group.models],
        settings=differing_settings(groups),
        datasets=[_compared(own) for _, own in _answers(groups).groupby(PLACE, sort=False)],
    )


def average(groups: Sequence[Group]) -> ComparedDataset:
    """The average over the data sets, each weighing the same; every group has as many seeds."""
    return _compared(_answers(groups))


def _answers(groups: Sequence[Group]) -> pd.DataFrame:
    """A row for each model on each data set that was searched."""
    return pd.DataFrame(
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
    """What the groups made of a data set, or of several on average."""
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
    first, several = places.iloc[0], len(places) > 1
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
    several, searches = len(sets[0]) > 1, _queries(answers, ranking)
    points = [] if several or len(sets) > 1 else sets[0][0].operating_points
    point = next((own for own in points if own.name == OPERATING_POINT), None)
    seeds = {
        metric: np.mean([[one.metrics[metric].mean for one in own] for own in sets], axis=0)
        for metric in METRICS
    }
    return ComparedRanking(
        group=group,
        ranking=ranking,
        metrics=_intervals(searches, []) if searches else _mean_of_ends(chain(*sets)),
        over_people=bool(searches),
        seeds={metric: own.tolist() for metric, own in seeds.items()} if several else {},
        false_alarm_rate=point and point.false_alarm_rate,
        detection_rate=point and point.detection_rate,
    )


def _difference(ranking: str, answers: pd.DataFrame, base: pd.DataFrame) -> dict[str, object]:
    """To the baseline's own ranking of that name, or its cosine where it has none."""
    against = ranking if ranking in base["result"].iloc[0].scorings else FALLBACK
    ours, theirs = _queries(answers, ranking), _queries(base, against)
    if not ours or [own.search for own in ours] != [own.search for own in theirs]:
        return {}
    return {
        "against": against,
        "differences": _intervals(ours, theirs),
        "over_seeds": len(answers) + len(base) > 2 * len(ours),
    }


def _intervals(ours: Sequence[Queries], theirs: Sequence[Queries]) -> dict[str, Estimate]:
    """Every metric's mean, or its difference to what others have, with its interval."""
    return {
        metric: people_and_seeds_interval(
            [
                (own.values[metric], other and other.values[metric], own.identities)
                for own, other in zip_longest(ours, theirs)
            ]
        )
        for metric in METRICS
    }


def _queries(answers: pd.DataFrame, ranking: str) -> list[Queries]:
    """What was kept of a ranking's queries on each data set; empty unless all seeds kept theirs."""
    found = []
    for _, own in answers.groupby(PLACE, sort=False):
        known = [one for one in own["values"] if one is not None and ranking in one.rankings]
        if len(known) < len(own) or len({one.search for one in known}) != 1:
            return []
        values = {
            metric: np.stack([one.rankings[ranking][metric] for one in known]) for metric in METRICS
        }
        found.append(Queries(known[0].search, known[0].identities, values))
    return found


def _mean_of_ends(results: Iterable[ScoringResult]) -> dict[str, Estimate]:
    """The reports' own estimates; of several seeds, their means and the means of their ends."""
    known = list(results)
    return {
        metric: Estimate(
            **pd.DataFrame(result.metrics[metric].model_dump() for result in known).mean()
        )
        for metric in METRICS
    }
