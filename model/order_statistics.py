"""The mixture over order statistics that unlabelled searches are fitted with.

A search for a stranger has the spacings i·(Mᵢ − Mᵢ₊₁) of the scores of other people. One for an
enrolled person has M₁ − M₂ ~ Exp(γ), and below it (i − 1)·(Mᵢ − Mᵢ₊₁). Each is distributed as the
least of that number of exceedances of a generalised Pareto tail over Mᵢ₊₁.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from model.arrays import Array, Codes
from model.problems import InputProblem

PRIOR_SEARCHES = 20.0
# The shape of the tail and the share of enrolled searches resemble each other: ξ is held near the
# artefact's, with the weight of this many searches.
PRIOR_ON_SHAPE = 300.0
# The weight of the artefact's γ, in searches with a separated best.
PRIOR_ON_EXCESS = 5.0
LEAST_SHARE = 0.02
LEAST_SEPARATION = 2.0
LEAST_SCALE = 0.1
STEEPEST = -0.3
FLATTEST = 0.15
# An exponential tail is the limit ξ → 0; the formulas divide by ξ.
EXPONENTIAL = 1e-6
ROUNDS = 40
BISECTIONS = 36


@dataclass(frozen=True)
class Mixture:
    """The mixture's parameters, and which searches have a separated best.

    Attributes:
        base, shape, slope: σ(m) = base + shape·(m − floor) + slope·(floor − mean of the floors), of
            a generalised Pareto tail with ξ = shape ≠ 0.
        floors: the lowest score used of every search, `(n,)`.
        excess: γ.
        separated: of every search, the probability that its best is genuine, `(n,)`.
    """

    base: float
    shape: float
    slope: float
    floors: Array
    excess: float
    separated: Array

    def scale(self, levels: Array) -> Array:
        """σ at one level of every search, `(n,)`, or at several, `(n, k)`."""
        floors = self.floors if levels.ndim == 1 else self.floors[:, None]
        sigma = self.base + self.shape * (levels - floors)
        offsets = floors - self.floors.mean()
        sigma = sigma + self.slope * offsets
        return np.maximum(sigma, LEAST_SCALE * self.base)


def fit_mixture(
    scores: Array,
    count: Codes,
    prior_base: float,
    prior_excess: float,
    prior_shape: float,
) -> Mixture:
    """Expectation maximisation over the share of separated searches, σ(m) and γ.

    Args:
        scores: the nine best of every search, `(n, 9)`, descending.
        count: r of every search, `(n,)`, 3 to 8.
        prior_base, prior_excess: β and γ that the artefact expects.
        prior_shape: the ξ that the fit leans on, the artefact's.

    Raises:
        InputProblem: for scores without spread.
    """
    rank = np.arange(1, scores.shape[1], dtype=np.float64)
    below = np.maximum(rank - 1.0, 1.0)
    used = rank <= count[:, None]
    tail = used & (rank >= 2)
    levels = scores[:, 1:]
    gaps = scores[:, :-1] - levels
    if not np.any(gaps[tail] > 0.0):
        raise InputProblem(
            "the searches' best scores have no spread, they show no tail; use searches for "
            "different people in a gallery of different people"
        )
    floors = scores[np.arange(len(scores)), count]
    # σ's coefficients are of these, `(3, n, 8)`.
    heights = levels - floors[:, None]
    offsets = floors - floors.mean()
    terms = np.stack(np.broadcast_arrays(1.0, heights, offsets[:, None]))
    prior_excess = max(prior_excess, LEAST_SEPARATION * prior_base)
    spacings = rank * gaps
    base = max(float(spacings[tail].mean()) / 1.3, 1e-9)
    even_odds = np.full(len(scores), 0.5)
    fitted = Mixture(base, EXPONENTIAL, 0.0, floors, 4.0 * base, even_odds)
    for _ in range(ROUNDS):
        sigma = fitted.scale(levels)
        shape = fitted.shape
        share = float(np.clip(fitted.separated.mean(), LEAST_SHARE, 1.0 - LEAST_SHARE))
        of_enrolled = _log_density(gaps, sigma, below, shape)
        of_strangers = _log_density(gaps, sigma, rank, shape)
        evidence = np.where(tail, of_enrolled, 0.0) - np.where(used, of_strangers, 0.0)
        odds = math.log(share / (1.0 - share) / fitted.excess)
        logits = odds - gaps[:, 0] / fitted.excess + evidence.sum(axis=1)
        separated = sigmoid(logits, 50.0)
        # Weighted least squares: a spacing's mean is σ / (n − ξ) where n crops are above the level.
        strangers = used * (1.0 - separated[:, None])
        others = tail * separated[:, None]
        means = strangers * (rank - shape) + others * (below - shape)
        values = means * gaps
        normal = np.einsum("ink,jnk,nk->ij", terms, terms, (strangers + others) / sigma**2)
        target = np.einsum("ink,nk->i", terms, values / sigma**2)
        shape_weight = float(np.square(used * terms[1] / sigma).sum())
        base_weight = PRIOR_SEARCHES * count.mean() / fitted.base**2
        weights = np.array([base_weight, PRIOR_ON_SHAPE / len(scores) * shape_weight, 0.0])
        normal += np.diag(weights)
        target += weights * (prior_base, prior_shape, 0.0)
        base, shape, slope = _bounded(normal, target)
        total = separated @ gaps[:, 0] + PRIOR_ON_EXCESS * prior_excess
        excess = float(total / (separated.sum() + PRIOR_ON_EXCESS))
        excess = max(excess, LEAST_SEPARATION * base)
        fitted = Mixture(base, shape, slope, floors, excess, separated)
    return fitted


def sigmoid(logits: Array, bound: float) -> Array:
    """Return the logistic function of logits cut off at ±bound, same shape."""
    bounded = np.clip(logits, -bound, bound)
    return 1.0 / (1.0 + np.exp(-bounded))


def bounded_probability(logits: Array) -> Array:
    """Return the logistic function of logits that approach ±30, same shape; strictly increasing."""
    bounded = 30.0 * np.tanh(logits / 30.0)
    return 1.0 / (1.0 + np.exp(-bounded))


def _bounded(normal: Array, target: Array) -> tuple[float, float, float]:
    """Least squares for σ's three coefficients, ξ within its bounds."""
    normal = normal + np.diag(np.diag(normal) * 1e-9 + 1e-12)
    _, free_shape, _ = np.linalg.solve(normal, target)
    shape = float(np.clip(free_shape, STEEPEST, FLATTEST))
    if abs(shape) < EXPONENTIAL:
        shape = EXPONENTIAL
    others = [0, 2]
    left = target[others] - shape * normal[others, 1]
    base, slope = np.linalg.solve(normal[np.ix_(others, others)], left)
    return max(float(base), 1e-9), shape, float(slope)


