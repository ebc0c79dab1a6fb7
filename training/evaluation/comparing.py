"""Several runs side by side: seeds of one recipe as one, differences query by query."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from training.evaluation.comparison import ComparedDataset, ComparedRanking, Comparison, RunName
from training.evaluation.grouping import Group, Model, differing_settings
from training.evaluation.intervals import Estimate, people_and_seeds_interval
from training.evaluation.query_values import QueryValues
from training.evaluation.results import DatasetResult, ScoringResult

METRICS = ("mAP", "rank_1", "rank_5", "rank_10", "mINP")
FALLBACK = "cosine"
ONE_IN_A_HUNDRED = "far_1e-2"


@dataclass(frozen=True)
class Place:
    """One searched data set: runs are compared where this is the same."""

    data: str
    split: str
    protocol: str


@dataclass(frozen=True)
class Answer:
    """One model's result on one data set, with its queries' values where they were kept."""

    result: DatasetResult
    values: QueryValues | None


def compare(groups: Sequence[Group]) -> Comparison:
    """All numbers of a comparison; the first group is what others differ from."""
    places = dict.fromkeys(place for group in groups for place in _answers(group.models[0]))
    for group in groups:
        places |= dict.fromkeys(place for model in group.models for place in _answers(model))
    return Comparison(
        runs=[
            RunName(
                group=group.name,
                name=model.name,
                folders=["/".join(run.path.resolve().parts[-2:]) for run in model.folders],
                artefact_fingerprint=model.folders[0].report.artefact_fingerprint,
                seed=model.recipe.get("seed"),
                created_at=model.folders[0].report.provenance.created_at,
                commit=model.folders[0].report.provenance.commit,
            )
            for group in groups
            for model in group.models
        ],
        settings=differing_settings(groups),
        datasets=[_compared(place, groups) for place in places],
    )


def _compared(place: Place, groups: Sequence[Group]) -> ComparedDataset:
    answers = {
        group.name: [own[place] for model in group.models if place in (own := _answers(model))]
        for group in groups
    }
    present = {name: own for name, own in answers.items() if own}
    base_name, base = next(iter(present.items()))
    rankings = []
    for name, given in present.items():
        for ranking in given[0].result.scorings:
            found = _ranking(name, ranking, given)
            if name != base_name:
                found = found.model_copy(update=_difference(ranking, given, base))
            rankings.append(found)
    peers = {
        peer: result for own in present.values() for peer, result in own[0].result.peers.items()
    }
    rankings += [
        ComparedRanking(group=name, ranking="cosine", peer=True, metrics=_own_metrics([result]))
        for name, result in peers.items()
    ]
    some = base[0].result
    return ComparedDataset(
        name=place.data,
        split=place.split,
        protocol=place.protocol,
        queries=some.queries,
        gallery=some.gallery,
        identities=some.identities,
        baseline=base_name,
        rankings=rankings,
    )


def _ranking(group: str, ranking: str, answers: Sequence[Answer]) -> ComparedRanking:
    results = [
        answer.result.scorings[ranking] for answer in answers if ranking in answer.result.scorings
    ]
    values = _values_of_seeds(answers, ranking)
    metrics = _own_metrics(results)
    if values is not None:
        identities, of_seeds = values
        metrics = {
            metric: people_and_seeds_interval(of_seeds[metric], None, identities)
            for metric in METRICS
            if metric in of_seeds
        }
    several = len(results) > 1
    point = next(
        (point for point in results[0].operating_points if point.name == ONE_IN_A_HUNDRED), None
    )
    return ComparedRanking(
        group=group,
        ranking=ranking,
        metrics=metrics,
        over_people=values is not None,
        seeds={metric: [result.metrics[metric].mean for result in results] for metric in METRICS}
        if several
        else {},
        false_alarm_rate=point.false_alarm_rate if point and not several else None,
        detection_rate=point.detection_rate if point and not several else None,
    )


def _difference(
    ranking: str, answers: Sequence[Answer], base: Sequence[Answer]
) -> dict[str, object]:
    """To the baseline's own ranking of that name, or its cosine where it has none."""
    against = ranking if ranking in base[0].result.scorings else FALLBACK
    ours, theirs = _values_of_seeds(answers, ranking), _values_of_seeds(base, against)
    if ours is None or theirs is None:
        return {}
    search = {answer.values.search for answer in (*answers, *base) if answer.values is not None}
    if len(search) > 1 or not np.array_equal(ours[0], theirs[0]):
        return {}
    return {
        "against": against,
        "differences": {
            metric: people_and_seeds_interval(ours[1][metric], theirs[1][metric], ours[0])
            for metric in METRICS
            if metric in ours[1] and metric in theirs[1]
        },
        "over_seeds": len(answers) + len(base) > 2,
    }


def _values_of_seeds(
    answers: Sequence[Answer], ranking: str
) -> tuple[np.ndarray[Any, np.dtype[np.int64]], dict[str, Any]] | None:
    """Whose queries they are, `(N,)`, and by metric their values for each seed, `(S, N)`."""
    known = [answer.values for answer in answers if answer.values is not None]
    known = [values for values in known if ranking in values.rankings]
    if len(known) < len(answers) or len({values.search for values in known}) != 1:
        return None
    first = known[0]
    return first.identities, {
        metric: np.stack([values.rankings[ranking][metric] for values in known])
        for metric in first.rankings[ranking]
    }


def _own_metrics(results: Sequence[ScoringResult]) -> dict[str, Estimate]:
    """The reports' own figures; of several seeds, their means and the means of their ends."""
    return {
        metric: Estimate(
            **{
                end: float(np.mean([getattr(result.metrics[metric], end) for result in results]))
                for end in ("mean", "low", "high")
            }
        )
        for metric in METRICS
        if all(metric in result.metrics for result in results)
    }


def _versioned(result: DatasetResult) -> str:
    """The set's name with what was read of it: figures of two versions do not compare."""
    return f"{result.name}, {result.version}" if result.version else result.name


def _answers(model: Model) -> dict[Place, Answer]:
    return {
        Place(_versioned(result), run.report.split, result.protocol): Answer(
            result, run.values.get(number)
        )
        for run in model.folders
        for number, result in enumerate(run.report.datasets)
    }
