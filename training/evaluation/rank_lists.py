"""Some queries and the best answers to them, true and false, from the hardest to the easiest."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from training.evaluation.metrics import PairLabels, QueryMetrics, ScoreRows
from training.evaluation.results import RankedCrop, RankList
from training.evaluation.searches import Search

QUERIES = 8
DEPTH = 10
RANKINGS = 2


def rank_lists(
    search: Search,
    rows: Mapping[str, ScoreRows],
    metrics: Mapping[str, QueryMetrics],
    queries: int = QUERIES,
    depth: int = DEPTH,
) -> list[RankList]:
    """The rank lists of queries spaced evenly by their average precision.

    Args:
        search: the queries and the gallery.
        rows: the scores of every ranking.
        metrics: of the same rankings; the first two are shown, and the second one's average
            precision orders the queries.
        queries: how many.
        depth: how many of the gallery's valid crops a list holds.

    Returns:
        Nothing for a search of random splits, each of which has a gallery of its own.
    """
    if not metrics or search.splits:
        return []
    labels = search.labels()
    metrics = dict(list(metrics.items())[:RANKINGS])
    judge = list(metrics.values())[-1]
    order = np.argsort(judge.average_precision, kind="stable")
    places = np.linspace(0, len(order) - 1, min(queries, len(order))).round().astype(int)
    return [_rank_list(search, labels, rows, metrics, int(place), depth) for place in order[places]]


def _rank_list(
    search: Search,
    labels: PairLabels,
    rows: Mapping[str, ScoreRows],
    metrics: Mapping[str, QueryMetrics],
    place: int,
    depth: int,
) -> RankList:
    query = int(next(iter(metrics.values())).queries[place])
    record = search.queries[query]
    valid = _valid(labels, query)
    ranked = {}
    for name in metrics:
        scores = rows[name](slice(query, query + 1))[0]
        best = valid[np.argsort(-scores[valid], kind="stable")[:depth]]
        ranked[name] = [
            RankedCrop(
                row=int(row),
                identity=search.gallery[row].identity,
                camera=search.gallery[row].camera,
                score=round(float(scores[row]), 4),
                right=bool(labels.gallery_identities[row] == labels.query_identities[query]),
            )
            for row in best
        ]
    return RankList(
        row=query,
        identity=record.identity,
        camera=record.camera,
        average_precision={
            name: round(float(found.average_precision[place]), 4) for name, found in metrics.items()
        },
        ranked=ranked,
    )


def _valid(labels: PairLabels, query: int) -> NDArray[np.int64]:
    """Gallery rows that a query is ranked against, ascending."""
    own = labels.gallery_identities == labels.query_identities[query]
    same_camera = labels.gallery_cameras == labels.query_cameras[query]
    dropped = same_camera if labels.other_cameras_only else same_camera & own
    return np.flatnonzero(~dropped & (labels.gallery_identities >= 0))
