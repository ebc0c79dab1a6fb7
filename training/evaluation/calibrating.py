"""Fits an artefact's calibration on the pair scores of people who were held out of training."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.calibration import (
    SCORINGS,
    Calibration,
    Fusion,
    Scoring,
    ScoringCalibration,
    TailPoint,
)
from model.metric_network import MetricNetwork
from model.problems import InputProblem
from training.evaluation.embedding import ProgressBar, SearchFeatures
from training.evaluation.isotonic import OneScoring, fit_isotonic, isotonic_tells_more
from training.evaluation.logistic import fit_logistic
from training.evaluation.ranking import PairLabels, ScoreRows
from training.evaluation.scoring import computed_mnet_rows, cosine_rows, mnet_rows

TAIL_POINTS = 60
IMPOSTORS_TO_FIT = 200_000
PAIRS_PER_BLOCK = 2_000_000
HALF = 1 << 16
SIGN = np.uint32(1 << 31)

Parts = Callable[[], Iterator[NDArray[np.float32]]]
"""Gives many scores, in parts, each time it is called."""


@dataclass(frozen=True)
class SearchScores:
    """The scores of one domain's search, computed or read a block of queries at a time.

    Attributes:
        cosine, mnet: scores of some queries against the gallery; no `mnet` for an artefact without
            M-Net.
        labels: of the queries and the gallery.
    """

    cosine: ScoreRows
    mnet: ScoreRows | None
    labels: PairLabels

    @property
    def by_scoring(self) -> dict[str, ScoreRows]:
        """`cosine` and, for an artefact with M-Net, `mnet`."""
        known = {"cosine": self.cosine, "mnet": self.mnet}
        return {scoring: rows for scoring, rows in known.items() if rows is not None}

    def blocks(self) -> Iterator[Block]:
        """Every cross-camera pair once, in the order of queries and gallery.

        Where queries and gallery are one list, as when every crop queries all others, a pair is
        there twice and is given once.
        """
        labels = self.labels
        queries, gallery = len(labels.query_identities), len(labels.gallery_identities)
        one_list = np.array_equal(labels.query_identities, labels.gallery_identities)
        one_list = one_list and np.array_equal(labels.query_cameras, labels.gallery_cameras)
        size = max(1, PAIRS_PER_BLOCK // max(1, gallery))
        for start in range(0, queries, size):
            rows = slice(start, min(start + size, queries))
            genuine, impostor = labels.across_cameras(rows)
            if one_list:
                above = np.arange(start, rows.stop)[:, None] < np.arange(gallery)[None, :]
                genuine, impostor = genuine & above, impostor & above
            yield Block(self, rows, genuine, impostor)

    def impostor_scores(self, fusion: Fusion | None, scoring: Scoring) -> Parts:
        """One scoring's scores of all pairs of two people, a block at a time, each time anew."""

        def parts() -> Iterator[NDArray[np.float32]]:
            for block in self.blocks():
                yield block.scores(fusion, scoring)[block.impostor]

        return parts


class Block(NamedTuple):
    """Some queries of a search; both masks are `(rows, G)`."""

    search: SearchScores
    rows: slice
    genuine: NDArray[np.bool_]
    impostor: NDArray[np.bool_]

    def scores(self, fusion: Fusion | None, scoring: Scoring) -> NDArray[np.float32]:
        """One scoring's scores, `(rows, G)`."""
        if scoring == "cosine" or self.search.mnet is None:
            return self.search.cosine(self.rows)
        if scoring == "mnet" or fusion is None:
            return self.search.mnet(self.rows)
        return fusion.fuse(self.search.cosine(self.rows), self.search.mnet(self.rows))


@dataclass(frozen=True)
class PairScores:
    """The scores of all genuine pairs and of some impostors, and whose they are.

    Attributes:
        genuine_cosine, genuine_mnet: of pairs of one person, `(n,)` float32.
        impostor_cosine, impostor_mnet: of pairs of two people, `(m,)` float32. M-Net's are None
            for an artefact without it.
        genuine_people: whose, `(n,)`; person 1 of two domains is two people.
        impostor_people: the two of every pair, `(m, 2)`.
    """

    genuine_cosine: NDArray[np.float32]
    genuine_mnet: NDArray[np.float32] | None
    impostor_cosine: NDArray[np.float32]
    impostor_mnet: NDArray[np.float32] | None
    genuine_people: NDArray[np.int64]
    impostor_people: NDArray[np.int64]


def computed_scores(
    metric_network: MetricNetwork | None, features: SearchFeatures, labels: PairLabels
) -> SearchScores:
    """The scores of a search, M-Net's too computed each time that they are asked for.

    Args:
        metric_network: in evaluation mode, on any device; None where there is none.
        features, labels: of the search.
    """
    mnet = None if metric_network is None else computed_mnet_rows(metric_network, *features)
    return SearchScores(cosine_rows(*features), mnet, labels)


