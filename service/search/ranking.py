"""From features to a ranking: search, score pairs, order, group. Runs on the device thread."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from gmn_client.answers import SearchVerdict
from gmn_client.models import CalibrationState
from model.calibration import SEARCH_OPERATING_POINTS, Scoring, Verdict
from model.search_calibration import FEW_IDENTITIES, RANKS, SearchCalibration
from service.engine.networks import Networks
from service.record.records import CropLabel, StoredCrop
from service.search.best_scores import People, with_nine_people
from service.search.calibrations import SearchJudge
from service.search.index import Candidates, GalleryIndex, first_of_each
from service.search.rows import Filter

GroupBy = Literal["crop", "identity"]
OperatingPoint = Literal["far_1e-1", "far_1e-2", "far_1e-3"]
# The default depth. A search of less is judged by the artefact, and not kept.
RERANK_DEPTH = 100


@dataclass(frozen=True)
class RankingOptions:
    """What is asked of a ranking.

    Attributes:
        top_k: how many results; groups, where grouped.
        rerank_depth: how many of the nearest by cosine M-Net scores.
        scoring: what orders them; None for the default of the artefact that answers.
        group_by: `identity` keeps the best crop of each; a crop without one stands for itself.
        operating_point: the share of searches for a stranger that may be answered `match`.
        wanted: which crops may be returned.
        camera_disjoint: leave out the camera of the crop that is asked about.
    """

    top_k: int = 10
    rerank_depth: int = RERANK_DEPTH
    scoring: Scoring | None = None
    group_by: GroupBy = "crop"
    operating_point: OperatingPoint = "far_1e-2"
    wanted: Filter = field(default_factory=Filter)
    camera_disjoint: bool = False


@dataclass(frozen=True)
class RankedRow:
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
        scoring: what orders them.
        verdict: of the best result, for the number of identities that were searched;
            `nothing_searched` where no crop passed the filter.
        calibration: what the verdicts and probabilities are made by.
        candidates_scored: how many crops the asked scoring scored.
        search_seconds, rerank_seconds: of the index and of M-Net.
        identities: K, how many passed the filter; a crop without a name counts by itself.
        people: the nine best scores of different people, descending; None where the search does
            not serve the calibration.
    """

    scoring: Scoring
    verdict: SearchVerdict
    results: tuple[RankedRow, ...]
    calibration: CalibrationState
    candidates_scored: int
    search_seconds: float
    rerank_seconds: float
    identities: int
    people: tuple[float, ...] | None = None


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
    judge: SearchJudge,
    queries: NDArray[np.float32],
    options: RankingOptions,
    keep: bool = False,
) -> Ranking:
    """Ranks a gallery against the features `(m, d)` of one person.

    Args:
        index: what is searched.
        networks: score the pairs.
        judge: gives the scoring, thresholds and probabilities.
        queries: the features.
        options: what is asked.
        keep: whether the scores of nine people are wanted for the calibration, where the search is
            deep enough to have them.
    """
    cosine = judge.scoring == "cosine"
    depth = 0 if cosine else options.rerank_depth
    began = time.perf_counter()
    limit = max(options.top_k, depth or RERANK_DEPTH)
    found = index.search(queries, limit, options.wanted)
    identities = index.identities(options.wanted)
    shallow = not cosine and depth < min(RERANK_DEPTH, found.searched)
    people = None
    if keep and not shallow and identities >= FEW_IDENTITIES:
        scored = found if cosine else found.first(depth)
        people = with_nine_people(index, queries, options.wanted, scored, judge.joins_at)
    rows = people.rows if people and not cosine else found.rows[:depth]
    searched = time.perf_counter()
    scores = networks.pair_scores(queries, index.table.vectors[rows])
    reranked = time.perf_counter()
    # Those that were scored for the calibration alone are no results.
    logits = scores[: len(found.rows[:depth])]
    ordered = _order(index, found, logits, judge)
    places = _choose(index, ordered, options)
    if len(places) < options.top_k and len(found.rows) < found.searched:
        # The candidates belong to too few identities. They keep their scores and stay the head.
        leaders = index.search_groups(queries, options.top_k, options.wanted)
        ordered = _order(index, _extended(found, depth, leaders), logits, judge)
        places = _choose(index, ordered, options)
    deeper = time.perf_counter() - reranked
    in_force = judge.artefacts if shallow else judge.in_force
    verdicts = _verdicts(ordered.scores[places], identities, in_force.calibration, options)
    probabilities = in_force.calibration.probability(ordered.scores[places]).tolist()
    results = tuple(
        _result(index, ordered, *one)
        for one in zip(places.tolist(), verdicts, probabilities, strict=True)
    )
    return Ranking(
        scoring=judge.scoring,
        verdict=overall_verdict(results),
        results=results,
        calibration=in_force.for_search(identities, shallow),
        candidates_scored=found.searched if cosine else len(logits),
        search_seconds=searched - began + deeper,
        rerank_seconds=reranked - searched,
        identities=identities,
        people=None if people is None else _people(people, scores, judge),
    )


def overall_verdict(results: Sequence[RankedRow]) -> SearchVerdict:
    """The verdict of an answer: its best result's."""
    return (results[0].verdict or "no_match") if results else "nothing_searched"


def _people(
    people: People, logits: NDArray[np.float32], judge: SearchJudge
) -> tuple[float, ...] | None:
    leaders = people.leaders(_scores(people.cosines, logits, judge))
    return leaders if len(leaders) == RANKS else None


def _scores(
    cosines: NDArray[np.float32], logits: NDArray[np.float32], judge: SearchJudge
) -> NDArray[np.float32]:
    """What the asked scoring makes of cosines and logits, `(n,)` each."""
    if judge.scoring == "cosine":
        return cosines
    if judge.scoring == "fused" and judge.fusion is not None:
        return judge.fusion.fuse(cosines, logits)
    return logits


def _order(
    index: GalleryIndex,
    found: Candidates,
    logits: NDArray[np.float32],
    judge: SearchJudge,
) -> _Ordered:
    """What was scored comes first: a pair's logit and a bare cosine cannot be compared."""
    all_logits = np.full(len(found.rows), np.nan, np.float32)
    all_logits[: len(logits)] = logits
    scores = _scores(found.cosines, all_logits, judge)
    if judge.scoring == "cosine":
        return _Ordered(found.rows, found.cosines, all_logits, scores)
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
    identities: int,
    calibration: SearchCalibration,
    options: RankingOptions,
) -> list[Verdict | None]:
    far = SEARCH_OPERATING_POINTS[options.operating_point]
    uncertain_far = max(far, SEARCH_OPERATING_POINTS["far_1e-1"])
    match = calibration.threshold(far, identities)
    uncertain = min(match, calibration.threshold(uncertain_far, identities))
    return [
        None
        if np.isnan(score)
        else "match"
        if score >= match
        else "uncertain"
        if score >= uncertain
        else "no_match"
        for score in scores.tolist()
    ]


def _result(
    index: GalleryIndex,
    ordered: _Ordered,
    place: int,
    verdict: Verdict | None,
    probability: float,
) -> RankedRow:
    logit = float(ordered.logits[place])
    return RankedRow(
        label=index.table.label(int(ordered.rows[place])),
        cosine=float(ordered.cosines[place]),
        pair_logit=None if np.isnan(logit) else logit,
        probability=None if verdict is None else probability,
        verdict=verdict,
    )
