"""Several runs side by side: seeds of one recipe as one, differences query by query."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain, zip_longest
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from training.evaluation.intervals import Estimate, people_and_seeds_interval
from training.evaluation.report_tables import dotted
from training.evaluation.results import DatasetResult, QueryValues, ScoringResult
from training.evaluation.runs import Group, RunFolder, deciding
from training.evaluation.tables import Table, Value, difference

METRICS = ("mAP", "rank_1", "rank_5", "rank_10", "mINP")
FALLBACK = "cosine"
AVERAGE = "average"
OPERATING_POINT = "far_1e-2"


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
        group: runs of one recipe, or a ready-made model.
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
        settings: by dotted name, the settings that differ, a value for each group in order.
        datasets: the data sets searched.
    """

    model_config = ConfigDict(frozen=True)

    runs: list[RunName]
    settings: dict[str, list[str]]
    datasets: list[ComparedDataset]


class Place(NamedTuple):
    """One searched data set: runs are compared where these are the same."""

    name: str
    split: str
    protocol: str


class Answer(NamedTuple):
    """One model's figures on one data set, and every query's where they were kept."""

    result: DatasetResult
    values: QueryValues | None


Answers = Mapping[str, Sequence[Answer]]
"""By group, an answer of each seed on one data set."""


def compare(groups: Sequence[Group]) -> Comparison:
    """Return all numbers of a comparison; differences are to the first group."""
    return Comparison(
        runs=[_run_name(group.name, model) for group in groups for model in group.models],
        settings=differing_settings(groups),
        datasets=[_compared(place, [answers]) for place, answers in _answers(groups).items()],
    )


def average(groups: Sequence[Group]) -> ComparedDataset:
    """Return the average over the data sets, each weighing the same.

    Every group has searched every set by as many seeds.
    """
    answers = _answers(groups)
    first = next(iter(answers))
    place = Place(AVERAGE, first.split, f"{len(answers)} sets weigh the same")
    return _compared(place, list(answers.values()))


def _answers(groups: Sequence[Group]) -> dict[Place, dict[str, list[Answer]]]:
    answers: dict[Place, dict[str, list[Answer]]] = {}
    for group in groups:
        for model in group.models:
            # Where several folders report on one set, the last one counts.
            latest = {}
            for run in model:
                for number, result in enumerate(run.report.datasets):
                    # Figures of two versions of a set do not compare.
                    name = ", ".join(filter(None, (result.name, result.version)))
                    place = Place(name, run.report.split, result.protocol)
                    latest[place] = Answer(result, run.values.get(number))
            for place, answer in latest.items():
                answers.setdefault(place, {}).setdefault(group.name, []).append(answer)
    return answers


def differing_settings(groups: Sequence[Group]) -> dict[str, list[str]]:
    """Return the settings that decide and are not the same in every group, by dotted name."""
    settings = []
    for group in groups:
        data = ", ".join(dataset.name for dataset in group.first.report.provenance.data)
        settings.append({"data": data} | dotted(deciding(group.first.recipe)))
    names = dict.fromkeys(name for known in settings for name in known)
    values = {name: [str(known.get(name, "")) for known in settings] for name in names}
    return {name: known for name, known in values.items() if len(set(known)) > 1}


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


def _compared(place: Place, sets: Sequence[Answers]) -> ComparedDataset:
    baseline = next(iter(sets[0]))
    base = [answers[baseline] for answers in sets]
    rankings = []
    for group, answers in sets[0].items():
        ours = [answers_of_set[group] for answers_of_set in sets]
        for ranking in answers[0].result.scorings:
            compared = _ranking(group, ranking, ours)
            if group != baseline:
                compared = compared.model_copy(update=_difference(ranking, ours, base))
            rankings.append(compared)
    results = [answers[0].result for answers in base]
    return ComparedDataset(
        name=place.name,
        split=place.split,
        protocol=place.protocol,
        queries=sum(result.queries for result in results),
        gallery=sum(result.gallery for result in results),
        identities=sum(result.identities for result in results),
        baseline=baseline,
        rankings=rankings,
    )


def _ranking(group: str, ranking: str, sets: Sequence[Sequence[Answer]]) -> ComparedRanking:
    """Return the figures of one ranking, of several sets their average."""
    results = [
        [answer.result.scorings[ranking] for answer in answers if ranking in answer.result.scorings]
        for answers in sets
    ]
    values = _query_values(ranking, sets)
    compared = ComparedRanking(
        group=group,
        ranking=ranking,
        metrics=_intervals(values, ranking) if values else _mean_of_ends(list(chain(*results))),
        over_people=bool(values),
    )
    if len(results[0]) > 1:
        seeds = {
            metric: np.mean(
                [[result.metrics[metric].mean for result in of_set] for of_set in results], axis=0
            ).tolist()
            for metric in METRICS
        }
        return compared.model_copy(update={"seeds": seeds})
    for point in results[0][0].operating_points if len(sets) == 1 else ():
        if point.name == OPERATING_POINT:
            rates = {
                "false_alarm_rate": point.false_alarm_rate,
                "detection_rate": point.detection_rate,
            }
            return compared.model_copy(update=rates)
    return compared


