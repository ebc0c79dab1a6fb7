"""Multi-shot queries: all crops of a person under one camera are one query."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from training.evaluation.embedding import SearchFeatures
from training.evaluation.measuring import plain_result
from training.evaluation.metrics import PairLabels, ScoreRows, rank_queries
from training.evaluation.results import MultiShotResult
from training.evaluation.scoring import cosine_rows, unit_length

Pooling = Literal["mean", "max"]


def multi_shot_result(
    labels: PairLabels,
    features: SearchFeatures,
    pair_scores: dict[str, ScoreRows],
    how: Pooling,
) -> MultiShotResult:
    """Ranks the gallery for every person and camera that queries.

    Cosine compares the mean of a query's unit features; every other pair score is pooled over the
    query's crops. Re-ranking by neighbours is left to single crops.

    Args:
        labels: of the single-shot search.
        features: of its queries and gallery.
        pair_scores: to be measured, by name.
        how: the `mean` or the `max` of a query's scores.

    Raises:
        InputProblem: where no query has a true match under another camera.
    """
    groups = query_groups(labels)
    first = np.array([group[0] for group in groups])
    pooled = replace(
        labels,
        query_identities=labels.query_identities[first],
        query_cameras=labels.query_cameras[first],
    )
    units = [unit_length(features.queries[group]).mean(axis=0) for group in groups]
    rows = {name: pooled_rows(own, groups, how) for name, own in pair_scores.items()}
    if "cosine" in rows:
        rows["cosine"] = cosine_rows(np.stack(units), features.gallery)
    return MultiShotResult(
        how=how,
        queries=len(groups),
        crops_per_query=round(float(np.mean([len(group) for group in groups])), 2),
        scorings={
            name: plain_result(rank_queries(own, pooled), pooled) for name, own in rows.items()
        },
    )


def query_groups(labels: PairLabels) -> list[NDArray[np.int64]]:
    """The rows of every person's queries under one camera, ascending."""
    people = np.stack([labels.query_identities, labels.query_cameras])
    _, member = np.unique(people, axis=1, return_inverse=True)
    order = np.argsort(member.reshape(-1), kind="stable")
    return np.split(order, np.cumsum(np.bincount(member.reshape(-1)))[:-1])


def pooled_rows(rows: ScoreRows, groups: list[NDArray[np.int64]], how: Pooling) -> ScoreRows:
    """The mean or the highest score of every group's queries, from the rows of the queries."""

    def rows_of(asked: slice) -> NDArray[np.float32]:
        found = []
        for group in groups[asked]:
            scores = np.concatenate([rows(slice(row, row + 1)) for row in group.tolist()])
            found.append(scores.mean(axis=0) if how == "mean" else scores.max(axis=0))
        return np.stack(found)

    return rows_of