def _log_density(
    gaps: Array,
    scale: Array,
    number: Array,
    shape: float,
) -> Array:
    """Return that of the least of `number` exceedances of a generalised Pareto tail."""
    inside = np.log(np.maximum(1.0 + shape * gaps / scale, 1e-12))
    exponent = number / shape + 1.0
    return np.log(number / scale) - exponent * inside


def survival(
    fitted: Mixture,
    thresholds: Array,
    levels: Array,
) -> Array:
    """S(t | m) above each level `(n,)`: `(k, n)` for thresholds `(k, 1)`."""
    rise = np.maximum(thresholds - levels, 0.0) / fitted.scale(levels)
    with np.errstate(divide="ignore"):
        inside = np.maximum(1.0 + fitted.shape * rise, 0.0)
        return inside ** (-1.0 / fitted.shape)


def shifted(
    fitted: Mixture,
    levels: Array,
    ratios: Array,
) -> Array:
    """Return the levels expected where `ratios` times as many identities are searched."""
    growth = ratios**fitted.shape - 1.0
    return levels + fitted.scale(levels) * growth / fitted.shape


def solve(
    fitted: Mixture,
    second: Array,
    third: Array,
    rates: Array,
) -> Array:
    """Return the thresholds, one for each rate, that the best impostor exceeds in that share.

    Args:
        fitted: the mixture.
        second, third: levels of every search, `(n,)`, that the best impostor of a stranger and of
            an enrolled person exceeds.
        rates: the shares, `(k,)`.
    """
    low = np.full(len(rates), float(third.min()))
    high = np.full(len(rates), float(second.max()) + 40.0 * fitted.base)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2.0
        of_strangers = survival(fitted, middle[:, None], second)
        of_enrolled = survival(fitted, middle[:, None], third)
        exceeded = (1.0 - fitted.separated) * of_strangers
        exceeded = exceeded + fitted.separated * of_enrolled
        more = exceeded.mean(axis=1) > rates
        low = np.where(more, middle, low)
        high = np.where(more, high, middle)
    return high


def probability_line(fitted: Mixture, scores: Array) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Places and logits of a logistic regression, both kinds of best score weighing one half."""
    separated = fitted.separated
    quantiles = -np.log1p(-(np.arange(10) + 0.5) / 10.0)
    drawn = (scores[:, 1, None] + fitted.excess * quantiles).ravel()
    first = scores[:, 0]
    values = np.concatenate([first, drawn, first, scores[:, 1]])
    prior = np.full(len(drawn), PRIOR_SEARCHES / len(drawn))
    genuine = np.concatenate([separated, prior])
    impostor = np.concatenate([1.0 - separated, separated])
    weights = np.concatenate([genuine / genuine.sum(), impostor / impostor.sum()])
    labels = np.arange(len(values)) < len(genuine)
    middle = float(np.average(values, weights=weights))
    spread = max(fitted.base, 1e-9)
    standardised = (values - middle) / spread
    units = np.stack([standardised, np.ones_like(values)])
    line = np.array([0.5, 0.0])
    ridge = np.array([1e-3, 0.0])
    for _ in range(50):
        expected = sigmoid(line @ units, 30.0)
        gradient = units @ (weights * (labels - expected)) - ridge * line
        curve = weights * (expected * (1.0 - expected) + 1e-9)
        hessian = (curve * units) @ units.T + np.diag(ridge)
        step = np.linalg.solve(hessian, gradient)
        line = line + np.clip(step, -1.0, 1.0)
        line[0] = max(line[0], 0.05)
    ends = np.array([-10.0, 10.0])
    places = middle + ends * spread
    logits = line[1] + ends * line[0]
    rounded_places = np.round(places, 6).tolist()
    rounded_logits = np.round(logits, 6).tolist()
    return tuple(rounded_places), tuple(rounded_logits)
