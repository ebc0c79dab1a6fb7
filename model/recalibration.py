"""Operating points for cameras never seen: the impostor tail of unlabelled searches.

Nearly all scores of a search are of other people, but its best ones may be of the person searched
for. So the tail is read where other people outnumber that person, and continued to the rate asked.
It is continued along a straight line: the normal quantile of a score's share against Fisher's
z-transform of the cosine, y = artanh((c − median) / (1 − median)), which bends as a tail does that
runs against the cosine's ceiling of 1. Photographed people's tails are a little heavier than the
line beyond where it was fitted, so it is read there at a share that is rarer than the one asked.
M-Net's tail is the cosine's, passed through the relation of the two: scores that are equally rare,
among some thousands of the searched pairs that M-Net scored too or, where it scored none, in the
artefact's own tails. docs/calibration.md has the measurements.
"""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from model.calibration import Calibration, Scoring, ScoringCalibration, TailPoint
from model.problems import InputProblem

LEAST_SEARCHES = 40
LEAST_PAIRS = 2_000
CROPS_PER_PERSON = 2.0
WINDOW_OPENS = 0.1
WINDOW_CLOSES_BY = 0.25
LEAST_WINDOW = 0.5
PAIRS_BEHIND_A_POINT = 30
PAIRS_BEHIND_A_STORED_POINT = 10
# Beyond them a straight line runs below M-Net's curve, which flattens: it had better start late.
PAIRS_BEHIND_A_SEEN_POINT = 3
# Beyond the window: a share s is read at s · (s / the window's rarest) ** TAIL_BEND.
TAIL_BEND = 0.15
INTENDED_SHIFT = 0.02
RELATION_POINTS = 60
SHARES = np.geomspace(1.0, 1e-9, 91)
_NORMAL = NormalDist()


def recalibrate(
    calibration: Calibration,
    cosines: NDArray[np.float32],
    identical_mnet: float,
    gallery_size: int | None = None,
    crops_per_person: float = CROPS_PER_PERSON,
    mnet: NDArray[np.float32] | None = None,
) -> Calibration:
    """Moves every scoring's impostor tail to where unlabelled searches show it to be.

    Rankings do not change: fusion and the scores stay what they are. The log-likelihood ratio
    moves along with the impostors, by what their score of a share of 2% moved.

    Args:
        calibration: the artefact's own.
        cosines: of searches and gallery crops, `(Q, n)`; NaN for a pair that was not searched. The
            n may be a random part of the gallery. The searches should come as they come in use:
            whoever they are for, from the cameras that ask, against the crops that are searched.
        identical_mnet: M-Net's score of a crop with itself, `model.pair_scoring.identical_score`.
        gallery_size: N, how many crops a search meets; n where it is None.
        crops_per_person: how many crops of one person a search may meet, on average.
        mnet: M-Net's scores of the same pairs, `(Q, n)`, NaN where it did not score one. Those that
            it did have to be a random part of the pairs, never the best of a list; 30,000 do. None
            leaves the relation of the two scores as the artefact has it.

    Returns:
        A calibration with the interface of the artefact's.

    Raises:
        InputProblem: for too few searches or pairs, or cosines without spread.
    """
    both = None if mnet is None else _scored_pairs(cosines, mnet)
    seen = cosines[np.isfinite(cosines)].astype(np.float64)
    if len(cosines) < LEAST_SEARCHES or len(seen) < LEAST_PAIRS:
        raise InputProblem(
            f"{len(cosines)} searches with {len(seen)} pairs do not show a tail; it takes "
            f"{LEAST_SEARCHES} searches and {LEAST_PAIRS} pairs, until then keep the artefact's own"
        )
    size = cosines.shape[1] if gallery_size is None else gallery_size
    nearest = cosine_tail(seen, crops_per_person / max(1, size))
    fusion = calibration.fusion
    ceilings: dict[Scoring, float] = {
        "mnet": identical_mnet,
        "fused": fusion.cosine_weight + fusion.mnet_weight * identical_mnet + fusion.offset,
    }
    tails: dict[Scoring, NDArray[np.float64]] = {"cosine": nearest}
    for name, ceiling in ceilings.items():
        if both is None:
            places, values = _stored_relation(calibration, name)
        else:
            near, learnt = both
            scores = learnt if name == "mnet" else fusion.fuse(near, learnt)
            places, values = _seen_relation(near, scores)
        places = np.append(places, max(1.0, places[-1]))
        values = np.append(values, max(ceiling, values[-1]))
        tails[name] = np.interp(nearest, places, values)
    moved = {name: _moved(one, tails[name]) for name, one in calibration.scorings.items()}
    note = f"; impostor tails moved to {len(cosines)} unlabelled searches of {size} crops"
    return calibration.model_copy(update={"scorings": moved, "data": calibration.data + note})


