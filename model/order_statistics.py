"""A mixture model of the nine best scores M₁ ≥ … ≥ M₉ of unlabelled searches.

In a search for a stranger all of them are scores of other people, and the gap Mᵢ − Mᵢ₊₁ is the
least of i exceedances of a generalised Pareto tail over Mᵢ₊₁. In a search for an enrolled person M₁
is genuine: the gap M₁ − M₂ is exponential with mean γ, and each gap below it is the least of i − 1
exceedances.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from model.arrays import Array, sigmoid
from model.problems import InputProblem

RANKS = 9
# Ranks i of the gaps Mᵢ − Mᵢ₊₁.
RANK = np.arange(1.0, RANKS)
# Among K identities ⌊K / 6⌋ gaps belong to the tail, and a fit takes at least three.
IDENTITIES_PER_GAP = 6
FEWEST_GAPS = 3
FEW_IDENTITIES = IDENTITIES_PER_GAP * FEWEST_GAPS
# Weights of the artefact's values, as numbers of searches. The weight of ξ is high, since the shape
# of the tail and the share of enrolled people can replace each other. The weight of γ counts
# searches for enrolled people.
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
    """The mixture that was fitted to n searches.

    Attributes:
        scores: the nine best scores of each search, `(n, 9)`, descending.
        sizes: K, the number of identities that each search covered, `(n, 1)`.
        floors: the lowest score of each search that is used, `(n, 1)`.
        base, shape, slope: a generalised Pareto tail with ξ = shape ≠ 0, and with
            σ(m) = base + shape·(m − floor) + slope·(floor − mean of the floors) at level m.
        excess: γ, the mean excess of a genuine best score.
        separated: the probability for each search that its best score is genuine, `(n, 1)`.
    """

    scores: Array
    sizes: Array
    floors: Array
    base: float
    shape: float
    slope: float
    excess: float
    separated: Array

    def scale(self, levels: Array) -> Array:
        """Compute σ at levels of each search, `(n, k)`."""
        sigma = self.base + self.shape * (levels - self.floors)
        sigma = sigma + self.slope * (self.floors - self.floors.mean())
        return np.maximum(sigma, LEAST_SCALE * self.base)

    def thresholds(self, identities: float, rates: Sequence[float]) -> Array:
        """Return thresholds `(k,)` that the best impostor of K exceeds in shares of the searches.

        Args:
            identities: K.
            rates: the shares, `(k,)`.
        """
        # The best impostor exceeds M₂ in a search for a stranger, and M₃ if M₁ is genuine.
        levels = self.scores[:, 1:3]
        growth = ((identities / self.sizes) ** self.shape - 1.0) / self.shape
        levels = levels + self.scale(levels) * growth
        sigma = self.scale(levels)
        shares = np.hstack([1.0 - self.separated, self.separated]) / len(levels)
        low = np.full(len(rates), levels[:, 1].min())
        high = np.full(len(rates), levels[:, 0].max() + 40.0 * self.base)
        for _ in range(BISECTIONS):
            middle = (low + high) / 2.0
            heights = np.maximum(middle[:, None, None] - levels, 0.0) / sigma
            inside = np.maximum(1.0 + self.shape * heights, 0.0)
            survival = inside ** (-1.0 / self.shape)
            is_too_low = (shares * survival).sum(axis=(1, 2)) > rates
            low = np.where(is_too_low, middle, low)
            high = np.where(is_too_low, high, middle)
        return high

    def probability_line(self) -> tuple[Array, Array]:
        """Fit a line of logits to genuine and impostor best scores, which weigh one half each.

        As a prior, further genuine scores are drawn from the mixture.

        Returns:
            Two scores, and the logits there.
        """
        quantiles = -np.log1p(-(np.arange(10) + 0.5) / 10.0)
        drawn = self.scores[:, 1:2] + self.excess * quantiles
        values = np.hstack([self.scores[:, :2], drawn]).ravel()
        prior = np.full_like(drawn, PRIOR_SEARCHES / drawn.size)
        genuine = np.hstack([self.separated, 0.0 * self.separated, prior])
        impostor = np.hstack([1.0 - self.separated, self.separated, 0.0 * prior])
        genuine = (genuine / genuine.sum()).ravel()
        weights = genuine + (impostor / impostor.sum()).ravel()
        middle = np.average(values, weights=weights)
        standardised = (values - middle) / self.base
        terms = np.stack([standardised, np.ones_like(standardised)])
        line = np.array([0.5, 0.0])
        ridge = np.array([1e-3, 0.0])
        for _ in range(50):
            expected = sigmoid(line @ terms)
            gradient = terms @ (genuine - weights * expected) - ridge * line
            curvature = weights * (expected * (1.0 - expected) + 1e-9)
            hessian = (curvature * terms) @ terms.T + np.diag(ridge)
            step = np.linalg.solve(hessian, gradient)
            # A long step is scaled down. Cut off by coordinate it would point elsewhere, and the
            # iteration might not converge.
            line = line + step / max(1.0, np.abs(step).max())
            line[0] = max(line[0], 0.05)
        ends = np.array([-10.0, 10.0])
        return middle + ends * self.base, line[1] + ends * line[0]


def fit_mixture(
    scores: Array,
    sizes: Array,
    prior_base: float,
    prior_excess: float,
    prior_shape: float,
) -> Mixture:
    """Fit the mixture by expectation maximisation.

    Args:
        scores: the nine best scores of each search, `(n, 9)`, descending.
        sizes: the number of identities that each search covered, `(n, 1)`, at least 18.
        prior_base, prior_excess, prior_shape: β, γ and ξ of the artefact.

    Raises:
        InputProblem: the scores have no spread.
    """
    count = np.minimum(sizes // IDENTITIES_PER_GAP, RANKS - 1).astype(np.int64)
    used = count >= RANK
    levels = scores[:, 1:]
    gaps = scores[:, :-1] - levels
    spacings = (RANK * gaps)[used & (RANK > 1)]
    if not spacings.any():
        raise InputProblem(
            "the best scores of the searches have no spread, so that they show no tail; search for "
            "different people in a gallery of different people"
        )
    base = float(spacings.mean()) / 1.3
    floors = np.take_along_axis(scores, count, axis=1)
    fitted = Mixture(
        scores=scores,
        sizes=sizes,
        floors=floors,
        base=base,
        shape=EXPONENTIAL,
        slope=0.0,
        excess=4.0 * base,
        separated=np.full_like(floors, 0.5),
    )
    # σ is a weighted sum of these terms, `(3, n, 8)`, with weights base, shape and slope.
    terms = np.stack(np.broadcast_arrays(1.0, levels - floors, floors - floors.mean()))
    prior = np.array([prior_base, prior_shape, 0.0])
    prior_excess = PRIOR_ON_EXCESS * max(prior_excess, LEAST_SEPARATION * prior_base)
    for _ in range(ROUNDS):
        sigma = fitted.scale(levels)
        shape = fitted.shape
        excess = fitted.excess
        # The least of i exceedances has the density i/σ·r^(−i/ξ − 1) with r = 1 + ξ·gap/σ. If M₁ is
        # genuine, i is one less, and the factors (i − 1)/i of the used gaps multiply to 1/count.
        ratios = np.log(np.maximum(1.0 + shape * gaps / sigma, 1e-12)) / shape
        evidence = shape * ratios[:, :1] + (used * ratios).sum(axis=1, keepdims=True)
        share = np.clip(fitted.separated.mean(), LEAST_SHARE, 1.0 - LEAST_SHARE)
        odds = share / (1.0 - share) * sigma[:, :1] / (excess * count)
        separated = sigmoid(np.log(odds) + evidence - gaps[:, :1] / excess)

        # Weighted least squares for σ: the mean of a gap is σ / (i − ξ).
        weights = used - separated * (RANK == 1)
        values = (used * (RANK - separated) - shape * weights) * gaps
        scaled = terms / sigma
        normal = np.einsum("ink,jnk,nk->ij", scaled, scaled, weights)
        target = np.einsum("ink,nk->i", scaled, values / sigma)
        base_weight = PRIOR_SEARCHES * count.mean() / fitted.base**2
        shape_weight = PRIOR_ON_SHAPE * np.square(scaled[1, used]).sum() / len(scores)
        prior_weights = np.array([base_weight, shape_weight, 0.0])
        normal += np.diag(prior_weights)
        target += prior_weights * prior
        base, shape, slope = _solve_scale(normal, target)

        total = (separated * gaps[:, :1]).sum() + prior_excess
        excess = total / (separated.sum() + PRIOR_ON_EXCESS)
        excess = max(float(excess), LEAST_SEPARATION * base)
        fitted = replace(
            fitted,
            base=base,
            shape=shape,
            slope=slope,
            excess=excess,
            separated=separated,
        )
    return fitted


def _solve_scale(normal: Array, target: Array) -> tuple[float, float, float]:
    """Solve normal equations for the base, shape and slope of σ, the shape within its bounds."""
    normal = normal + np.diag(np.diag(normal) * 1e-9 + 1e-12)
    shape = float(np.clip(np.linalg.solve(normal, target)[1], STEEPEST, FLATTEST))
    if abs(shape) < EXPONENTIAL:
        shape = EXPONENTIAL
    # The equation of the shape is replaced by its value.
    normal[1] = (0.0, 1.0, 0.0)
    target[1] = shape
    base, _, slope = np.linalg.solve(normal, target).tolist()
    return max(base, 1e-9), shape, slope
