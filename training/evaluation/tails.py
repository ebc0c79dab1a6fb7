"""Fit the tails of impostor scores: quantiles for pairs, and the shape ξ for whole searches.

The best impostor scores of a search are modelled as in `model.order_statistics`: the spacing
between the i-th best score and the next one is the least of i exceedances of a generalised Pareto
tail with σ(m) = b + ξ·(m − L) + c·(L − L̄).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from tempfile import TemporaryFile

import numpy as np

from model.arrays import Array, Codes, Floats
from model.calibration import DEFAULT_TAIL_SHAPE, ScoringCalibration, TailPoint
from model.order_statistics import (
    FEW_IDENTITIES,
    FLATTEST,
    IDENTITIES_PER_GAP,
    LEAST_SCALE,
    RANK,
    RANKS,
    STEEPEST,
)
from training.evaluation.metrics import PairLabels, ScoreRows
from training.evaluation.scoring import folder_on_disk

TAIL_POINTS = 60
# Few people make the fitted tail too short. The weight was chosen on CUHK01 and CUHK03
# (docs/calibration.md).
PEOPLE_OF_DEFAULT = 50
ROUNDS = 40


def combined_tail(
    calibrations: Sequence[ScoringCalibration],
    combine: Callable[[list[float]], float],
) -> tuple[TailPoint, ...]:
    """Combine the scores of several tails at every share."""
    rarest = min(fitted.impostor_tail[-1].share for fitted in calibrations)
    points = []
    for share in np.geomspace(1.0, rarest, TAIL_POINTS).tolist():
        scores = [fitted.pair_threshold(share) for fitted in calibrations]
        points.append(TailPoint(share=share, score=combine(scores)))
    return tuple(points)


def impostor_tail(scores: Iterable[Floats], count: int) -> tuple[TailPoint, ...]:
    """Return the tail of impostor scores: their quantiles at shares from 1 to 1/n, log-spaced.

    Args:
        scores: all impostor scores, in parts.
        count: their number n.
    """
    places = np.unique(np.geomspace(1, count, TAIL_POINTS).round().astype(np.int64))
    ordered = ordered_scores(scores, count - places)
    return tuple(
        TailPoint(share=float(place / count), score=float(score))
        for place, score in zip(places[::-1], ordered[::-1], strict=True)
    )


def ordered_scores(
    scores: Iterable[Floats],
    places: Codes,
) -> Floats:
    """Return exact order statistics of many scores, which are written to a temporary file.

    Args:
        scores: all scores, in parts.
        places: the places in ascending order, from 0, `(k,)`.
    """
    with TemporaryFile(prefix=".gmn-scores-", dir=folder_on_disk()) as file:
        for part in scores:
            file.write(np.asarray(part, np.float32).tobytes())
        everything = np.memmap(file, np.float32, "r+")
        everything.partition(np.unique(places))
        return np.array(everything[places])


def fit_tail_shape(domains: Sequence[tuple[ScoreRows, PairLabels]]) -> float | None:
    """Fit the tail shape ξ of one scoring's searches.

    The shape of a domain is a mean of the fitted one, weighted by the number of its people, and of
    `DEFAULT_TAIL_SHAPE` with the weight of 50 people. The highest of all domains is returned.

    Args:
        domains: for each data set the scores of its searches, and their labels.

    Returns:
        The shape; None if no domain has enough people, or their scores are all equal.
    """
    shapes = []
    for score_rows, labels in domains:
        best, identities = other_peoples_best(score_rows, labels)
        if (fitted := _fit(best, identities)) is not None:
            weight = (people := identities.max() + 1) / (people + PEOPLE_OF_DEFAULT)
            shapes.append(float(weight * fitted + (1.0 - weight) * DEFAULT_TAIL_SHAPE))
    return round(max(shapes), 4) if shapes else None


def other_peoples_best(
    score_rows: ScoreRows,
    labels: PairLabels,
) -> tuple[Array, Codes]:
    """Collect the best scores of other people, one score per person, in bounded memory.

    Crops under the query's camera do not count, nor do searches with fewer than 18 other people.

    Returns:
        For each of n searches the nine best scores, `(n, 9)`, descending; and the number of other
        people, `(n,)`.
    """
    order = np.argsort(labels.gallery_identities, kind="stable")
    people, starts = np.unique(labels.gallery_identities[order], return_index=True)
    best = [np.empty((0, RANKS))]
    identities = [np.empty(0, np.int64)]
    for block in () if len(people) < FEW_IDENTITIES else labels.blocks():
        _, other = labels.across_cameras(block)
        scores = np.where(other, score_rows(block), -np.inf)[:, order]
        by_person = np.maximum.reduceat(scores, starts, axis=1)
        counts = np.isfinite(by_person).sum(axis=1)
        enough = counts >= FEW_IDENTITIES
        highest = np.partition(-by_person[enough], RANKS - 1, axis=1)[:, :RANKS]
        best.append(-np.sort(highest, axis=1))
        identities.append(counts[enough])
    return np.concatenate(best).astype(np.float64), np.concatenate(identities)


def _fit(best: Array, identities: Codes) -> float | None:
    """Fit b, ξ and c by iteratively reweighted least squares, and return ξ."""
    count = np.minimum(RANKS - 1, identities // IDENTITIES_PER_GAP)
    used = count[:, None] >= RANK
    levels = best[:, 1:]
    gaps = best[:, :-1] - best[:, 1:]
    if not np.any(gaps[used] > 0.0):
        return None
    floors = best[np.arange(len(best)), count]
    terms = np.stack(
        np.broadcast_arrays(1.0, levels - floors[:, None], (floors - floors.mean())[:, None])
    )
    base = float((RANK * gaps)[used].mean())
    coefficients = np.array([base, 0.0, 0.0])
    for _ in range(ROUNDS):
        sigma = np.maximum(np.tensordot(coefficients, terms, 1), LEAST_SCALE * base)
        weights = used / sigma**2
        normal = np.einsum("ink,jnk,nk->ij", terms, terms, weights)
        normal += np.diag(np.diag(normal) * 1e-9 + 1e-12)
        # The i-th spacing has the mean σ / (i − ξ).
        values = (RANK - np.clip(coefficients[1], STEEPEST, FLATTEST)) * gaps
        target = np.einsum("ink,nk->i", terms, values * weights)
        coefficients = np.linalg.solve(normal, target)
    return float(np.clip(coefficients[1], STEEPEST, FLATTEST))
