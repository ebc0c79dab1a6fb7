"""All figures of a model on one data set."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, cast

import numpy as np

from model.artefact import Artefact
from model.calibration import SCORINGS, Scoring, ScoringCalibration
from training.datasets.record import Dataset
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
from training.evaluation.scoring import SearchScores
from training.evaluation.searches import RandomSplit, Search
from training.evaluation.sweep import (
    detection_curve,
    half_enrolled,
    histograms,
    operating_points,
    sweep,
    true_accept_rates,
)
from training.seen import seen_people

LISTED_QUERIES = 8
LISTED_CROPS = 10
LISTED_RANKINGS = 2
"""How many queries are shown, crops of each, and rankings side by side."""
RE_RANKED = "k_reciprocal"
RANKINGS: tuple[str, ...] = (*SCORINGS, RE_RANKED)
RowsOf = Callable[[RandomSplit | None], ScoreRows]
"""The scores of a whole search, or of one split of it."""


def evaluate_search(
    artefact: Artefact | None,
    dataset: Dataset,
    search: Search,
    scorings: Sequence[str],
    features: SearchFeatures,
    scores: SearchScores,
) -> DatasetResult:
    """Return all figures of a model on one data set.

    Args:
        artefact: its calibration is held against the scores; None for a ready-made model, which has
            none.
        dataset, search: the data set, and its queries and gallery.
        scorings: which rankings to measure, of `RANKINGS`.
        features, scores: of the search by this model.

    Raises:
        InputProblem: where no query has a true match.
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
        scoring = cast(Scoring, name)
        fitted = None
        if artefact is not None:
            fitted = artefact.description.calibration.scorings[scoring]
        rows[name] = scores.by_scoring[scoring]
        metrics[name] = rank_search(search, partial(rows_of_split, rows[name]))
        figures = _pair_figures(rows[name], search, fitted)
        results[name] = plain_result(metrics[name], labels).model_copy(update=figures)
    return DatasetResult(
        **_described(artefact, dataset, search),
        not_counted=next(iter(metrics.values())).not_counted,
        scorings=results,
        differences=paired_differences(metrics, labels),
        rank_lists=rank_lists(search, rows, metrics),
        query_values=query_values(search, metrics),
    )


def _described(
    artefact: Artefact | None,
    dataset: Dataset,
    search: Search,
) -> dict[str, Any]:
    """Describe a search, and which of its people the artefact has seen."""
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
    seen = seen_people(artefact.description.provenance, artefact.training, dataset)
    return described | {
        "seen_in_training": bool(seen.of(search)),
        "seen_identities": len(seen.of(search)),
        "seen_because": list(seen.reasons),
        "used_to_calibrate": search.held_out,
    }


def rank_search(search: Search, rows_of: RowsOf) -> QueryMetrics:
    """Ranks a search; where its set is split at random, every split, the queries pooled.

    All splits have one number of queries, so that a mean over the pooled queries is the mean over
    the splits. A query is counted once for every split that it is in.
    """
    labels = search.labels()
    if not search.splits:
        return rank_queries(rows_of(None), labels)
    found = []
    for split in search.splits:
        one = rank_queries(rows_of(split), labels.part(split.queries, split.gallery))
        found.append(replace(one, queries=split.queries[one.queries]))
    return QueryMetrics.pooled(found)


def rows_of_split(rows: ScoreRows, split: RandomSplit | None) -> ScoreRows:
    """Return the rows and columns of one split; sets that are split at random are small ones."""
    if split is None:
        return rows
    scores = rows(slice(0, int(split.queries.max()) + 1))[np.ix_(split.queries, split.gallery)]
    return lambda own: scores[own]


def _re_ranked(
    search: Search,
    features: SearchFeatures,
    split: RandomSplit | None,
) -> ScoreRows:
    """Return the scores of k-reciprocal re-ranking, which order one search and no more."""
    queries, gallery = features
    if split is not None:
        queries = queries[split.queries]
        gallery = gallery[split.gallery]
    one_list = split is None and search.gallery is search.queries
    return k_reciprocal_rows(queries, gallery, one_list=one_list)


def plain_result(metrics: QueryMetrics, labels: PairLabels) -> ScoringResult:
    """Return the metrics of a ranking, their intervals over queries and people, and the CMC.

    A query that is in several random splits counts several times, so these have no interval over
    queries: both are over people.
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
    """Return the figures of a pair score beside its ranking; most are of its calibration."""
    labels = search.labels()
    found = sweep(rows, labels)
    uncalibrated = {
        "half_enrolled": None if search.splits else half_enrolled(found),
        "verification": true_accept_rates(found),
    }
    if calibration is None:
        return uncalibrated
    distribution, error = histograms(rows, labels, found, calibration)
    return {
        **uncalibrated,
        "operating_points": operating_points(found, calibration),
        "detection_curve": detection_curve(found),
        "distribution": distribution,
        "expected_calibration_error": error,
    }


def paired_differences(
    metrics: Mapping[str, QueryMetrics],
    labels: PairLabels,
) -> dict[str, dict[str, Estimate]]:
    """Return each ranking less the cosine over the same queries, with intervals over people."""
    if "cosine" not in metrics:
        return {}
    cosine = metrics["cosine"].values()
    differences = {}
    for name, ranked in metrics.items():
        if name != "cosine":
            people = labels.query_identities[ranked.queries]
            apart = {metric: values - cosine[metric] for metric, values in ranked.values().items()}
            differences[f"{name} - cosine"] = mean_intervals(apart, people)
    return differences


def rank_lists(
    search: Search,
    rows: Mapping[str, ScoreRows],
    metrics: Mapping[str, QueryMetrics],
) -> list[RankList]:
    """Return the rank lists of queries spaced evenly by their average precision.

    Args:
        search: the queries and the gallery.
        rows: the scores of every ranking.
        metrics: of every ranking; the first two with rows are shown, and the second one's average
            precision orders the queries.

    Returns:
        Nothing for a search of random splits, each of which has a gallery of its own.
    """
    shown = list(rows)[:LISTED_RANKINGS]
    if not shown or search.splits:
        return []
    labels = search.labels()
    judge = metrics[shown[-1]]
    order = np.argsort(judge.average_precision, kind="stable")
    places = np.linspace(0, len(order) - 1, min(LISTED_QUERIES, len(order))).round().astype(int)
    lists = []
    for place in order[places]:
        query = int(judge.queries[place])
        record = search.queries[query]
        own = labels.gallery_identities == labels.query_identities[query]
        dropped = labels.gallery_cameras == labels.query_cameras[query]
        if not labels.other_cameras_only:
            dropped &= own
        valid = np.flatnonzero(~dropped & (labels.gallery_identities >= 0))
        ranked = {}
        for name in shown:
            scores = rows[name](slice(query, query + 1))[0]
            best = valid[np.argsort(-scores[valid], kind="stable")[:LISTED_CROPS]].tolist()
            ranked[name] = [
                RankedCrop(
                    row=row,
                    identity=search.gallery[row].identity,
                    camera=search.gallery[row].camera,
                    score=round(float(scores[row]), 4),
                    right=bool(own[row]),
                )
                for row in best
            ]
        precision = {
            name: round(float(metrics[name].average_precision[place]), 4) for name in shown
        }
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
