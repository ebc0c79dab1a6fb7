"""Exact ranking metrics in bounded memory: only the ranks of the true matches are computed.

The protocol is Market-1501's: a gallery image of the query's own identity *and* camera is dropped,
junk is dropped, distractors stay as wrong answers, and a query without a remaining true match is
not counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from model.problems import InputProblem
from training.datasets.public import JUNK

# How many exist at once: a score takes 4 bytes, a pair's masks and labels more.
SCORES_PER_BLOCK = 4_000_000
PAIRS_PER_BLOCK = 2_000_000

ScoreRows = Callable[[slice], NDArray[np.float32]]
"""From a slice of queries to their scores against the whole gallery, `(rows, G)`, higher nearer."""


@dataclass(frozen=True)
class PairLabels:
    """The person and camera of every query and gallery image, as integers.

    Attributes:
        query_identities, query_cameras: `(Q,)` int64.
        gallery_identities, gallery_cameras: `(G,)` int64; junk is the identity −1.
        other_cameras_only: drop every gallery image of the query's camera, not its person's alone.
    """

    query_identities: NDArray[np.int64]
    query_cameras: NDArray[np.int64]
    gallery_identities: NDArray[np.int64]
    gallery_cameras: NDArray[np.int64]
    other_cameras_only: bool = False

    def across_cameras(self, rows: slice) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Return genuine and impostor pairs of some queries with the gallery, two `(rows, G)`.

        Pairs under one camera are neither: a search across cameras never meets the easy genuine
        ones, and its impostors are those of other cameras.
        """
        same = self.query_identities[rows, None] == self.gallery_identities[None, :]
        valid = self.query_cameras[rows, None] != self.gallery_cameras[None, :]
        valid &= self.gallery_identities[None, :] >= 0
        valid &= self.query_identities[rows, None] >= 0
        return same & valid, ~same & valid

    def blocks(self, scores: int | None = None) -> Iterator[slice]:
        """Yield slices of the queries of at most this many scores, one after the other."""
        queries = len(self.query_identities)
        gallery = len(self.gallery_identities)
        rows = max(1, (scores or SCORES_PER_BLOCK) // max(1, gallery))
        for start in range(0, queries, rows):
            yield slice(start, min(start + rows, queries))

    def pairs(self) -> Iterator[tuple[slice, NDArray[np.bool_], NDArray[np.bool_]]]:
        """Yield every cross-camera pair once: queries, and masks `(rows, G)` of one's and two's.

        Where queries and gallery are one list, as when every crop queries all others, a pair is
        there twice and is given once.
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
        """Return how many pairs across cameras show one person, and how many two."""
        one_person = 0
        two_people = 0
        for _, genuine, impostor in self.pairs():
            one_person += int(genuine.sum())
            two_people += int(impostor.sum())
        return one_person, two_people

    def part(
        self,
        queries: NDArray[np.int64],
        gallery: NDArray[np.int64],
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
    """One value per counted query; the rows of two scorings of the same data are comparable.

    Attributes:
        queries: `(N,)` int64, which queries were counted, ascending.
        average_precision: `(N,)` float64, the step definition: mean over true matches of the
            precision at each one's rank (TREC; torchreid).
        average_precision_trapezoid: `(N,)` float64, the area under the precision-recall curve by
            trapezoids (Oxford buildings; Market-1501's own MATLAB code).
        inverse_negative_penalty: `(N,)` float64, true matches divided by the hardest one's rank
            (Ye et al., TPAMI 2021); its mean is mINP.
        first_rank: `(N,)` int64, rank of the best true match, from 1.
        not_counted: number of queries without a true match in the gallery.
    """

    queries: NDArray[np.int64]
    average_precision: NDArray[np.float64]
    average_precision_trapezoid: NDArray[np.float64]
    inverse_negative_penalty: NDArray[np.float64]
    first_rank: NDArray[np.int64]
    not_counted: int

    @classmethod
    def pooled(cls, parts: Sequence[QueryMetrics]) -> QueryMetrics:
        """Return all queries of several searches, one after the other."""
        names = [field.name for field in fields(cls) if field.name != "not_counted"]
        pooled = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
        return cls(**pooled, not_counted=sum(part.not_counted for part in parts))

    def values(self) -> dict[str, NDArray[np.float64]]:
        """Return per-query values by the metric that is their mean, each `(N,)`, 0 to 1."""
        at_rank = {f"rank_{k}": (self.first_rank <= k).astype(np.float64) for k in (1, 5, 10)}
        return {
            "mAP": self.average_precision,
            "mAP_trapezoid": self.average_precision_trapezoid,
            "mINP": self.inverse_negative_penalty,
        } | at_rank

    def means(self) -> dict[str, float]:
        """Return mAP in both definitions, mINP, and Rank-1/5/10, each 0 to 1."""
        return {name: float(value.mean()) for name, value in self.values().items()}

    def cmc(self, depth: int = 50) -> NDArray[np.float64]:
        """Return the share of queries with a true match at rank 1…depth or better, `(depth,)`."""
        hits = np.bincount(np.minimum(self.first_rank, depth + 1), minlength=depth + 2)
        return np.cumsum(hits[1 : depth + 1]) / len(self.first_rank)


def integer_labels(
    query_identities: Sequence[str],
    query_cameras: Sequence[str],
    gallery_identities: Sequence[str],
    gallery_cameras: Sequence[str],
    other_cameras_only: bool = False,
) -> PairLabels:
    """Number the identities and cameras of one data set; junk becomes −1.

    Args:
        query_identities, query_cameras: one per query.
        gallery_identities, gallery_cameras: one per gallery image.
        other_cameras_only: as in `PairLabels`.
    """
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
    """Rank every query's true matches among the valid gallery images.

    Equal scores rank in gallery order, so that the result is one and the same everywhere.

    Raises:
        InputProblem: when no query has a true match under another camera, or a score is not a
            finite number.
    """
    queries = len(labels.query_identities)
    gallery = len(labels.gallery_identities)
    members = _members(labels.gallery_identities)
    taken_by = _members(labels.gallery_cameras) if labels.other_cameras_only else {}
    junk = members.get(-1, np.empty(0, dtype=np.int64))
    counted: list[int] = []
    figures: list[tuple[NDArray[np.float64], ...]] = []
    for rows in labels.blocks() if gallery else ():
        block = score_rows(rows)
        if not (np.isfinite(block.min()) and np.isfinite(block.max())):
            raise InputProblem(
                f"a score of queries {rows.start} to {rows.stop - 1} is not a finite number; "
                "embed them again with a sound artefact"
            )
        ranks: list[NDArray[np.int64]] = []
        for query, scores in enumerate(block, rows.start):
            own = members.get(int(labels.query_identities[query]), junk[:0])
            across = labels.gallery_cameras[own] != labels.query_cameras[query]
            if labels.query_identities[query] < 0 or not across.any():
                continue
            same_camera = taken_by.get(int(labels.query_cameras[query]), own[~across])
            dropped = np.concatenate([same_camera, junk])
            counted.append(query)
            ranks.append(positive_ranks(scores, own[across], dropped))
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
    scores: NDArray[np.float32],
    positives: NDArray[np.int64],
    dropped: NDArray[np.int64],
) -> NDArray[np.int64]:
    """Return ranks, from 1 and ascending, of some gallery images among all not dropped.

    Args:
        scores: of one query against the gallery, `(G,)`.
        positives: gallery rows whose ranks are asked, distinct, `(P,)`.
        dropped: gallery rows that do not exist for this query, distinct, none of them a positive.
    """
    valid = scores.copy()
    valid[dropped] = -np.inf
    ordered = np.sort(valid)
    own = valid[positives]
    first, after = (np.searchsorted(ordered, own, side) for side in ("left", "right"))
    ahead = len(valid) - after
    for tied in np.flatnonzero(after - first > 1):
        ahead[tied] += np.count_nonzero(valid[: positives[tied]] == own[tied])
    return np.sort(ahead) + 1


def _figures(ranks: list[NDArray[np.int64]]) -> tuple[NDArray[np.float64], ...]:
    """Return average precisions, inverse negative penalty and first rank of every query.

    The ranks of each query's true matches are ascending.
    """
    sizes = np.array([len(of_query) for of_query in ranks])
    starts = np.cumsum(sizes) - sizes
    rank = np.concatenate(ranks)
    hits = np.arange(1, len(rank) + 1) - np.repeat(starts, sizes)
    precision = hits / rank
    # Just before a hit: one hit fewer, one image fewer. Before the first image it is defined as 1.
    before = np.where(rank > 1, (hits - 1) / np.maximum(rank - 1, 1), 1.0)
    step = np.add.reduceat(precision, starts) / sizes
    trapezoid = np.add.reduceat((precision + before) / 2, starts) / sizes
    return step, trapezoid, sizes / rank[starts + sizes - 1], rank[starts].astype(np.float64)


def _members(labels: NDArray[np.int64]) -> dict[int, NDArray[np.int64]]:
    """Return the gallery rows of every label, ascending."""
    order = np.argsort(labels, kind="stable")
    people, starts = np.unique(labels[order], return_index=True)
    return {
        int(person): rows for person, rows in zip(people, np.split(order, starts)[1:], strict=True)
    }


def _numbers(*names: Sequence[str]) -> dict[str, int]:
    return {name: number for number, name in enumerate(sorted(set().union(*names)))}