def _difference(
    ranking: str, sets: Sequence[Sequence[Answer]], base: Sequence[Sequence[Answer]]
) -> dict[str, object]:
    """Return the difference to the baseline's ranking of that name, or else to its cosine."""
    against = ranking if ranking in base[0][0].result.scorings else FALLBACK
    ours = _query_values(ranking, sets)
    theirs = _query_values(against, base)
    searches = [[values[0].search for values in side] for side in (ours, theirs)]
    if not ours or searches[0] != searches[1]:
        return {}
    return {
        "against": against,
        "differences": _intervals(ours, ranking, theirs, against),
        "over_seeds": max(len(values) for values in (*ours, *theirs)) > 1,
    }


def _query_values(ranking: str, sets: Sequence[Sequence[Answer]]) -> list[list[QueryValues]]:
    """Return all seeds' values on each data set; empty unless they are of the same search."""
    found = []
    for answers in sets:
        values = [
            answer.values
            for answer in answers
            if answer.values is not None and ranking in answer.values.rankings
        ]
        if len(values) < len(answers) or len({seed.search for seed in values}) != 1:
            return []
        found.append(values)
    return found


def _intervals(
    ours: Sequence[Sequence[QueryValues]],
    ranking: str,
    theirs: Sequence[Sequence[QueryValues]] = (),
    against: str = "",
) -> dict[str, Estimate]:
    """Return every metric's mean, or its difference to others, with its interval."""
    intervals = {}
    for metric in METRICS:
        people = [values[0].identities for values in ours]
        own = [_of_seeds(values, ranking, metric) for values in ours]
        others = [_of_seeds(values, against, metric) for values in theirs]
        sets = zip_longest(own, others, people)
        intervals[metric] = people_and_seeds_interval(list(sets))
    return intervals


def _of_seeds(values: Sequence[QueryValues], ranking: str, metric: str) -> NDArray[np.float64]:
    return np.stack([seed.rankings[ranking][metric] for seed in values])


def _mean_of_ends(results: Sequence[ScoringResult]) -> dict[str, Estimate]:
    """Return the reports' own estimates; of several, their means and the means of their ends."""
    means = {}
    for metric in METRICS:
        ends = [list(result.metrics[metric].model_dump().values()) for result in results]
        mean, low, high = np.mean(ends, axis=0).tolist()
        means[metric] = Estimate(mean=mean, low=low, high=high)
    return means


def comparison_tables(comparison: Comparison) -> list[Table]:
    """Return a table for each data set, and one of the settings that differ."""
    tables = []
    for dataset in comparison.datasets:
        people = all(row.over_people for row in dataset.rankings)
        intervals = f"95% intervals over {'people and seeds' if people else 'queries'}"
        title = f"{dataset.name}, split {dataset.split}, %"
        note = f"{dataset.protocol}; {intervals}; {control(dataset.baseline, dataset.rankings)}"
        tables.append(ranking_table(title, dataset.rankings, note))
    groups = list(dict.fromkeys(run.group for run in comparison.runs))
    rows = [
        [name, *(value or None for value in values)] for name, values in comparison.settings.items()
    ]
    settings = Table("Settings that are not the same", ["setting", *groups], rows, words=True)
    return [*tables, settings] if rows else tables


def ranking_table(
    title: str,
    rows: Sequence[ComparedRanking],
    note: str,
    papers: Mapping[str, str] | None = None,
) -> Table:
    """Return rankings with their differences to the baseline, and papers' figures by group."""
    return Table(
        title,
        ["model", "ranking", "mAP", "Δ mAP", "Rank-1", "Δ Rank-1", "mINP", "paper"],
        [
            [
                row.group,
                row.ranking,
                *(row.metrics["mAP"], _delta(row, "mAP")),
                *(row.metrics["rank_1"], _delta(row, "rank_1")),
                row.metrics["mINP"],
                (papers or {}).get(row.group),
            ]
            for row in rows
        ],
        note,
        labels=2,
    )


def _delta(row: ComparedRanking, metric: str) -> Value:
    if metric not in row.differences:
        return None
    cell = difference(row.differences[metric])
    # Between two single runs another seed may be the difference, so that it gets no colour.
    return cell if row.over_seeds else cell._replace(mark="")


def control(baseline: str, rows: Sequence[ComparedRanking]) -> str:
    """Return a phrase that names the baseline of some rankings' differences."""
    own = sorted({row.ranking for row in rows if row.against not in ("", row.ranking)})
    others = f" ({', '.join(own)} less its {FALLBACK})" if own else ""
    return f"Δ: less {baseline}{others}, the same queries"