def cosine_tail(cosines: NDArray[np.float64], genuine_share: float) -> NDArray[np.float64]:
    """The cosine that each of `SHARES` of different-person pairs reaches.

    Args:
        cosines: of all pairs of some searches, `(n,)`.
        genuine_share: at most this share of them may be of one person.

    Raises:
        InputProblem: for cosines without spread.
    """
    rare = min(max(genuine_share, PAIRS_BEHIND_A_POINT / len(cosines)), WINDOW_CLOSES_BY)
    closes = normal_quantile(rare)
    opens = min(normal_quantile(WINDOW_OPENS), closes - LEAST_WINDOW)
    window = np.linspace(opens, closes, 16)
    median, *scores = np.quantile(
        cosines, [0.5, *(_NORMAL.cdf(place) for place in window)]
    ).tolist()
    if not scores[-1] > scores[0] or not -1.0 < median < 1.0:
        raise InputProblem(
            "the searches' cosines have no spread, they show no tail; use searches for different "
            "people in a gallery of different people"
        )
    # A copy of a gallery crop has a cosine of 1, where the transform has no value.
    heights = np.minimum((np.array(scores) - median) / (1.0 - median), 1.0 - 1e-6)
    slope, intercept = np.polyfit(window, np.arctanh(heights), 1)
    bent = SHARES * np.minimum(1.0, SHARES / rare) ** TAIL_BEND
    line = intercept + slope * np.array([normal_quantile(min(share, 0.5)) for share in bent])
    beyond = median + (1.0 - median) * np.tanh(line)
    common = np.quantile(cosines, 1.0 - SHARES)
    return np.maximum.accumulate(np.where(rare_enough(opens), beyond, common))


def rare_enough(quantile: float) -> NDArray[np.bool_]:
    """Which of `SHARES` are rarer than this quantile of the normal distribution."""
    return np.array([normal_quantile(share) >= quantile for share in SHARES])


def normal_quantile(share: float) -> float:
    """The value that a share of the standard normal distribution exceeds; −∞ for a share of 1."""
    return -math.inf if share >= 1.0 else -_NORMAL.inv_cdf(share)


def _scored_pairs(
    cosines: NDArray[np.float32], mnet: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Cosine and M-Net's score of every pair that has both, `(n,)` each."""
    if mnet.shape != cosines.shape:
        raise InputProblem(
            f"M-Net's scores have shape {mnet.shape} and the cosines {cosines.shape}; give one for "
            "every pair, NaN where M-Net did not score it"
        )
    both = np.isfinite(cosines) & np.isfinite(mnet)
    if np.count_nonzero(both) < LEAST_PAIRS:
        raise InputProblem(
            f"M-Net scored {np.count_nonzero(both)} of the searched pairs, which do not show how "
            f"its score follows the cosine; it takes {LEAST_PAIRS}, or none at all"
        )
    return cosines[both], mnet[both]


def _stored_relation(
    calibration: Calibration, name: Scoring
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Cosines and scores, rising, that are equally rare in the artefact's own two tails."""
    rarest = min(0.5, PAIRS_BEHIND_A_STORED_POINT / calibration.impostor_pairs)
    cosine, other = calibration.scorings["cosine"], calibration.scorings[name]
    shares = np.geomspace(1.0, rarest, RELATION_POINTS)
    places = np.array([cosine.pair_threshold(share) for share in shares])
    return places, np.array([other.pair_threshold(share) for share in shares])


def _seen_relation(
    cosines: NDArray[np.float32], scores: NDArray[np.float32]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Cosines and scores, rising, that are equally rare among these pairs, `(n,)` each.

    Pairs of one person are among them. The relation is of the scores, not of the people: where a
    cosine is that of as many genuine as impostor pairs, it stays nearly the same.
    """
    shares = np.geomspace(1.0, PAIRS_BEHIND_A_SEEN_POINT / len(cosines), RELATION_POINTS)
    places = np.asarray(np.quantile(cosines.astype(np.float64), 1.0 - shares), dtype=np.float64)
    values = np.asarray(np.quantile(scores.astype(np.float64), 1.0 - shares), dtype=np.float64)
    return places, values


def _moved(one: ScoringCalibration, scores: NDArray[np.float64]) -> ScoringCalibration:
    tail = tuple(
        TailPoint(share=float(share), score=float(score))
        for share, score in zip(SHARES, scores, strict=True)
    )
    calibrated = one.model_copy(update={"impostor_tail": tail})
    shift = calibrated.pair_threshold(INTENDED_SHIFT) - one.pair_threshold(INTENDED_SHIFT)
    isotonic = one.isotonic and tuple(
        point.model_copy(update={"score": point.score + shift}) for point in one.isotonic
    )
    return calibrated.model_copy(
        update={"intercept": one.intercept - one.slope * shift, "isotonic": isotonic}
    )
