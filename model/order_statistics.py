"""The mixture over order statistics that unlabelled searches are fitted with.

A search for a stranger has the spacings i·(Mᵢ − Mᵢ₊₁) of the scores of other people. One for an
enrolled person has M₁ − M₂ ~ Exp(γ), and below it (i − 1)·(Mᵢ − Mᵢ₊₁). Each is distributed as the
least of so many exceedances of a generalised Pareto tail over Mᵢ₊₁.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.calibration import Scoring
from model.problems import InputProblem

PRIOR_SEARCHES = 20.0
# The shape of the tail and the share of enrolled searches resemble each other: ξ is held near one
# value for each scoring by as much as this many searches show of it. M-Net's score saturates.
TAIL_SHAPES: dict[Scoring, float] = {"cosine": -0.05, "mnet": -0.15, "fused": -0.15}
PRIOR_ON_SHAPE = 300.0
# What the artefact's γ is worth, in searches with a separated best.
PRIOR_ON_EXCESS = 5.0
LEAST_SHARE = 0.02
LEAST_SEPARATION = 2.0
LEAST_SCALE = 0.1
STEEPEST, FLATTEST = -0.3, 0.15
ROUNDS = 40
BISECTIONS = 36


@dataclass(frozen=True)
class Mixture:
    """The mixture's parameters, and which searches have a separated best.

    Attributes:
        base, shape, slope: σ(m) = base + shape·(m − floor) + slope·(floor − mean of the floors), of
            a generalised Pareto tail with ξ = shape. A search's floor is the lowest score used.
        excess: γ.
        separated: of every search, the probability that its best is genuine, `(n,)`.
    """

    base: float
    shape: float
    slope: float
    floors: NDArray[np.float64]
    excess: float
    separated: NDArray[np.float64]

    def scale(self, levels: NDArray[np.float64]) -> NDArray[np.float64]:
        """σ at one level of every search, `(n,)`, or at several, `(n, k)`."""
        floors = self.floors if levels.ndim == 1 else self.floors[:, None]
        sigma = self.base + self.shape * (levels - floors)
        sigma = sigma + self.slope * (floors - self.floors.mean())
        return np.asarray(np.maximum(sigma, LEAST_SCALE * self.base), dtype=np.float64)


def fit_mixture(
    scores: NDArray[np.float64],
    count: NDArray[np.int64],
    prior_base: float,
    prior_excess: float,
    prior_shape: float,
) -> Mixture:
    """Expectation maximisation over the share of separated searches, σ(m) and γ.

    Args:
        scores: the nine best of every search, `(n, 9)`, descending.
        count: r of every search, `(n,)`, 3 to 8.
        prior_base, prior_excess: β and γ that the artefact expects.
        prior_shape: the ξ that the fit leans on, one of `TAIL_SHAPES`.

    Raises:
        InputProblem: for scores without spread.
    """
    rank = np.arange(1, scores.shape[1], dtype=np.float64)
    used = rank[None, :] <= count[:, None]
    tail = used & (rank >= 2)[None, :]
    levels = scores[:, 1:]
    gaps = scores[:, :-1] - levels
    if not np.any(gaps[tail] > 0.0):
        raise InputProblem(
            "the searches' best scores have no spread, they show no tail; use searches for "
            "different people in a gallery of different people"
        )
    floors = scores[np.arange(len(scores)), count]
    below = np.maximum(rank - 1.0, 1.0)
    prior_excess = max(prior_excess, LEAST_SEPARATION * prior_base)
    prior_count = PRIOR_SEARCHES * float(count.mean())
    spread = floors - floors.mean()
    base = max(float((rank * gaps)[tail].mean()) / 1.3, 1e-9)
    fitted = Mixture(base, 0.0, 0.0, floors, 4.0 * base, np.full(len(scores), 0.5))
    share = 0.5
    for _ in range(ROUNDS):
        beta = fitted.scale(levels)
        stranger = np.where(used, _log_density(gaps, beta, rank, fitted.shape), 0.0).sum(axis=1)
        enrolled = np.where(tail, _log_density(gaps, beta, below, fitted.shape), 0.0).sum(axis=1)
        enrolled = enrolled - math.log(fitted.excess) - gaps[:, 0] / fitted.excess
        odds = math.log(share / (1.0 - share)) + enrolled - stranger
        separated = 1.0 / (1.0 + np.exp(-np.clip(odds, -50.0, 50.0)))
        share = float(np.clip(separated.mean(), LEAST_SHARE, 1.0 - LEAST_SHARE))
        # A spacing's mean is σ / (n − ξ) where n crops are above the level.
        values = np.concatenate([(rank - fitted.shape) * gaps, (below - fitted.shape) * gaps])
        weights = np.concatenate(
            [np.where(used, 1.0 - separated[:, None], 0.0), np.where(tail, separated[:, None], 0.0)]
        )
        rises = np.concatenate([levels - floors[:, None]] * 2)
        shifts = np.concatenate([np.broadcast_to(spread[:, None], levels.shape)] * 2)
        columns = np.stack([np.ones_like(values), rises, shifts]).reshape(3, -1)
        precision = weights / np.concatenate([beta, beta]) ** 2
        weighted = columns * precision.ravel()
        normal = weighted @ columns.T
        target = weighted @ values.ravel()
        pseudo = prior_count / fitted.base**2
        normal[0, 0] += pseudo
        target[0] += pseudo * prior_base
        seen = np.where(used, rises[: len(scores)] / beta, 0.0)
        lean = PRIOR_ON_SHAPE / len(scores) * float((seen**2).sum())
        normal[1, 1] += lean
        target[1] += lean * prior_shape
        base, shape, slope = _bounded(normal, target)
        base = max(base, 1e-9)
        mass = separated.sum() + PRIOR_ON_EXCESS
        excess = float(((separated * gaps[:, 0]).sum() + PRIOR_ON_EXCESS * prior_excess) / mass)
        excess = max(excess, LEAST_SEPARATION * base)
        fitted = Mixture(base, shape, slope, floors, excess, separated)
    return fitted


def _bounded(
    normal: NDArray[np.float64], target: NDArray[np.float64]
) -> tuple[float, float, float]:
    """Least squares for σ's three coefficients, ξ within its bounds."""
    ridge = np.diag(np.diag(normal) * 1e-9 + 1e-12)
    solution = np.linalg.solve(normal + ridge, target)
    shape = float(np.clip(solution[1], STEEPEST, FLATTEST))
    others = [0, 2]
    rest = np.linalg.solve(
        (normal + ridge)[np.ix_(others, others)], target[others] - shape * normal[others, 1]
    )
    return float(rest[0]), shape, float(rest[1])


