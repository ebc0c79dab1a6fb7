"""Fits an artefact's calibration on the pair scores of people who were held out of training."""

from __future__ import annotations

from collections.abc import Sequence

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
from model.problems import InputProblem
from training.evaluation.isotonic import OneScoring, fit_isotonic, isotonic_tells_more
from training.evaluation.logistic import fit_logistic
from training.evaluation.pair_scores import (
    PairScores,
    Parts,
    SearchScores,
    count_pairs,
    some_pairs,
)
from training.evaluation.tail_shape import fit_tail_shape

TAIL_POINTS = 60
HALF = 1 << 16
SIGN = np.uint32(1 << 31)


def calibrate_searches(domains: Sequence[SearchScores], data: str, seed: int = 0) -> Calibration:
    """Fits fusion, probabilities and impostor tails on cross-camera pairs, in bounded memory.

    The fusion and the likelihood ratio are maximum likelihood with genuine and impostor pairs
    weighing one half each: `probability` is that of a pair that was as likely to be one person as
    two. They see all genuine pairs and at most 200,000 impostor pairs. The ratio is Platt's, or
    isotonic where that is the likelier on people who are not in the fit.

    Without M-Net's scores there is no fusion, and the calibration is of the cosine alone.

    The tails see every pair. Of several domains each has a tail of its own, and the one that is
    kept is the highest score at every share: the rate asked for is not exceeded in any of them. The
    shape of the tail of whole searches is that of the domain with the longest one.

    Args:
        domains: one for each data set; with M-Net's scores for all of them or for none.
        data: what they are of, for people; stored in the calibration.
        seed: of the choice of impostors and of the folds.

    Raises:
        InputProblem: without a genuine pair or two impostor pairs under different cameras.
    """
    counts = [count_pairs(one) for one in domains]
    genuine, impostors = (sum(column) for column in zip((0, 0), *counts, strict=True))
    if genuine < 1 or min((count for _, count in counts), default=0) < 2:
        raise InputProblem(
            f"a calibration needs pairs across cameras of one person and of two; {data} has "
            f"{genuine} and {impostors}; name data with more people under two cameras or more"
        )
    pairs = some_pairs(domains, [count for _, count in counts], seed)
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
            fit_tail_shape([(one.rows(fusion, scoring), one.labels) for one in domains]),
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


def _calibrate(
    scores: OneScoring, tail: tuple[TailPoint, ...], shape: float | None, seed: int
) -> ScoringCalibration:
    slope, intercept = fit_logistic(scores.genuine[:, None], scores.impostors[:, None])
    rising = slope[0] > 0.0 and isotonic_tells_more(scores, seed)
    points = fit_isotonic(scores.genuine, scores.impostors) if rising else ()
    return ScoringCalibration(
        slope=float(slope[0]),
        intercept=intercept,
        impostor_tail=tail,
        # Scores that are all the same make a single point, which is no line.
        isotonic=points if len(points) > 1 else None,
        tail_shape=shape,
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


def _columns(*scores: NDArray[np.float32]) -> NDArray[np.float64]:
    return np.stack(scores, axis=1).astype(np.float64)
