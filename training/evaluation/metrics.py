"""Exact ranking metrics in bounded memory, computed from the ranks of the true matches alone.

The protocol is that of Market-1501: gallery images of the query's own identity *and* camera are
dropped, as is junk. Distractors stay as wrong answers. Queries without a remaining true match are
not counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from model.arrays import Array, Codes, Floats
from model.problems import InputProblem
from training.datasets.public import JUNK

# The largest numbers in memory at once. A score takes 4 bytes; the masks of a pair take more.
SCORES_PER_BLOCK = 4_000_000
PAIRS_PER_BLOCK = 2_000_000

ScoreRows = Callable[[slice], Floats]
"""Returns the scores of a slice of queries against the whole gallery, `(rows, G)`; high is near."""


@dataclass(frozen=True)
class PairLabels:
    """The identity and camera of every query and gallery image, as integers.

    Attributes:
        query_identities, query_cameras: `(Q,)` int64.
        gallery_identities, gallery_cameras: `(G,)` int64; junk has the identity −1.
        other_cameras_only: drop all gallery images of the query's camera, of other people too.
    """

    query_identities: Codes
    query_cameras: Codes
    gallery_identities: Codes
    gallery_cameras: Codes
    other_cameras_only: bool = False

    def across_cameras(self, rows: slice) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Return masks of the genuine and impostor pairs of some queries, two `(rows, G)`.

        Pairs under one camera are in neither, because a search across cameras does not meet them.
        """
        same = self.query_identities[rows, None] == self.gallery_identities[None, :]
        valid = self.query_cameras[rows, None] != self.gallery_cameras[None, :]
        valid &= self.gallery_identities[None, :] >= 0
        valid &= self.query_identities[rows, None] >= 0
        return same & valid, ~same & valid

    def blocks(self, scores: int | None = None) -> Iterator[slice]:
        """Yield consecutive slices of the queries with at most this many scores each."""
        queries = len(self.query_identities)
        gallery = len(self.gallery_identities)
        rows = max(1, (scores or SCORES_PER_BLOCK) // max(1, gallery))
        for start in range(0, queries, rows):
            yield slice(start, min(start + rows, queries))

    def pairs(self) -> Iterator[tuple[slice, NDArray[np.bool_], NDArray[np.bool_]]]:
        """Yield slices of queries with masks `(rows, G)` of genuine and impostor pairs.

        Only pairs across cameras are in them. If queries and gallery are the same list, every pair
        of crops exists twice, but is in a mask once.
        """
        gallery = np.arange(len(self.gallery_identities))
        one_list = np.array_equal(self.query_identities, self.gallery_identities)
        one_list = one_list and np.array_equal(self.query_cameras, self.gallery_cameras)
        for rows in self.blocks(PAIRS_PER_BLOCK):
            genuine, impostor = self.across_cameras(rows)
            if one_list:
                above = gallery[rows, None] < gallery[None, :]
                genuine = genuine & above
                impostor = impostor & above
            yield rows, genuine, impostor

    def count_pairs(self) -> tuple[int, int]:
        """Count the genuine and the impostor pairs across cameras."""
        one_person = 0
        two_people = 0
        for _, genuine, impostor in self.pairs():
            one_person += int(genuine.sum())
            two_people += int(impostor.sum())
        return one_person, two_people

    def part(
        self,
        queries: Codes,
        gallery: Codes,
    ) -> PairLabels:
        """Return the labels of some queries and gallery images, by their rows."""
        return replace(
            self,
            query_identities=self.query_identities[queries],
            query_cameras=self.query_cameras[queries],
            gallery_identities=self.gallery_identities[gallery],
            gallery_cameras=self.gallery_cameras[gallery],
        )


@dataclass(frozen=True)
class QueryMetrics:
    """The metrics of every counted query; all rankings of a search count the same queries.

    Attributes:
        queries: the rows of the counted queries, `(N,)` int64, ascending.
        average_precision: `(N,)` float64 by the step definition: the mean over true matches of the
            precision at their ranks (TREC; torchreid).
        average_precision_trapezoid: `(N,)` float64, the area under the precision-recall curve by
            trapezoids (Oxford buildings; Market-1501's own MATLAB code).
        inverse_negative_penalty: `(N,)` float64, the number of true matches divided by the rank of
            the last one (Ye et al., TPAMI 2021); its mean is mINP.
        first_rank: `(N,)` int64, the rank of the first true match, from 1.
        not_counted: the number of queries without a true match in the gallery.
    """

    queries: Codes
    average_precision: Array
    average_precision_trapezoid: Array
    inverse_negative_penalty: Array
    first_rank: Codes
    not_counted: int

    @classmethod
    def pooled(cls, parts: Sequence[QueryMetrics]) -> QueryMetrics:
        """Concatenate the queries of several searches."""
        names = [field.name for field in fields(cls) if field.name != "not_counted"]
        pooled = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
        return cls(**pooled, not_counted=sum(part.not_counted for part in parts))

    def values(self) -> dict[str, Array]:
        """Return the values of all queries, `(N,)`, 0 to 1, by the metric that is their mean."""
        at_rank = {f"rank_{k}": (self.first_rank <= k).astype(np.float64) for k in (1, 5, 10)}
        return {
            "mAP": self.average_precision,
            "mAP_trapezoid": self.average_precision_trapezoid,
            "mINP": self.inverse_negative_penalty,
        } | at_rank

    def means(self) -> dict[str, float]:
        """Return mAP in both definitions, mINP, and Rank-1/5/10, each 0 to 1."""
        return {name: float(value.mean()) for name, value in self.values().items()}

    def cmc(self, depth: int = 50) -> Array:
        """Return the shares of queries with a true match at rank 1…depth or better, `(depth,)`."""
        hits = np.bincount(np.minimum(self.first_rank, depth + 1), minlength=depth + 2)
        return np.cumsum(hits[1 : depth + 1]) / len(self.first_rank)


def integer_labels(
    query_identities: Sequence[str],
    query_cameras: Sequence[str],
    gallery_identities: Sequence[str],
    gallery_cameras: Sequence[str],
    other_cameras_only: bool = False,
) -> PairLabels:
    """Number the identities and cameras of queries and gallery images; junk becomes −1."""
    people = _numbers(query_identities, gallery_identities) | {JUNK: -1}
    cameras = _numbers(query_cameras, gallery_cameras)
    return PairLabels(
        np.array([people[name] for name in query_identities], dtype=np.int64),
        np.array([cameras[name] for name in query_cameras], dtype=np.int64),
        np.array([people[name] for name in gallery_identities], dtype=np.int64),
        np.array([cameras[name] for name in gallery_cameras], dtype=np.int64),
        other_cameras_only,
    )


def rank_queries(score_rows: ScoreRows, labels: PairLabels) -> QueryMetrics:
    """Rank the true matches of every query among the valid gallery images.

    Equal scores rank in gallery order, so that the result does not depend on the machine.

    Raises:
        InputProblem: no query has a true match under another camera, or a score is not finite.
    """
    queries = len(labels.query_identities)
    gallery = len(labels.gallery_identities)
    members = _members(labels.gallery_identities)
    taken_by = _members(labels.gallery_cameras) if labels.other_cameras_only else {}
    junk = members.get(-1, np.empty(0, dtype=np.int64))
    counted: list[int] = []
    figures: list[tuple[Array, ...]] = []
    for rows in labels.blocks() if gallery else ():
        block = score_rows(rows)
        if not (np.isfinite(block.min()) and np.isfinite(block.max())):
            raise InputProblem(
                f"a score of queries {rows.start} to {rows.stop - 1} is not a finite number; "
                "embed them again with another artefact"
            )
        ranks: list[Codes] = []
        for query, scores in enumerate(block, rows.start):
            same_person = members.get(int(labels.query_identities[query]), junk[:0])
            across = labels.gallery_cameras[same_person] != labels.query_cameras[query]
            if labels.query_identities[query] < 0 or not across.any():
                continue
            same_camera = taken_by.get(int(labels.query_cameras[query]), same_person[~across])
            dropped = np.concatenate([same_camera, junk])
            counted.append(query)
            ranks.append(positive_ranks(scores, same_person[across], dropped))
        if ranks:
            figures.append(_figures(ranks))
    if not counted:
        raise InputProblem(
            "no query has a true match under another camera; "
            "name data with people seen by two cameras or more"
        )
    step, trapezoid, penalty, first = map(np.concatenate, zip(*figures, strict=True))
    return QueryMetrics(
        queries=np.array(counted, dtype=np.int64),
        average_precision=step,
        average_precision_trapezoid=trapezoid,
        inverse_negative_penalty=penalty,
        first_rank=first.astype(np.int64),
        not_counted=queries - len(counted),
    )


def positive_ranks(
    scores: Floats,
    positives: Codes,
    dropped: Codes,
) -> Codes:
    """Return the ranks, from 1 and ascending, of a query's true matches among the valid images.

    Args:
        scores: the query's scores against the gallery, `(G,)`.
        positives: the gallery rows of the true matches, distinct, `(P,)`.
        dropped: the gallery rows to ignore, distinct, none of them a positive.
    """
    valid = scores.copy()
    valid[dropped] = -np.inf
    ordered = np.sort(valid)
    positive_scores = valid[positives]
    first, after = (np.searchsorted(ordered, positive_scores, side) for side in ("left", "right"))
    ahead = len(valid) - after
    for tied in np.flatnonzero(after - first > 1):
        ahead[tied] += np.count_nonzero(valid[: positives[tied]] == positive_scores[tied])
    return np.sort(ahead) + 1


def _figures(ranks: list[Codes]) -> tuple[Array, ...]:
    """Compute both average precisions, inverse negative penalty and first rank of every query.

    Args:
        ranks: for each query the ranks of its true matches, ascending.
    """
    sizes = np.array([len(of_query) for of_query in ranks])
    starts = np.cumsum(sizes) - sizes
    rank = np.concatenate(ranks)
    hits = np.arange(1, len(rank) + 1) - np.repeat(starts, sizes)
    precision = hits / rank
    # The precision just before a hit: one hit and one image less. Before the first image it is 1.
    before = np.where(rank > 1, (hits - 1) / np.maximum(rank - 1, 1), 1.0)
    step = np.add.reduceat(precision, starts) / sizes
    trapezoid = np.add.reduceat((precision + before) / 2, starts) / sizes
    return step, trapezoid, sizes / rank[starts + sizes - 1], rank[starts].astype(np.float64)


def _members(labels: Codes) -> dict[int, Codes]:
    """Return the gallery rows by label, ascending."""
    order = np.argsort(labels, kind="stable")
    people, starts = np.unique(labels[order], return_index=True)
    return {
        int(person): rows for person, rows in zip(people, np.split(order, starts)[1:], strict=True)
    }


def _numbers(*names: Sequence[str]) -> dict[str, int]:
    return {name: number for number, name in enumerate(sorted(set().union(*names)))}
