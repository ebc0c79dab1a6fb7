"""Compare runs: pool the seeds of a recipe, and pair differences query by query."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any, NamedTuple

import numpy as np
from pydantic import Field

from model.arrays import Array
from training.evaluation.intervals import Estimate, people_and_seeds_interval
from training.evaluation.report_tables import dotted
from training.evaluation.results import DatasetResult, Result
from training.evaluation.runs import Group, deciding
from training.evaluation.tables import Table, Value, difference

METRICS = ("mAP", "rank_1", "rank_5", "rank_10", "mINP")
FALLBACK = "cosine"
AVERAGE = "average"


class ComparedRanking(Result):
    """One group's ranking of one data set.

    Attributes:
        group: the name of the group, which is the runs of one recipe, or a ready-made model.
        metrics: mAP, rank_1, rank_5, rank_10 and mINP, 0 to 1: means over seeds and queries.
            Intervals are over people and, if there are several, over seeds.
        cmc: the share of queries with a true match at rank 1, 2, … or better, a mean over seeds;
            empty in an average over data sets.
        detection_curve: pairs of false-alarm rate and detection rate, means over seeds; empty in
            an average and for a re-ranking.
        against: the baseline's ranking from which the differences are; empty in its own rows.
        differences: differences of the metrics, paired over the same queries. Intervals are over
            people and, with `over_seeds`, over seeds.
        over_seeds: whether one of the two groups has several seeds. If neither has, a difference
            may be due to the seeds, so that tables do not colour it.
    """

    group: str
    ranking: str
    metrics: dict[str, Estimate]
    cmc: list[float] = Field([])
    detection_curve: list[tuple[float, float]] = Field([])
    against: str = ""
    differences: dict[str, Estimate] = Field({})
    over_seeds: bool = False


class ComparedDataset(Result):
    """The rankings of one data set by every group; the baseline is the first group.

    Attributes:
        trained_on: the name of the training set, in a table that tests one set by several.
    """

    name: str
    trained_on: str = ""
    split: str
    protocol: str
    queries: int
    gallery: int
    identities: int
    baseline: str
    rankings: list[ComparedRanking]


class Comparison(Result):
    """A comparison of runs, as written to `comparison.json`.

    Attributes:
        runs: the folders that report on the artefacts of each group.
        settings: the settings that differ, by dotted name, with a value for each group in order.
        datasets: the rankings by data set.
    """

    runs: dict[str, list[str]]
    settings: dict[str, list[str]]
    datasets: list[ComparedDataset]


class Searched(NamedTuple):
    """Identifies the search of a data set; only runs with the same search are compared."""

    name: str
    split: str
    protocol: str
    digest: str


Answers = Mapping[str, Sequence[DatasetResult]]
"""The results on one data set by group, one for each seed."""


def compare(groups: Sequence[Group]) -> Comparison:
    """Compare groups of runs; differences are to the first group."""
    return Comparison(
        runs={
            group.name: [
                "/".join(run.path.resolve().parts[-2:]) for model in group.models for run in model
            ]
            for group in groups
        },
        settings=differing_settings(groups),
        datasets=[_compared(searched, [answers]) for searched, answers in _answers(groups).items()],
    )


def average(groups: Sequence[Group]) -> ComparedDataset:
    """Average the rankings over the data sets, which weigh the same.

    All groups must have searched all sets with the same number of seeds.
    """
    answers = _answers(groups)
    first = next(iter(answers))
    protocol = f"{len(answers)} sets weigh the same"
    return _compared(Searched(AVERAGE, first.split, protocol, ""), list(answers.values()))


def _answers(groups: Sequence[Group]) -> dict[Searched, dict[str, list[DatasetResult]]]:
    answers: dict[Searched, dict[str, list[DatasetResult]]] = {}
    for group in groups:
        for model in group.models:
            # If several folders report on one search, the last one counts.
            latest = {}
            for run in model:
                for result in run.report.datasets:
                    # Figures of two versions of a set cannot be compared.
                    name = ", ".join(filter(None, (result.name, result.version)))
                    digest = result.query_values.search
                    searched = Searched(name, run.report.split, result.protocol, digest)
                    latest[searched] = result
            for searched, result in latest.items():
                answers.setdefault(searched, {}).setdefault(group.name, []).append(result)
    return answers


def differing_settings(groups: Sequence[Group]) -> dict[str, list[str]]:
    """Return the settings on which results depend and in which groups differ, by dotted name."""
    settings = []
    for group in groups:
        data = ", ".join(dataset.name for dataset in group.first.report.provenance.data)
        settings.append({"data": data} | dotted(deciding(group.first.recipe)))
    names = dict.fromkeys(name for known in settings for name in known)
    values = {name: [str(known.get(name, "")) for known in settings] for name in names}
    return {name: known for name, known in values.items() if len(set(known)) > 1}


def _compared(searched: Searched, sets: Sequence[Answers]) -> ComparedDataset:
    baseline = next(iter(sets[0]))
    base = [answers[baseline] for answers in sets]
    rankings = []
    for group in sets[0]:
        ours = [answers[group] for answers in sets]
        for ranking in ours[0][0].scorings:
            if all(ranking in seed.scorings for results in ours for seed in results):
                rankings.append(
                    ComparedRanking(
                        group=group,
                        ranking=ranking,
                        metrics=_intervals(ours, ranking),
                        **(_curves(ours[0], ranking) if len(sets) == 1 else {}),
                        **({} if group == baseline else _difference(ranking, ours, base)),
                    )
                )
    first = [results[0] for results in base]
    return ComparedDataset(
        name=searched.name,
        split=searched.split,
        protocol=searched.protocol,
        queries=sum(result.queries for result in first),
        gallery=sum(result.gallery for result in first),
        identities=sum(result.identities for result in first),
        baseline=baseline,
        rankings=rankings,
    )


def _curves(seeds: Sequence[DatasetResult], ranking: str) -> dict[str, Any]:
    """Return the curves of a ranking as means over seeds, which searched the same crops."""
    scorings = [seed.scorings[ranking] for seed in seeds]
    curves: dict[str, Any] = {"cmc": np.mean([scoring.cmc for scoring in scorings], 0).tolist()}
    if all(scoring.detection_curve for scoring in scorings):
        detected = np.mean([scoring.detection_curve for scoring in scorings], 0)
        curves["detection_curve"] = detected.tolist()
    return curves


def best_rankings(dataset: ComparedDataset) -> list[ComparedRanking]:
    """Return each group's ranking with the highest mAP, of those that have a detection curve."""
    groups: dict[str, list[ComparedRanking]] = {}
    for row in dataset.rankings:
        groups.setdefault(row.group, []).append(row)
    return [
        max(rows, key=lambda row: (bool(row.detection_curve), row.metrics["mAP"].mean))
        for rows in groups.values()
    ]