def _log_density(
    gaps: NDArray[np.float64],
    scale: NDArray[np.float64],
    number: NDArray[np.float64],
    shape: float,
) -> NDArray[np.float64]:
    """Of the least of `number` exceedances of a generalised Pareto tail."""
    rise = gaps / scale
    if abs(shape) < 1e-6:
        return np.asarray(np.log(number / scale) - number * rise, dtype=np.float64)
    inside = np.log(np.maximum(1.0 + shape * rise, 1e-12))
    return np.asarray(np.log(number / scale) - (number / shape + 1.0) * inside, dtype=np.float64)


def survival(
    fitted: Mixture, thresholds: NDArray[np.float64], levels: NDArray[np.float64]
) -> NDArray[np.float64]:
    """S(t | m) above each level `(n,)`: `(k, n)` for thresholds `(k, 1)`."""
    rise = np.maximum(thresholds - levels, 0.0) / fitted.scale(levels)
    if abs(fitted.shape) < 1e-6:
        return np.asarray(np.exp(-rise), dtype=np.float64)
    inside = np.maximum(1.0 + fitted.shape * rise, 0.0)
    with np.errstate(divide="ignore"):
        return np.asarray(inside ** (-1.0 / fitted.shape), dtype=np.float64)


def shifted(
    fitted: Mixture, levels: NDArray[np.float64], ratios: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Levels as they were if `ratios` times as many identities had been searched."""
    scale = fitted.scale(levels)
    if abs(fitted.shape) < 1e-6:
        return np.asarray(levels + scale * np.log(ratios), dtype=np.float64)
    rise = (ratios**fitted.shape - 1.0) / fitted.shape
    return np.asarray(levels + scale * rise, dtype=np.float64)


def solve(
    fitted: Mixture,
    second: NDArray[np.float64],
    third: NDArray[np.float64],
    rates: NDArray[np.float64],
) -> NDArray[np.float64]:
    """The thresholds, one for each rate, that the best impostor exceeds in that share.

    Args:
        fitted: the mixture.
        second, third: levels of every search, `(n,)`, that the best impostor of a stranger and of
            an enrolled person exceeds.
        rates: asked, `(k,)`.
    """
    low = np.full(len(rates), float(third.min()))
    high = np.full(len(rates), float(second.max()) + 40.0 * fitted.base)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2.0
        exceeded = (1.0 - fitted.separated) * survival(fitted, middle[:, None], second)
        exceeded = exceeded + fitted.separated * survival(fitted, middle[:, None], third)
        more = exceeded.mean(axis=1) > rates
        low, high = np.where(more, middle, low), np.where(more, high, middle)
    return high


def probability_line(
    fitted: Mixture, scores: NDArray[np.float64]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Places and logits of a logistic regression, both kinds of best score weighing one half."""
    separated = fitted.separated
    quantiles = -np.log1p(-(np.arange(10) + 0.5) / 10.0)
    drawn = (scores[:, 1][:, None] + fitted.excess * quantiles[None, :]).ravel()
    ours = np.concatenate([scores[:, 0], drawn])
    our_weights = np.concatenate([separated, np.full(len(drawn), PRIOR_SEARCHES / len(drawn))])
    others = np.concatenate([scores[:, 0], scores[:, 1]])
    other_weights = np.concatenate([1.0 - separated, separated])
    values = np.concatenate([ours, others])
    weights = np.concatenate([our_weights / our_weights.sum(), other_weights / other_weights.sum()])
    labels = np.concatenate([np.ones(len(ours)), np.zeros(len(others))])
    middle, spread = float(np.average(values, weights=weights)), max(fitted.base, 1e-9)
    units = (values - middle) / spread
    slope, offset = 0.5, 0.0
    for _ in range(50):
        expected = 1.0 / (1.0 + np.exp(-np.clip(slope * units + offset, -30.0, 30.0)))
        error = weights * (labels - expected)
        curve = weights * expected * (1.0 - expected) + 1e-9 * weights
        gradient = np.array([(error * units).sum() - 1e-3 * slope, error.sum()])
        cross = float((curve * units).sum())
        hessian = np.array([[(curve * units**2).sum() + 1e-3, cross], [cross, curve.sum()]])
        step = np.clip(np.linalg.solve(hessian, gradient), -1.0, 1.0)
        slope, offset = max(slope + step[0], 0.05), offset + step[1]
    places = (middle - 10.0 * spread, middle + 10.0 * spread)
    logits = (offset - 10.0 * slope, offset + 10.0 * slope)
    return (
        tuple(round(place, 6) for place in places),
        tuple(round(float(logit), 6) for logit in logits),
    )
