"""Compute all figures of a model on one data set."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, cast

import numpy as np

from model.arrays import Codes
from model.artefact import Artefact
from model.calibration import SCORINGS, Scoring, ScoringCalibration
from training.datasets.record import Dataset
from training.evaluation.centring import CentredSearch
from training.evaluation.embedding import SearchFeatures
from training.evaluation.intervals import Estimate, mean_intervals
from training.evaluation.k_reciprocal import k_reciprocal_rows
from training.evaluation.metrics import PairLabels, QueryMetrics, ScoreRows, rank_queries
from training.evaluation.results import (
    DatasetResult,
    RankedCrop,
    RankList,
    ScoringResult,
)
from training.evaluation.runs import query_values
from training.evaluation.scoring import SearchScores, cosine_rows
from training.evaluation.searches import RandomSplit, Search
from training.evaluation.sweep import (
    detection_curve,
    half_enrolled,
    histograms,
    operating_points,
    sweep,
    true_accept_rates,
)
from training.provenance import TrainingFingerprints
from training.seen import seen_people

WORST_QUERIES = 3
LISTED_QUERIES = 8
LISTED_CROPS = 10
LISTED_RANKINGS = 2
"""The size of rank lists: the numbers of queries, of crops for each, and of rankings."""
RE_RANKED = "k_reciprocal"
CENTRED = "centred"
"""The cosine of features that are centred by camera."""
RANKINGS: tuple[str, ...] = (*SCORINGS, CENTRED, RE_RANKED)
RowsOf = Callable[[RandomSplit | None], ScoreRows]
"""Returns the scores of a whole search, or of one random split of it."""


def evaluate_search(
    artefact: Artefact | None,
    dataset: Dataset,
    search: Search,
    scorings: Sequence[str],
    features: SearchFeatures,
    scores: SearchScores,
    centred: CentredSearch | None = None,
) -> DatasetResult:
    """Compute all figures of a model on one data set.

    Args:
        artefact: the artefact whose calibration is measured; None for a ready-made model.
        dataset, search: the data set and its search.
        scorings: the rankings to measure, some of `RANKINGS`.
        features, scores: the model's features and scores of the search.
        centred: the search by centred vectors, for the ranking `centred`.

    Raises:
        InputProblem: no query has a true match.
    """
    labels = search.labels()
    metrics: dict[str, QueryMetrics] = {}
    results: dict[str, ScoringResult] = {}
    rows: dict[str, ScoreRows] = {}
    for name in scorings:
        if name == RE_RANKED:
            metrics[name] = rank_search(search, partial(_re_ranked, search, features))
            results[name] = plain_result(metrics[name], labels)
            continue
        fitted = None
        if name == CENTRED and centred is not None:
            # The artefact's calibration is of cosines that are not centred.
            rows[name] = cosine_rows(*centred.features)
        else:
            scoring = cast(Scoring, name)
            rows[name] = scores.by_scoring[scoring]
            if artefact is not None:
                fitted = artefact.description.calibration.scorings[scoring]
        metrics[name] = rank_search(search, partial(rows_of_split, rows[name]))
        figures = _pair_figures(rows[name], search, fitted)
        results[name] = plain_result(metrics[name], labels).model_copy(update=figures)
    return DatasetResult(
        **_described(artefact, dataset, search),
        not_counted=next(iter(metrics.values())).not_counted,
        scorings=results,
        differences=paired_differences(metrics, labels),
        worst_queries=worst_queries(search, rows, metrics),
        rank_lists=rank_lists(search, rows, metrics),
        centring=None if centred is None else centred.result,
        query_values=query_values(search, metrics),
    )


def _described(
    artefact: Artefact | None,
    dataset: Dataset,
    search: Search,
) -> dict[str, Any]:
    """Describe a search, and the people in it that the artefact was trained on."""
    described: dict[str, Any] = {
        "name": dataset.name,
        "spec": dataset.spec,
        "terms": dataset.terms,
        "version": dataset.version,
        "protocol": search.protocol,
        "queries": len(search.queries),
        "gallery": len(search.gallery),
        "identities": len({record.identity for record in search.records}),
    }
    if artefact is None:
        return described
    training = TrainingFingerprints.of(artefact)
    seen = seen_people(artefact.description.provenance, training, dataset)
    return described | {
        "seen_in_training": bool(seen.of(search)),
        "seen_identities": len(seen.of(search)),
        "seen_because": list(seen.reasons),
        "used_to_calibrate": search.held_out,
    }


def rank_search(search: Search, rows_of: RowsOf) -> QueryMetrics:
    """Rank a search, or each of its random splits, whose queries are then pooled.

    All splits have the same number of queries, so that a mean over the pooled queries is a mean
    over the splits. A query counts once in every split that it is in.
    """
    labels = search.labels()
    if not search.splits:
        return rank_queries(rows_of(None), labels)
    metrics = []
    for split in search.splits:
        ranked = rank_queries(rows_of(split), labels.part(split.queries, split.gallery))
        metrics.append(replace(ranked, queries=split.queries[ranked.queries]))
    return QueryMetrics.pooled(metrics)


def rows_of_split(rows: ScoreRows, split: RandomSplit | None) -> ScoreRows:
    """Select the scores of one random split; they fit into memory, since such sets are small."""
    if split is None:
        return rows
    scores = rows(slice(0, int(split.queries.max()) + 1))[np.ix_(split.queries, split.gallery)]
    return lambda queries: scores[queries]


def _re_ranked(
    search: Search,
    features: SearchFeatures,
    split: RandomSplit | None,
) -> ScoreRows:
    """Compute the scores of k-reciprocal re-ranking, which depend on the whole search."""
    queries, gallery = features
    if split is not None:
        queries = queries[split.queries]
        gallery = gallery[split.gallery]
    one_list = split is None and search.gallery is search.queries
    return k_reciprocal_rows(queries, gallery, one_list=one_list)


def plain_result(metrics: QueryMetrics, labels: PairLabels) -> ScoringResult:
    """Return the metrics of a ranking, with intervals over queries and over people, and its CMC.

    In random splits a query counts several times, so that both intervals are over people.
    """
    values = metrics.values()
    over_people = mean_intervals(values, labels.query_identities[metrics.queries])
    pooled = len(np.unique(metrics.queries)) < len(metrics.queries)
    return ScoringResult(
        metrics=over_people if pooled else mean_intervals(values),
        cmc=metrics.cmc().tolist(),
        over_identities=over_people,
    )


def _pair_figures(
    rows: ScoreRows,
    search: Search,
    calibration: ScoringCalibration | None,
) -> dict[str, Any]:
    """Compute the figures of thresholds and probabilities, which a re-ranking does not have."""
    labels = search.labels()
    swept = sweep(rows, labels)
    uncalibrated = {
        "detection_curve": detection_curve(swept),
        "half_enrolled": None if search.splits else half_enrolled(swept),
        "verification": true_accept_rates(swept),
    }
    if calibration is None:
        return uncalibrated
    distribution, error = histograms(rows, labels, swept, calibration)
    return {
        **uncalibrated,
        "operating_points": operating_points(swept, calibration),
        "distribution": distribution,
        "expected_calibration_error": error,
    }


def paired_differences(
    metrics: Mapping[str, QueryMetrics],
    labels: PairLabels,
) -> dict[str, dict[str, Estimate]]:
    """Return the differences of each ranking to the cosine, with intervals over people."""
    if "cosine" not in metrics:
        return {}
    cosine = metrics["cosine"].values()
    differences = {}
    for name, ranked in metrics.items():
        if name != "cosine":
            people = labels.query_identities[ranked.queries]
            paired = {metric: values - cosine[metric] for metric, values in ranked.values().items()}
            differences[f"{name} - cosine"] = mean_intervals(paired, people)
    return differences


def worst_queries(
    search: Search,
    rows: Mapping[str, ScoreRows],
    metrics: Mapping[str, QueryMetrics],
) -> list[RankList]:
    """List the best crops of the hardest query of each of the people who are found worst.

    Arguments and result are those of `rank_lists`.
    """
    order = _from_the_hardest(search, rows, metrics)
    people = search.labels().query_identities[order]
    _, first = np.unique(people, return_index=True)
    return _lists(search, rows, metrics, order[np.sort(first)[:WORST_QUERIES]])


def rank_lists(
    search: Search,
    rows: Mapping[str, ScoreRows],
    metrics: Mapping[str, QueryMetrics],
) -> list[RankList]:
    """List the best crops of some queries, from the hardest query to the easiest.

    Args:
        search: the queries and the gallery.
        rows: the scores of each pair score; the first two are shown side by side.
        metrics: the metrics of every ranking. The last of the shown rankings orders the queries by
            average precision, at even distances.

    Returns:
        The rank lists; none for random splits, each of which has a gallery of its own.
    """
    order = _from_the_hardest(search, rows, metrics)
    number = min(LISTED_QUERIES, len(order))
    even = np.linspace(0, len(order) - 1, number).round().astype(np.int64)
    return _lists(search, rows, metrics, order[even])


def _from_the_hardest(
    search: Search,
    rows: Mapping[str, ScoreRows],
    metrics: Mapping[str, QueryMetrics],
) -> Codes:
    """Return the rows of the queries by average precision; none where none is listed."""
    if not rows or search.splits:
        return np.empty(0, np.int64)
    ordering = metrics[list(rows)[:LISTED_RANKINGS][-1]]
    return ordering.queries[np.argsort(ordering.average_precision, kind="stable")]


def _lists(
    search: Search,
    rows: Mapping[str, ScoreRows],
    metrics: Mapping[str, QueryMetrics],
    queries: Codes,
) -> list[RankList]:
    """List the best crops of these queries."""
    shown = list(rows)[:LISTED_RANKINGS]
    labels = search.labels()
    lists = []
    for query in queries.tolist():
        record = search.queries[query]
        is_same_person = labels.gallery_identities == labels.query_identities[query]
        dropped = labels.gallery_cameras == labels.query_cameras[query]
        if not labels.other_cameras_only:
            dropped &= is_same_person
        valid = np.flatnonzero(~dropped & (labels.gallery_identities >= 0))
        ranked = {}
        precision = {}
        for name in shown:
            scores = rows[name](slice(query, query + 1))[0]
            best = valid[np.argsort(-scores[valid], kind="stable")[:LISTED_CROPS]].tolist()
            ranked[name] = [
                RankedCrop(
                    row=row,
                    identity=search.gallery[row].identity,
                    camera=search.gallery[row].camera,
                    score=round(float(scores[row]), 4),
                    right=bool(is_same_person[row]),
                )
                for row in best
            ]
            place = int(np.flatnonzero(metrics[name].queries == query)[0])
            precision[name] = round(float(metrics[name].average_precision[place]), 4)
        lists.append(
            RankList(
                row=query,
                identity=record.identity,
                camera=record.camera,
                average_precision=precision,
                ranked=ranked,
            )
        )
    return lists