@contextmanager
def open_scores(
    metric_network: MetricNetwork | None,
    features: SearchFeatures,
    labels: PairLabels,
    progress_bar: ProgressBar,
    folder: Path,
) -> Iterator[SearchScores]:
    """The scores of a search; M-Net's are computed once, and lie in a file while they are read.

    Args:
        metric_network: in evaluation mode, on any device; None where there is none.
        features, labels: of the search.
        progress_bar: shows how far M-Net is.
        folder: for the file.
    """
    cosine = cosine_rows(*features)
    if metric_network is None:
        yield SearchScores(cosine, None, labels)
        return
    with (
        progress_bar("Scoring", len(features.queries)) as bar,
        mnet_rows(metric_network, *features, bar, folder) as mnet,
    ):
        yield SearchScores(cosine, mnet, labels)


def calibrate_searches(domains: Sequence[SearchScores], data: str, seed: int = 0) -> Calibration:
    """Fits fusion, probabilities and impostor tails on cross-camera pairs, in bounded memory.

    The fusion and the likelihood ratio are maximum likelihood with genuine and impostor pairs
    weighing one half each: `probability` is that of a pair that was as likely to be one person as
    two. They see all genuine pairs and at most 200,000 impostor pairs. The ratio is Platt's, or
    isotonic where that is the likelier on people who are not in the fit.

    Without M-Net's scores there is no fusion, and the calibration is of the cosine alone.

    The tails see every pair. Of several domains each has a tail of its own, and the one that is
    kept is the highest score at every share: the rate asked for is not exceeded in any of them.

    Args:
        domains: one for each data set; with M-Net's scores for all of them or for none.
        data: what they are of, for people; stored in the calibration.
        seed: of the choice of impostors and of the folds.

    Raises:
        InputProblem: without a genuine pair or two impostor pairs under different cameras.
    """
    counts = [_count(one) for one in domains]
    genuine, impostors = (sum(column) for column in zip((0, 0), *counts, strict=True))
    if genuine < 1 or min((count for _, count in counts), default=0) < 2:
        raise InputProblem(
            f"a calibration needs pairs across cameras of one person and of two; {data} has "
            f"{genuine} and {impostors}; name data with more people under two cameras or more"
        )
    random = np.random.default_rng(seed)
    size = min(impostors, IMPOSTORS_TO_FIT)
    some = np.sort(random.choice(impostors, size, replace=False))
    pairs = _collect(domains, [count for _, count in counts], some)
    fusion = _fit_fusion(pairs)
    fitted: dict[Scoring, ScoringCalibration] = {}
    for scoring in SCORINGS if fusion else SCORINGS[:1]:
        ours, others = _scores(pairs, fusion, scoring)
        tails = [
            impostor_tail(one.impostor_scores(fusion, scoring), count)
            for one, (_, count) in zip(domains, counts, strict=True)
        ]
        fitted[scoring] = _calibrate(
            OneScoring(
                ours.astype(np.float64),
                others.astype(np.float64),
                pairs.genuine_people,
                pairs.impostor_people,
            ),
            tails[0] if len(tails) == 1 else highest_tail(tails),
            seed,
        )
    return Calibration(
        scorings=fitted,
        fusion=fusion,
        genuine_pairs=genuine,
        impostor_pairs=impostors,
        data=data,
    )


def highest_tail(tails: Sequence[tuple[TailPoint, ...]]) -> tuple[TailPoint, ...]:
    """At every share the highest score of several domains' tails, each continued where it ends."""
    each = [ScoringCalibration(slope=1.0, intercept=0.0, impostor_tail=tail) for tail in tails]
    shares = np.geomspace(1.0, min(tail[-1].share for tail in tails), TAIL_POINTS).tolist()
    return tuple(
        TailPoint(share=share, score=max(one.pair_threshold(share) for one in each))
        for share in shares
    )


def impostor_tail(parts: Parts, count: int, points: int = TAIL_POINTS) -> tuple[TailPoint, ...]:
    """The tail of impostor scores at shares spaced evenly in their logarithm, 1 to 1/n.

    Args:
        parts: gives all scores, in parts, each time it is called.
        count: n, how many there are.
        points: how many shares.
    """
    places = np.unique(np.geomspace(1, count, points).round().astype(np.int64))
    scores = ordered_scores(parts, count - places)
    return tuple(
        TailPoint(share=float(place / count), score=float(score))
        for place, score in zip(places[::-1], scores[::-1], strict=True)
    )


def ordered_scores(parts: Parts, places: NDArray[np.int64]) -> NDArray[np.float32]:
    """The scores at some places of the ascending order of all, exactly, in two passes over them.

    A radix selection: the first pass counts the upper halves of the scores' bits, the second one
    the lower halves of those scores that share their upper half with a wanted one.

    Args:
        parts: gives all scores, in parts, each time it is called.
        places: from 0, `(k,)`.
    """
    upper = np.zeros(HALF, np.int64)
    for scores in parts():
        upper += np.bincount(_ordered_bits(scores) >> 16, minlength=HALF)
    ends = np.cumsum(upper)
    wanted = np.searchsorted(ends, places, side="right")
    groups = np.unique(wanted)
    lower = np.zeros(len(groups) * HALF, np.int64)
    for scores in parts():
        bits = _ordered_bits(scores)
        group = np.searchsorted(groups, bits >> 16)
        group[group == len(groups)] = 0
        inside = groups[group] == bits >> 16
        np.add.at(lower, group[inside] * HALF + (bits[inside] & np.uint32(HALF - 1)), 1)
    halves = lower.reshape(len(groups), HALF).cumsum(axis=1)
    found = np.empty(len(places), np.uint32)
    for number, (place, half) in enumerate(zip(places, wanted, strict=True)):
        within = place - (ends[half] - upper[half])
        low = np.searchsorted(halves[np.searchsorted(groups, half)], within, side="right")
        found[number] = (int(half) << 16) | int(low)
    return np.where(found >> 31, found ^ SIGN, ~found).astype(np.uint32).view(np.float32)


