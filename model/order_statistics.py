"""A mixture model of the best scores M₁ ≥ M₂ ≥ … of unlabelled searches.

In a search for a stranger all of them are scores of other people, and the gap Mᵢ − Mᵢ₊₁ is the
least of i exceedances of a generalised Pareto tail over Mᵢ₊₁. In a search for an enrolled person M₁
is genuine: the gap M₁ − M₂ is exponential with mean γ, and each gap below it is the least of i − 1
exceedances.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from model.arrays import Array, Codes
from model.problems import InputProblem

# The weights of the artefact's values beside those of the searches, in searches. That of ξ is high,
# since the shape of the tail and the share of enrolled people can stand for each other. That of γ
# counts searches for enrolled people.
PRIOR_SEARCHES = 20.0
PRIOR_ON_SHAPE = 300.0
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
    """The parameters of a fitted mixture.

    Attributes:
        base, shape, slope: a generalised Pareto tail with ξ = shape ≠ 0, and with
            σ(m) = base + shape·(m − floor) + slope·(floor − mean of the floors) at level m.
        floors: the lowest score of each search that is used, `(n,)`.
        excess: γ, the mean excess of a genuine best score.
        separated: the probability for each search that its best score is genuine, `(n,)`.
    """

    base: float
    shape: float
    slope: float
    floors: Array
    excess: float
    separated: Array

    def scale(self, levels: Array) -> Array:
        """Compute σ at one level of each search, `(n,)`, or at several levels, `(n, k)`."""
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
    """Fit the mixture by expectation maximisation.

    Args:
        scores: the nine best scores of each search, `(n, 9)`, descending.
        count: the number of gaps that are used of each search, `(n,)`, 3 to 8.
        prior_base, prior_excess, prior_shape: β, γ and ξ of the artefact.

    Raises:
        InputProblem: the scores have no spread.
    """
    rank = np.arange(1, scores.shape[1], dtype=np.float64)
    below = np.maximum(rank - 1.0, 1.0)
    used = rank <= count[:, None]
    tail = used & (rank >= 2)
    levels = scores[:, 1:]
    gaps = scores[:, :-1] - levels
    if not np.any(gaps[tail] > 0.0):
        raise InputProblem(
            "the best scores of the searches have no spread, so that they show no tail; search for "
            "different people in a gallery of different people"
        )
    floors = scores[np.arange(len(scores)), count]
    heights = levels - floors[:, None]
    offsets = floors - floors.mean()
    # σ is a weighted sum of these terms, `(3, n, 8)`, with weights base, shape and slope.
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
        # The odds that the best score of each search is genuine.
        enrolled_density = _log_density(gaps, sigma, below, shape)
        stranger_density = _log_density(gaps, sigma, rank, shape)
        evidence = np.where(tail, enrolled_density, 0.0)
        evidence = evidence - np.where(used, stranger_density, 0.0)
        odds = math.log(share / (1.0 - share) / fitted.excess)
        logits = odds - gaps[:, 0] / fitted.excess + evidence.sum(axis=1)
        separated = sigmoid(logits, 50.0)

        # Weighted least squares for σ: the mean of a gap is σ / (i − ξ) with i scores above it.
        strangers = used * (1.0 - separated[:, None])
        enrolled = tail * separated[:, None]
        means = strangers * (rank - shape) + enrolled * (below - shape)
        values = means * gaps
        gap_weights = (strangers + enrolled) / sigma**2
        normal = np.einsum("ink,jnk,nk->ij", terms, terms, gap_weights)
        target = np.einsum("ink,nk->i", terms, values / sigma**2)
        base_weight = PRIOR_SEARCHES * count.mean() / fitted.base**2
        shape_weight = float(np.square(used * terms[1] / sigma).sum())
        shape_weight = PRIOR_ON_SHAPE / len(scores) * shape_weight
        prior_weights = np.array([base_weight, shape_weight, 0.0])
        normal += np.diag(prior_weights)
        target += prior_weights * (prior_base, prior_shape, 0.0)
        base, shape, slope = _solve_scale(normal, target)

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
    """Return probabilities of logits, which saturate at ±30; same shape, strictly increasing."""
    bounded = 30.0 * np.tanh(logits / 30.0)
    return sigmoid(bounded, 30.0)


def _solve_scale(normal: Array, target: Array) -> tuple[float, float, float]:
    """Solve normal equations for the base, shape and slope of σ, the shape within its bounds."""
    normal = normal + np.diag(np.diag(normal) * 1e-9 + 1e-12)
    _, free_shape, _ = np.linalg.solve(normal, target)
    shape = float(np.clip(free_shape, STEEPEST, FLATTEST))
    if abs(shape) < EXPONENTIAL:
        shape = EXPONENTIAL
    others = [0, 2]
    remainder = target[others] - shape * normal[others, 1]
    base, slope = np.linalg.solve(normal[np.ix_(others, others)], remainder)
    return max(float(base), 1e-9), shape, float(slope)


def _log_density(
    gaps: Array,
    scale: Array,
    number: Array,
    shape: float,
) -> Array:
    """Return the log density of the least of `number` exceedances of a generalised Pareto tail."""
    inside = np.log(np.maximum(1.0 + shape * gaps / scale, 1e-12))
    exponent = number / shape + 1.0
    return np.log(number / scale) - exponent * inside


def _survival(
    fitted: Mixture,
    thresholds: Array,
    levels: Array,
) -> Array:
    """Return the shares `(k, n)` of the tail above levels `(n,)` that reach thresholds `(k, 1)`."""
    rise = np.maximum(thresholds - levels, 0.0) / fitted.scale(levels)
    with np.errstate(divide="ignore"):
        inside = np.maximum(1.0 + fitted.shape * rise, 0.0)
        return inside ** (-1.0 / fitted.shape)


def shifted(
    fitted: Mixture,
    levels: Array,
    ratios: Array,
) -> Array:
    """Return the levels to expect if `ratios` times as many identities are searched."""
    growth = ratios**fitted.shape - 1.0
    return levels + fitted.scale(levels) * growth / fitted.shape


def solve(
    fitted: Mixture,
    second: Array,
    third: Array,
    rates: Array,
) -> Array:
    """Return thresholds `(k,)` that the best impostor exceeds in given shares of the searches.

    Args:
        fitted: the mixture.
        second, third: levels `(n,)` that the best impostor exceeds in each search, if it is for a
            stranger and if it is for an enrolled person.
        rates: the shares, `(k,)`.
    """
    low = np.full(len(rates), float(third.min()))
    high = np.full(len(rates), float(second.max()) + 40.0 * fitted.base)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2.0
        strangers = _survival(fitted, middle[:, None], second)
        enrolled = _survival(fitted, middle[:, None], third)
        exceeded = (1.0 - fitted.separated) * strangers
        exceeded = exceeded + fitted.separated * enrolled
        is_too_low = exceeded.mean(axis=1) > rates
        low = np.where(is_too_low, middle, low)
        high = np.where(is_too_low, high, middle)
    return high


def probability_line(fitted: Mixture, scores: Array) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Fit a line of logits to genuine and impostor best scores, which weigh one half each.

    Genuine scores are drawn from the mixture besides those of the searches, as a prior.

    Args:
        fitted: the mixture.
        scores: the nine best scores of each search, `(n, 9)`, descending.

    Returns:
        Two scores, and the logits there.
    """
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
    terms = np.stack([standardised, np.ones_like(values)])
    line = np.array([0.5, 0.0])
    ridge = np.array([1e-3, 0.0])
    for _ in range(50):
        expected = sigmoid(line @ terms, 30.0)
        residuals = weights * (labels - expected)
        gradient = terms @ residuals - ridge * line
        curvature = weights * (expected * (1.0 - expected) + 1e-9)
        hessian = (curvature * terms) @ terms.T + np.diag(ridge)
        step = np.linalg.solve(hessian, gradient)
        line = line + np.clip(step, -1.0, 1.0)
        line[0] = max(line[0], 0.05)
    ends = np.array([-10.0, 10.0])
    places = middle + ends * spread
    logits = line[1] + ends * line[0]
    rounded_places = np.round(places, 6)
    rounded_logits = np.round(logits, 6)
    return tuple(rounded_places.tolist()), tuple(rounded_logits.tolist())
