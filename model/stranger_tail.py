"""The distribution of how far a stranger's best score exceeds the level of its search.

M₁ ≥ … ≥ M₉ are a search's nine best identity scores, ℓ = mean(M₂ … M₉) its level, and β the mean
spacing i·(Mᵢ − Mᵢ₊₁) of ranks 3 to 8. The height y = (M₁ − ℓ)/β of a stranger's search has a
generalised Pareto tail above its median. docs/calibration.md has the equations and the figures.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from pydantic import Field

from model.arrays import Array, Codes
from model.problems import InputProblem
from model.search_calibration import FEW_IDENTITIES, RANKS
from model.stored import Stored

# A genuine M₁ lowers the ranks of the others by one, which matters least from this rank on.
LOWEST_RANK = 3
RANK = np.arange(1, RANKS)
# The tail is that of the upper half of the heights.
MEDIAN = 0.5
# The prior of σ, in units of β, is log-normal. That of ξ is normal, with a mean that depends on the
# slope of the spacings.
SCALE_PRIOR = 0.78
SCALE_SPREAD = 0.1
SHAPE_AT_ZERO = 0.05
SHAPE_PER_SLOPE = 0.5
SHAPE_SPREAD = 0.07
STEEPEST = -0.2
FLATTEST = 0.08
# A person who is enrolled under two names finds themselves in a left-out search. The share of such
# searches is one of these, equally likely, and their excesses are distributed as Gamma(2, 3).
DOUBLES = np.array([0.003, 0.01, 0.03, 0.1, 0.3])
DOUBLE_EXCESS = 3.0
# The grid of the posterior: ln σ relative to the prior's, and ξ.
LOGS = np.linspace(-0.5, 0.5, 21)
SHAPES = np.linspace(-0.3, 0.4, 29)
SHAPES = np.where(np.abs(SHAPES) < 1e-3, 1e-3, SHAPES)
# A tail stores the heights that a share e^−t of strangers reaches, for each of these t.
RARITIES = -np.log([MEDIAN, 0.3, 0.1, 0.03, 0.01, 3e-3, 1e-3, 1e-4, 1e-5])
HIGHEST = 80.0
STEPS = 1601


def level(leaders: Array) -> Array:
    """Compute ℓ, the mean of M₂ … M₉, of searches `(…, 9)`."""
    return leaders[..., 1:RANKS].mean(axis=-1)


def spacing(leaders: Array, genuine: bool = False) -> Array:
    """Compute the mean of i·(Mᵢ − Mᵢ₊₁) over ranks 3 to 8, of searches `(n, 9)`.

    If M₁ is genuine, the scores of other people have one rank less.
    """
    gaps = (leaders[:, :-1] - leaders[:, 1:]) * (RANK - genuine)
    return gaps[:, LOWEST_RANK - 1 :].mean(axis=1)


def identity_weights(names: Codes) -> tuple[int, Array]:
    """Return the number of identities, and weights `(n,)` that add up to one for each identity."""
    _, places, counts = np.unique(
        names,
        return_inverse=True,
        return_counts=True,
    )
    return len(counts), 1.0 / counts[places]


@dataclass(frozen=True)
class LeftOutSearches:
    """Searches by named crops without their own identities, so that each crop plays a stranger.

    Attributes:
        leaders: the nine best identity scores of each search, `(n, 9)`, descending; a row that is
            not finite is left out.
        names: codes of the identities that the crops show, `(n,)`.
        identities: K, the number of identities that are searched.
    """

    leaders: Array
    names: Codes
    identities: int


class StrangerTail(Stored):
    """The distribution of heights among K identities.

    Attributes:
        identities: K, the number of identities that are searched.
        scale: β, in units of the score.
        heights: the heights at `RARITIES`, rising.
    """

    identities: int = Field(ge=1)
    scale: float = Field(gt=0.0)
    heights: tuple[float, ...] = Field(min_length=len(RARITIES), max_length=len(RARITIES))

    def height(self, rarity: float) -> float:
        """Return the height that a share e^−rarity of strangers reaches; rarity > 0."""
        first = float(RARITIES[0])
        last = float(RARITIES[-1])
        if rarity < first:
            fall = first / self._slope(0) * math.log(rarity / first)
            return self.heights[0] + fall
        beyond = max(rarity - last, 0.0) / self._slope(-2)
        return float(np.interp(rarity, RARITIES, self.heights)) + beyond

    def rarity(self, heights: Array) -> Array:
        """Return −ln of the share of strangers that reach each height, positive and increasing."""
        lowest = self.heights[0]
        highest = self.heights[-1]
        inside = np.interp(heights, self.heights, RARITIES)
        beyond = np.maximum(heights - highest, 0.0) * self._slope(-2)
        below = np.minimum(heights - lowest, 0.0) * self._slope(0) / RARITIES[0]
        return (inside + beyond) * np.exp(below)

    def _slope(self, step: int) -> float:
        run = self.heights[step + 1] - self.heights[step]
        return float((RARITIES[step + 1] - RARITIES[step]) / run)


def fit_tail(searches: LeftOutSearches) -> StrangerTail:
    """Fit the tail of the heights; every identity has the same weight.

    Raises:
        InputProblem: there are fewer than 18 identities, or the scores have no spread.
    """
    scored = np.isfinite(searches.leaders).all(axis=1)
    leaders = searches.leaders[scored]
    identities, weights = identity_weights(searches.names[scored])
    if identities < FEW_IDENTITIES:
        raise InputProblem(
            f"{identities} named identities are too few to show a tail; it takes {FEW_IDENTITIES}, "
            "each with a search among the others"
        )
    scale = float(np.average(spacing(leaders), weights=weights))
    if scale <= 0.0:
        raise InputProblem(
            "the scores of the identities have no spread, so that they show no tail; enroll "
            "different people"
        )
    heights = (leaders[:, 0] - level(leaders)) / scale
    order = np.argsort(heights)
    shares = np.cumsum(weights[order]) / weights.sum()
    start = float(heights[order][np.searchsorted(shares, 1.0 - MEDIAN)])
    grid = np.linspace(0.0, HIGHEST, STEPS)
    survival = _survival(leaders, weights, scale, heights - start, grid)
    rarities = -np.log(np.maximum(survival, 1e-15))
    reached = start + np.interp(RARITIES, rarities, grid)
    rising = np.maximum.accumulate(reached + 1e-3 * np.arange(len(reached)))
    rounded = np.round(rising, 4)
    return StrangerTail(
        identities=searches.identities,
        scale=float(f"{scale:.6g}"),
        heights=tuple(rounded.tolist()),
    )


def _survival(
    leaders: Array,
    weights: Array,
    scale: float,
    excesses: Array,
    grid: Array,
) -> Array:
    """Compute P(height − median > x) at each x of the grid, averaged over a posterior of σ and ξ.

    A component of its own takes up the searches that found their own person under another name. The
    posterior sums over its share, and the tail leaves it out.
    """
    above = excesses > 0.0
    excess = excesses[above]
    weight = weights[above]
    # The axes are σ, ξ, and the searches or the points of the grid.
    sigma = SCALE_PRIOR * np.exp(LOGS)[:, None, None]
    shape = SHAPES[:, None]
    inside = 1.0 + shape * excess / sigma
    logarithm = np.log(np.maximum(inside, 1e-9))
    density = -(1.0 / shape + 1.0) * logarithm
    density = np.where(inside > 1e-9, density, -1e3) - np.log(sigma)
    double = np.log(np.maximum(excess, 1e-3)) - excess / DOUBLE_EXCESS
    double -= 2.0 * math.log(DOUBLE_EXCESS)
    likelihoods = []
    for share in DOUBLES.tolist():
        stranger = math.log1p(-share) + density
        likelihoods.append(np.logaddexp(stranger, math.log(share) + double) @ weight)
    posterior = np.stack(likelihoods)
    posterior -= 0.5 * (LOGS[:, None] / SCALE_SPREAD) ** 2
    expected_shape = _expected_shape(leaders, weights, scale)
    posterior -= 0.5 * ((SHAPES - expected_shape) / SHAPE_SPREAD) ** 2
    posterior = np.exp(posterior - posterior.max()).sum(axis=0)
    remaining = np.maximum(1.0 + shape * grid / sigma, 0.0)
    tails = remaining ** (-1.0 / shape)
    return MEDIAN * np.einsum("ij,ijk->k", posterior / posterior.sum(), tails)


def _expected_shape(
    leaders: Array,
    weights: Array,
    scale: float,
) -> float:
    """Estimate ξ by the slope of a line through (mean Mᵢ₊₁/β, mean i·(Mᵢ − Mᵢ₊₁)/β), i = 2 … 8.

    Rank 1 is left out, since people who are enrolled under two names distort it.
    """
    spacings = (leaders[:, :-1] - leaders[:, 1:]) * RANK
    gaps = np.average(
        spacings,
        axis=0,
        weights=weights,
    )
    places = np.average(
        leaders[:, 1:],
        axis=0,
        weights=weights,
    )
    slope, _ = np.polyfit(places[1:] / scale, gaps[1:] / scale, 1)
    shape = SHAPE_AT_ZERO + SHAPE_PER_SLOPE * float(slope)
    return min(max(shape, STEEPEST), FLATTEST)