def _ordered_bits(scores: NDArray[np.float32]) -> NDArray[np.uint32]:
    """The bits of float32 numbers as integers in the order of the numbers."""
    # Adding 0 makes −0 a 0, which has other bits.
    bits = (np.asarray(scores, np.float32) + np.float32(0)).view(np.uint32)
    return np.where(bits >> 31, ~bits, bits | SIGN).astype(np.uint32)


def _calibrate(scores: OneScoring, tail: tuple[TailPoint, ...], seed: int) -> ScoringCalibration:
    slope, intercept = fit_logistic(scores.genuine[:, None], scores.impostors[:, None])
    rising = slope[0] > 0.0 and isotonic_tells_more(scores, seed)
    points = fit_isotonic(scores.genuine, scores.impostors) if rising else ()
    return ScoringCalibration(
        slope=float(slope[0]),
        intercept=intercept,
        impostor_tail=tail,
        # Scores that are all the same make a single point, which is no line.
        isotonic=points if len(points) > 1 else None,
    )


def _fit_fusion(pairs: PairScores) -> Fusion | None:
    """The fused score's weights from all genuine pairs and some impostors; None without M-Net."""
    if pairs.genuine_mnet is None or pairs.impostor_mnet is None:
        return None
    weights, offset = fit_logistic(
        _columns(pairs.genuine_cosine, pairs.genuine_mnet),
        _columns(pairs.impostor_cosine, pairs.impostor_mnet),
    )
    return Fusion(cosine_weight=float(weights[0]), mnet_weight=float(weights[1]), offset=offset)


def _scores(
    pairs: PairScores, fusion: Fusion | None, scoring: Scoring
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Genuine and impostor scores of one scoring."""
    if scoring == "cosine" or pairs.genuine_mnet is None or pairs.impostor_mnet is None:
        return pairs.genuine_cosine, pairs.impostor_cosine
    if scoring == "mnet" or fusion is None:
        return pairs.genuine_mnet, pairs.impostor_mnet
    return (
        fusion.fuse(pairs.genuine_cosine, pairs.genuine_mnet),
        fusion.fuse(pairs.impostor_cosine, pairs.impostor_mnet),
    )


def _count(domain: SearchScores) -> tuple[int, int]:
    """How many genuine and impostor pairs a domain has."""
    sums = [(int(block.genuine.sum()), int(block.impostor.sum())) for block in domain.blocks()]
    return sum(genuine for genuine, _ in sums), sum(impostor for _, impostor in sums)


def _collect(
    domains: Sequence[SearchScores], impostors: Sequence[int], some: NDArray[np.int64]
) -> PairScores:
    """All genuine pairs, and those impostors that `some` names by their places, ascending.

    Args:
        domains: one after the other.
        impostors: how many impostor pairs each has.
        some: places among the impostors of all domains.
    """
    parts: list[tuple[NDArray[Any], ...]] = []
    done = people = 0
    for domain, count in zip(domains, impostors, strict=True):
        labels = domain.labels
        chosen = some[(some >= done) & (some < done + count)] - done
        seen = 0
        for block in domain.blocks():
            inside = np.flatnonzero(block.impostor)
            first, last = np.searchsorted(chosen, (seen, seen + len(inside)))
            taken = inside[chosen[first:last] - seen]
            seen += len(inside)
            rows, columns = np.divmod(taken, len(labels.gallery_identities))
            asked = labels.query_identities[block.rows]
            cosine = block.scores(None, "cosine")
            # Without M-Net the cosine stands in its place, and is dropped below.
            mnet = block.scores(None, "mnet")
            both = np.stack([asked[rows], labels.gallery_identities[columns]], axis=1)
            parts.append(
                (
                    cosine[block.genuine],
                    mnet[block.genuine],
                    cosine[rows, columns],
                    mnet[rows, columns],
                    asked[np.nonzero(block.genuine)[0]] + people,
                    both + people,
                )
            )
        done += count
        both_sides = (labels.query_identities, labels.gallery_identities)
        people += 1 + max(int(side.max(initial=0)) for side in both_sides)
    pairs = PairScores(*(np.concatenate(column) for column in zip(*parts, strict=True)))
    if any(domain.mnet is None for domain in domains):
        return replace(pairs, genuine_mnet=None, impostor_mnet=None)
    return pairs


def _columns(*scores: NDArray[np.float32]) -> NDArray[np.float64]:
    return np.stack(scores, axis=1).astype(np.float64)
