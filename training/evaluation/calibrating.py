"""Fits an artefact's calibration on the pair scores of people who were held out of training."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.calibration import Calibration, Fusion, Scoring, ScoringCalibration, TailPoint
from model.problems import InputProblem
from training.evaluation.logistic import fit_logistic
from training.evaluation.ranking import PairLabels

TAIL_POINTS = 60
IMPOSTORS_TO_FIT = 200_000
ROWS_PER_BLOCK = 256


@dataclass(frozen=True)
class PairScores:
    """Both scores of every cross-camera pair, `(n,)` float32 each."""

    genuine_cosine: NDArray[np.float32]
    genuine_mnet: NDArray[np.float32]
    impostor_cosine: NDArray[np.float32]
    impostor_mnet: NDArray[np.float32]


def collect_pairs(
    cosine: NDArray[np.float32], mnet: NDArray[np.float32], labels: PairLabels
) -> PairScores:
    """Sorts the scores of every query and gallery image, `(Q, G)`, into genuine and impostor.

    Where queries and gallery are one list, as when every crop queries all others, each pair is
    there twice and is taken once.
    """
    one_list = np.array_equal(labels.query_identities, labels.gallery_identities)
    one_list = one_list and np.array_equal(labels.query_cameras, labels.gallery_cameras)
    parts: list[tuple[NDArray[np.float32], ...]] = []
    for start in range(0, len(cosine), ROWS_PER_BLOCK):
        rows = slice(start, start + ROWS_PER_BLOCK)
        genuine, impostor = labels.across_cameras(rows)
        if one_list:
            above = np.arange(len(cosine))[rows, None] < np.arange(len(cosine))[None, :]
            genuine, impostor = genuine & above, impostor & above
        near, learnt = cosine[rows], mnet[rows]
        parts.append((near[genuine], learnt[genuine], near[impostor], learnt[impostor]))
    if not parts:
        raise InputProblem("a calibration needs queries; name data with people in it")
    return PairScores(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def fit_from_pairs(pairs: PairScores, data: str, seed: int = 0) -> Calibration:
    """Fits fusion, probabilities and impostor tails on cross-camera pairs.

    The fusion and Platt's slope and intercept are maximum likelihood with genuine and impostor
    pairs weighing one half each: `probability` is that of a pair that was as likely to be one
    person as two. They see all genuine pairs and at most 200,000 impostor pairs; the tails see all.

    Args:
        pairs: as `collect_pairs` gives them, perhaps of several data sets.
        data: what they are of, for people; stored in the calibration.
        seed: of the choice of impostors.

    Raises:
        InputProblem: without a genuine pair or two impostor pairs under different cameras.
    """
    genuine, impostors = len(pairs.genuine_cosine), len(pairs.impostor_cosine)
    if genuine < 1 or impostors < 2:
        raise InputProblem(
            f"a calibration needs pairs across cameras of one person and of two; {data} has "
            f"{genuine} and {impostors}; name data with more people under two cameras or more"
        )
    random = np.random.default_rng(seed)
    size = min(impostors, IMPOSTORS_TO_FIT)
    some = np.sort(random.choice(impostors, size, replace=False))
    weights, offset = fit_logistic(
        _columns(pairs.genuine_cosine, pairs.genuine_mnet),
        _columns(pairs.impostor_cosine[some], pairs.impostor_mnet[some]),
    )
    fusion = Fusion(cosine_weight=float(weights[0]), mnet_weight=float(weights[1]), offset=offset)
    scores: dict[Scoring, tuple[NDArray[np.float32], NDArray[np.float32]]] = {
        "cosine": (pairs.genuine_cosine, pairs.impostor_cosine),
        "mnet": (pairs.genuine_mnet, pairs.impostor_mnet),
        "fused": (
            fusion.fuse(pairs.genuine_cosine, pairs.genuine_mnet),
            fusion.fuse(pairs.impostor_cosine, pairs.impostor_mnet),
        ),
    }
    return Calibration(
        scorings={name: _calibrate(*both, some) for name, both in scores.items()},
        fusion=fusion,
        genuine_pairs=genuine,
        impostor_pairs=impostors,
        data=data,
    )


def impostor_tail(scores: NDArray[np.float32], points: int = TAIL_POINTS) -> tuple[TailPoint, ...]:
    """The tail of impostor scores `(n,)` at shares spaced evenly in their logarithm, 1 to 1/n."""
    counts = np.unique(np.geomspace(1, len(scores), points).round().astype(np.int64))
    ordered = np.partition(scores, len(scores) - counts)
    return tuple(
        TailPoint(share=float(count / len(scores)), score=float(ordered[len(scores) - count]))
        for count in counts[::-1]
    )


def _calibrate(
    genuine: NDArray[np.float32], impostors: NDArray[np.float32], some: NDArray[np.int64]
) -> ScoringCalibration:
    slope, intercept = fit_logistic(_columns(genuine), _columns(impostors[some]))
    return ScoringCalibration(
        slope=float(slope[0]), intercept=intercept, impostor_tail=impostor_tail(impostors)
    )


def _columns(*scores: NDArray[np.float32]) -> NDArray[np.float64]:
    return np.stack(scores, axis=1).astype(np.float64)
