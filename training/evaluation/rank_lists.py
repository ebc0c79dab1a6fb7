"""Some queries and the best answers to them, true and false, from the hardest to the easiest."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from training.evaluation.metrics import QueryMetrics, ScoreRows
from training.evaluation.results import RankedCrop, RankList
from training.evaluation.searches import Search

QUERIES = 8
DEPTH = 10
RANKINGS = 2
"""How many queries are shown, crops of each, and rankings side by side."""


def rank_lists(
    search: Search,
    rows: Mapping[str, ScoreRows],
    metrics: Mapping[str, QueryMetrics],
) -> list[RankList]:
    """Return the rank lists of queries spaced evenly by their average precision.

    Args:
        search: the queries and the gallery.
        rows: the scores of every ranking.
        metrics: of the same rankings; the first two are shown, and the second one's average
            precision orders the queries.

    Returns:
        Nothing for a search of random splits, each of which has a gallery of its own.
    """
    if not metrics or search.splits:
        return []
    labels = search.labels()
    shown = list(metrics.items())[:RANKINGS]
    judge = shown[-1][1]
    order = np.argsort(judge.average_precision, kind="stable")
    places = np.linspace(0, len(order) - 1, min(QUERIES, len(order))).round().astype(int)
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
        for name, _ in shown:
            scores = rows[name](slice(query, query + 1))[0]
            ranked[name] = [
                RankedCrop(
                    row=int(row),
                    identity=search.gallery[row].identity,
                    camera=search.gallery[row].camera,
                    score=round(float(scores[row]), 4),
                    right=bool(own[row]),
                )
                for row in valid[np.argsort(-scores[valid], kind="stable")[:DEPTH]]
            ]
        lists.append(
            RankList(
                row=query,
                identity=record.identity,
                camera=record.camera,
                average_precision={
                    name: round(float(one.average_precision[place]), 4) for name, one in shown
                },
                ranked=ranked,
            )
        )
    return lists