def _difference(
    ranking: str,
    sets: Sequence[Sequence[DatasetResult]],
    base: Sequence[Sequence[DatasetResult]],
) -> dict[str, Any]:
    """Return the difference to the baseline's ranking of that name or, without it, its cosine."""
    for against in (ranking, FALLBACK):
        if all(against in seed.scorings for seeds in base for seed in seeds):
            return {
                "against": against,
                "differences": _intervals(sets, ranking, base, against),
                "over_seeds": max(len(sets[0]), len(base[0])) > 1,
            }
    return {}


def _intervals(
    sets: Sequence[Sequence[DatasetResult]],
    ranking: str,
    base: Sequence[Sequence[DatasetResult]] = (),
    against: str = "",
) -> dict[str, Estimate]:
    """Return every metric's mean, or its difference to the base's mean, with an interval."""
    intervals = {}
    for metric in METRICS:
        ours = [_per_query(seeds, ranking, metric) for seeds in sets]
        theirs = [_per_query(seeds, against, metric) for seeds in base]
        people = [seeds[0].query_values.identities for seeds in sets]
        intervals[metric] = people_and_seeds_interval(list(zip_longest(ours, theirs, people)))
    return intervals


def _per_query(
    seeds: Sequence[DatasetResult],
    ranking: str,
    metric: str,
) -> Array:
    """Return a value per seed and query, `(S, N)`."""
    return np.stack([seed.query_values.rankings[ranking][metric] for seed in seeds])


def comparison_tables(comparison: Comparison) -> list[Table]:
    """Return a table for each data set, and one of the settings that differ."""
    tables = [
        ranking_table(f"{dataset.name}, split {dataset.split}, %", dataset, dataset.rankings)
        for dataset in comparison.datasets
    ]
    rows = [
        [name, *(value or None for value in values)] for name, values in comparison.settings.items()
    ]
    columns = ["setting", *comparison.runs]
    settings = Table("Settings that are not the same", columns, rows, words=True)
    return [*tables, settings] if rows else tables


def ranking_table(
    title: str,
    dataset: ComparedDataset,
    rows: Sequence[ComparedRanking],
    papers: Mapping[str, str] | None = None,
) -> Table:
    """Make a table of rankings of a set, their differences, and papers' figures by group."""
    others = sorted({row.ranking for row in rows if row.against not in ("", row.ranking)})
    fallback = f" (for {', '.join(others)} its {FALLBACK})" if others else ""
    return Table(
        title,
        [
            "model",
            "ranking",
            "mAP",
            "Δ mAP",
            "Rank-1",
            "Δ Rank-1",
            "mINP",
            "paper",
        ],
        [
            [
                row.group,
                row.ranking,
                row.metrics["mAP"],
                _delta(row, "mAP"),
                row.metrics["rank_1"],
                _delta(row, "rank_1"),
                row.metrics["mINP"],
                (papers or {}).get(row.group),
            ]
            for row in rows
        ],
        f"{dataset.protocol}; 95% intervals over people and seeds; "
        f"Δ: difference to {dataset.baseline}{fallback} over the same queries",
        labels=2,
    )


def _delta(row: ComparedRanking, metric: str) -> Value:
    if metric not in row.differences:
        return None
    cell = difference(row.differences[metric])
    # A difference between two single runs may be due to the seed, so that it gets no colour.
    return cell if row.over_seeds else cell._replace(mark="")
