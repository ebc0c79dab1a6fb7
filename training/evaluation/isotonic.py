"""A log-likelihood ratio by isotonic regression, and whether it beats Platt's on new people."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.isotonic import IsotonicRegression

from model.calibration import LikelihoodPoint
from training.evaluation.logistic import fit_logistic

FOLDS = 5
IMPOSTORS_TO_CHOOSE = 50_000
POINTS = 64


@dataclass(frozen=True)
class OneScoring:
    """One score of pairs, and whose they are.

    Attributes:
        genuine: of pairs of one person, `(n,)`.
        impostors: of pairs of two, `(m,)`.
        genuine_people: whose, `(n,)`.
        impostor_people: the two of every pair, `(m, 2)`.
    """

    genuine: NDArray[np.float64]
    impostors: NDArray[np.float64]
    genuine_people: NDArray[np.int64]
    impostor_people: NDArray[np.int64]


def fit_isotonic(
    genuine: NDArray[np.float64], impostors: NDArray[np.float64]
) -> tuple[LikelihoodPoint, ...]:
    """The log of genuine over impostor likelihood as a line that rises through at most 64 points.

    Either class weighs one half. Probabilities stay within Platt's targets, (n₊+1)/(n₊+2) and
    1/(n₋+2): no number of pairs shows that a score is impossible.
    """
    values = np.concatenate([genuine, impostors])
    truth = np.repeat([1.0, 0.0], [len(genuine), len(impostors)])
    weights = np.repeat([0.5 / len(genuine), 0.5 / len(impostors)], [len(genuine), len(impostors)])
    fitted = IsotonicRegression(
        y_min=1.0 / (len(impostors) + 2.0),
        y_max=(len(genuine) + 1.0) / (len(genuine) + 2.0),
        out_of_bounds="clip",
    ).fit(values, truth, weights)
    kept = np.unique(np.linspace(0, len(fitted.X_thresholds_) - 1, POINTS).round().astype(int))
    rates = fitted.y_thresholds_[kept]
    points = zip(fitted.X_thresholds_[kept], np.log(rates / (1.0 - rates)), strict=True)
    return tuple(LikelihoodPoint(score=float(x), log_ratio=float(y)) for x, y in points)


def isotonic_tells_more(scores: OneScoring, seed: int = 0) -> bool:
    """Whether isotonic regression gives people who are not in the fit the higher likelihood.

    Five folds of people: a fit sees the pairs of four, and is judged on those within the fifth.
    Platt scaling, of two parameters, keeps a tie and what is too small to fold. At most some
    50,000 impostors are looked at.
    """
    some = slice(None, None, max(1, len(scores.impostors) // IMPOSTORS_TO_CHOOSE))
    impostors, impostor_people = scores.impostors[some], scores.impostor_people[some]
    people = np.unique(np.concatenate([scores.genuine_people, impostor_people.ravel()]))
    fold = np.random.default_rng(seed).permutation(len(people)) % FOLDS
    genuine_fold = fold[np.searchsorted(people, scores.genuine_people)]
    impostor_folds = fold[np.searchsorted(people, impostor_people)]
    gain = 0.0
    for number in range(FOLDS):
        seen = scores.genuine[genuine_fold != number]
        seen_others = impostors[(impostor_folds != number).all(axis=1)]
        new = scores.genuine[genuine_fold == number]
        new_others = impostors[(impostor_folds == number).all(axis=1)]
        if min(len(seen), len(seen_others), len(new), len(new_others)) < 2:
            return False
        slope, intercept = fit_logistic(seen[:, None], seen_others[:, None])
        points = fit_isotonic(seen, seen_others)
        places = [point.score for point in points]
        ratios = [point.log_ratio for point in points]
        gain += _likelihood(np.interp(new, places, ratios), np.interp(new_others, places, ratios))
        gain -= _likelihood(slope[0] * new + intercept, slope[0] * new_others + intercept)
    return gain > 0.0


def _likelihood(genuine: NDArray[np.float64], impostors: NDArray[np.float64]) -> float:
    """Mean log-likelihood of the truth, either class weighing one half."""
    return float(
        -0.5 * np.logaddexp(0.0, -genuine).mean() - 0.5 * np.logaddexp(0.0, impostors).mean()
    )
