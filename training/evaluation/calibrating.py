"""Fits an artefact's calibration on the pair scores of people who were held out of training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
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
from model.pair_scoring import cosine_similarities, score_pairs
from model.problems import InputProblem
from training.evaluation.embedding import SearchFeatures
from training.evaluation.isotonic import OneScoring, fit_isotonic, isotonic_tells_more
from training.evaluation.logistic import fit_logistic
from training.evaluation.ranking import PairLabels

TAIL_POINTS = 60
IMPOSTORS_TO_FIT = 200_000
ROWS_PER_BLOCK = 256


@dataclass(frozen=True)
class PairScores:
    """Both scores of every cross-camera pair of one domain, and whose they are.

    Attributes:
        genuine_cosine, genuine_mnet: of pairs of one person, `(n,)` float32.
        impostor_cosine, impostor_mnet: of pairs of two people, `(m,)` float32. M-Net's are None
            for an artefact without it.
        genuine_people: whose, `(n,)`; numbers of this domain.
        impostor_people: the two of every pair, `(m, 2)`.
    """

    genuine_cosine: NDArray[np.float32]
    genuine_mnet: NDArray[np.float32] | None
    impostor_cosine: NDArray[np.float32]
    impostor_mnet: NDArray[np.float32] | None
    genuine_people: NDArray[np.int64]
    impostor_people: NDArray[np.int64]


def score_search(
    metric_network: MetricNetwork | None, features: SearchFeatures, labels: PairLabels
) -> PairScores:
    """The scores of every cross-camera pair of a search, by a network on any device."""
    if metric_network is None:
        cosine = cosine_similarities(*(torch.from_numpy(array) for array in features))
        return collect_pairs(cosine.numpy(), None, labels)
    device = next(metric_network.parameters()).device
    queries, gallery = (torch.from_numpy(array).to(device) for array in features)
    mnet = score_pairs(metric_network.eval(), queries, gallery).cpu().numpy()
    return collect_pairs(cosine_similarities(queries, gallery).cpu().numpy(), mnet, labels)


def collect_pairs(
    cosine: NDArray[np.float32], mnet: NDArray[np.float32] | None, labels: PairLabels
) -> PairScores:
    """Sorts the scores of every query and gallery image, `(Q, G)`, into genuine and impostor.

    Where queries and gallery are one list, as when every crop queries all others, each pair is
    there twice and is taken once.
    """
    one_list = np.array_equal(labels.query_identities, labels.gallery_identities)
    one_list = one_list and np.array_equal(labels.query_cameras, labels.gallery_cameras)
    parts: list[tuple[NDArray[np.float32] | NDArray[np.int64], ...]] = []
    for start in range(0, len(cosine), ROWS_PER_BLOCK):
        rows = slice(start, start + ROWS_PER_BLOCK)
        genuine, impostor = labels.across_cameras(rows)
        if one_list:
            above = np.arange(len(cosine))[rows, None] < np.arange(len(cosine))[None, :]
            genuine, impostor = genuine & above, impostor & above
        near, learnt = cosine[rows], (cosine if mnet is None else mnet)[rows]
        people = labels.query_identities[rows]
        first, second = np.nonzero(impostor)
        both = np.stack([people[first], labels.gallery_identities[second]], axis=1)
        parts.append(
            (
                near[genuine],
                learnt[genuine],
                near[impostor],
                learnt[impostor],
                people[np.nonzero(genuine)[0]],
                both,
            )
        )
    if not parts:
        raise InputProblem("a calibration needs queries; name data with people in it")
    found = PairScores(*(np.concatenate(column) for column in zip(*parts, strict=True)))
    return found if mnet is not None else replace(found, genuine_mnet=None, impostor_mnet=None)


def fit_from_pairs(domains: Sequence[PairScores], data: str, seed: int = 0) -> Calibration:
    """Fits fusion, probabilities and impostor tails on cross-camera pairs.

    The fusion and the likelihood ratio are maximum likelihood with genuine and impostor pairs
    weighing one half each: `probability` is that of a pair that was as likely to be one person as
    two. They see all genuine pairs and at most 200,000 impostor pairs. The ratio is Platt's, or
    isotonic where that is the likelier on people who are not in the fit.

    Without M-Net's scores there is no fusion, and the calibration is of the cosine alone.

    The tails see every pair. Of several domains each has a tail of its own, and the one that is
    kept is the highest score at every share: the rate asked for is not exceeded in any of them.

    Args:
        domains: as `collect_pairs` gives them, one for each data set.
        data: what they are of, for people; stored in the calibration.
        seed: of the choice of impostors and of the folds.

    Raises:
        InputProblem: without a genuine pair or two impostor pairs under different cameras.
    """
    pairs = _join(domains)
    genuine, impostors = len(pairs.genuine_cosine), len(pairs.impostor_cosine)
    if genuine < 1 or min((len(one.impostor_cosine) for one in domains), default=0) < 2:
        raise InputProblem(
            f"a calibration needs pairs across cameras of one person and of two; {data} has "
            f"{genuine} and {impostors}; name data with more people under two cameras or more"
        )
    random = np.random.default_rng(seed)
    size = min(impostors, IMPOSTORS_TO_FIT)
    some = np.sort(random.choice(impostors, size, replace=False))
    fusion = _fit_fusion(pairs, some)
    fitted: dict[Scoring, ScoringCalibration] = {}
    for scoring in SCORINGS if fusion else SCORINGS[:1]:
        ours, others = _scores(pairs, fusion, scoring)
        tails = [impostor_tail(_scores(one, fusion, scoring)[1]) for one in domains]
        fitted[scoring] = _calibrate(
            OneScoring(
                ours.astype(np.float64),
                others[some].astype(np.float64),
                pairs.genuine_people,
                pairs.impostor_people[some],
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


def impostor_tail(scores: NDArray[np.float32], points: int = TAIL_POINTS) -> tuple[TailPoint, ...]:
    """The tail of impostor scores `(n,)` at shares spaced evenly in their logarithm, 1 to 1/n."""
    counts = np.unique(np.geomspace(1, len(scores), points).round().astype(np.int64))
    ordered = np.partition(scores, len(scores) - counts)
    return tuple(
        TailPoint(share=float(count / len(scores)), score=float(ordered[len(scores) - count]))
        for count in counts[::-1]
    )


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


def _fit_fusion(pairs: PairScores, some: NDArray[np.int64]) -> Fusion | None:
    """The fused score's weights from all genuine pairs and some impostors; None without M-Net."""
    if pairs.genuine_mnet is None or pairs.impostor_mnet is None:
        return None
    weights, offset = fit_logistic(
        _columns(pairs.genuine_cosine, pairs.genuine_mnet),
        _columns(pairs.impostor_cosine[some], pairs.impostor_mnet[some]),
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


def _join(domains: Sequence[PairScores]) -> PairScores:
    """The pairs of several domains as one; person 1 of two domains is two people."""
    offsets = np.cumsum([0, *(_people(one) for one in domains)])[:-1].tolist()
    return PairScores(
        np.concatenate([one.genuine_cosine for one in domains]),
        _joined([one.genuine_mnet for one in domains]),
        np.concatenate([one.impostor_cosine for one in domains]),
        _joined([one.impostor_mnet for one in domains]),
        np.concatenate([one.genuine_people + o for one, o in zip(domains, offsets, strict=True)]),
        np.concatenate([one.impostor_people + o for one, o in zip(domains, offsets, strict=True)]),
    )


def _joined(parts: Sequence[NDArray[np.float32] | None]) -> NDArray[np.float32] | None:
    known = [part for part in parts if part is not None]
    return np.concatenate(known) if len(known) == len(parts) else None


def _people(pairs: PairScores) -> int:
    highest = [part.max(initial=-1) for part in (pairs.genuine_people, pairs.impostor_people)]
    return int(max(highest)) + 1


def _columns(*scores: NDArray[np.float32]) -> NDArray[np.float64]:
    return np.stack(scores, axis=1).astype(np.float64)
