"""From features to a ranking: search, score pairs, order, group. Runs on the device thread."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from model.calibration import (
    SEARCH_OPERATING_POINTS,
    Calibration,
    Scoring,
    ScoringCalibration,
    Verdict,
)
from service.gallery.index import Candidates, GalleryIndex, first_of_each
from service.gallery.records import CropLabel, StoredCrop
from service.gallery.rows import Filter
from service.inference.networks import Networks

GroupBy = Literal["crop", "identity"]
OperatingPoint = Literal["far_1e-1", "far_1e-2", "far_1e-3"]
SearchVerdict = Verdict | Literal["nothing_searched"]


@dataclass(frozen=True)
class RankingOptions:
    """What is asked of a ranking.

    Attributes:
        top_k: how many results; groups, where grouped.
        rerank_depth: how many of the nearest by cosine M-Net scores.
        scoring: what orders them.
        group_by: `identity` keeps the best crop of each; a crop without one stands for itself.
        operating_point: the share of searches for a stranger that may be answered `match`.
        wanted: which crops may be returned.
        camera_disjoint: leave out the camera of the crop that is asked about.
    """

    top_k: int = 10
    rerank_depth: int = 100
    scoring: Scoring = "mnet"
    group_by: GroupBy = "crop"
    operating_point: OperatingPoint = "far_1e-2"
    wanted: Filter = field(default_factory=Filter)
    camera_disjoint: bool = False


@dataclass(frozen=True)
class RankedCrop:
    """One result; logit, probability and verdict are None where the scoring did not reach it.

    Attributes:
        record: what the client stored with the crop; None where the record did not answer.
    """

    label: CropLabel
    cosine: float
    pair_logit: float | None
    probability: float | None
    verdict: Verdict | None
    record: StoredCrop | None = None


@dataclass(frozen=True)
class Ranking:
    """Results, best first, and what it took.

    Attributes:
        verdict: of the best result, against a gallery of the size that was searched;
            `nothing_searched` where no crop passed the filter.
        candidates_scored: how many crops the asked scoring scored.
        search_seconds, rerank_seconds: of the index and of M-Net.
    """

    verdict: SearchVerdict
    results: tuple[RankedCrop, ...]
    candidates_scored: int
    search_seconds: float
    rerank_seconds: float


@dataclass(frozen=True)
class _Ordered:
    """Rows best first; NaN is a logit or score that was not computed."""

    rows: NDArray[np.int64]
    cosines: NDArray[np.float32]
    logits: NDArray[np.float32]
    scores: NDArray[np.float32]


def rank(
    index: GalleryIndex,
    networks: Networks,
    calibration: Calibration,
    queries: NDArray[np.float32],
    options: RankingOptions,
) -> Ranking:
    """Ranks a gallery against the features `(m, d)` of one person."""
    depth = 0 if options.scoring == "cosine" else options.rerank_depth
    limit = max(options.top_k, depth)
    began = time.perf_counter()
    found = index.search(queries, limit, options.wanted)
    searched = time.perf_counter()
    logits = networks.pair_scores_or_none(queries, index.table.vectors[found.rows[:depth]])
    reranked = time.perf_counter()
    ordered = _order(index, found, logits, calibration, options.scoring)
    places = _choose(index, ordered, options)
    if len(places) < options.top_k and len(found.rows) < found.searched:
        # The candidates belong to too few identities. They keep their scores and stay the head.
        leaders = index.search_groups(queries, options.top_k, options.wanted)
        ordered = _order(
            index, _extended(found, depth, leaders), logits, calibration, options.scoring
        )
        places = _choose(index, ordered, options)
    deeper = time.perf_counter() - reranked
    verdicts = _verdicts(ordered.scores[places], found.searched, calibration, options)
    one = calibration.scorings[options.scoring]
    results = tuple(
        _result(index, ordered, place, verdict, found.searched, one)
        for place, verdict in zip(places.tolist(), verdicts, strict=True)
    )
    return Ranking(
        verdict=overall_verdict(results),
        results=results,
        candidates_scored=found.searched if options.scoring == "cosine" else len(logits),
        search_seconds=searched - began + deeper,
        rerank_seconds=reranked - searched,
    )


def overall_verdict(results: Sequence[RankedCrop]) -> SearchVerdict:
    """The verdict of an answer: its best result's."""
    return (results[0].verdict or "no_match") if results else "nothing_searched"


def _order(
    index: GalleryIndex,
    found: Candidates,
    logits: NDArray[np.float32],
    calibration: Calibration,
    scoring: Scoring,
) -> _Ordered:
    """What was scored comes first: a pair's logit and a bare cosine cannot be compared."""
    all_logits = np.full(len(found.rows), np.nan, np.float32)
    all_logits[: len(logits)] = logits
    if scoring == "cosine":
        return _Ordered(found.rows, found.cosines, all_logits, found.cosines)
    scores = all_logits
    if scoring == "fused":
        scores = calibration.fusion.fuse(found.cosines, all_logits)
    head = slice(0, len(logits))
    order = np.arange(len(found.rows))
    # M-Net may saturate on near copies: among equals the nearer comes first, then the older.
    ages = index.table.row_ids[found.rows[head]]
    order[head] = np.lexsort((ages, -found.cosines[head], -scores[head]))
    return _Ordered(found.rows[order], found.cosines[order], all_logits[order], scores[order])


def _extended(found: Candidates, depth: int, deeper: Candidates) -> Candidates:
    """The scored head of a search, then what a deeper one found beside it."""
    rows, cosines = found.rows[:depth], found.cosines[:depth]
    new = ~np.isin(deeper.rows, rows)
    return Candidates(
        np.concatenate([rows, deeper.rows[new]]),
        np.concatenate([cosines, deeper.cosines[new]]),
        found.searched,
    )


def _choose(index: GalleryIndex, ordered: _Ordered, options: RankingOptions) -> NDArray[np.int64]:
    """Places in the order that become results."""
    if options.group_by == "crop":
        return np.arange(min(options.top_k, len(ordered.rows)))
    return first_of_each(index.table.groups[ordered.rows])[: options.top_k]


def _verdicts(
    scores: NDArray[np.float32],
    gallery_size: int,
    calibration: Calibration,
    options: RankingOptions,
) -> list[Verdict | None]:
    far = SEARCH_OPERATING_POINTS[options.operating_point]
    verdicts: list[Verdict | None] = []
    for score in scores.tolist():
        if np.isnan(score):
            verdicts.append(None)
        elif verdicts and verdicts[-1] == "no_match":
            # Scores descend: nothing below the first refusal needs its threshold looked up.
            verdicts.append("no_match")
        else:
            one = calibration.scorings[options.scoring]
            verdicts.append(one.verdict(score, far, gallery_size))
    return verdicts


def _result(
    index: GalleryIndex,
    ordered: _Ordered,
    place: int,
    verdict: Verdict | None,
    gallery_size: int,
    calibration: ScoringCalibration,
) -> RankedCrop:
    score, logit = float(ordered.scores[place]), float(ordered.logits[place])
    return RankedCrop(
        label=index.table.label(int(ordered.rows[place])),
        cosine=float(ordered.cosines[place]),
        pair_logit=None if np.isnan(logit) else logit,
        probability=None if np.isnan(score) else calibration.probability(score, gallery_size),
        verdict=verdict,
    )
