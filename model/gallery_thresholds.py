"""Search thresholds of a gallery with names, fitted to its own crops.

Each named crop searches the crops of all other identities, so that it plays a stranger. These
left-out searches show how far the best score of a stranger exceeds the level of its search, before
anybody searches the gallery. docs/calibration.md has the equations, and docs/alarms.md the
measurements.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from model.arrays import Array, Codes, bounded_probability, continued
from model.calibration import ScoringCalibration
from model.order_statistics import FEW_IDENTITIES, RANK, RANKS
from model.problems import InputProblem
from model.search_calibration import FAR_EXTRAPOLATION
from model.stored import Metadata, Stored

# Version of the fit. It is raised whenever equal crops would get other thresholds, so that stored
# thresholds are fitted again.
RULE = 2
# The tail is fitted to the upper half of the heights.
MEDIAN = 0.5
# The prior of σ, in units of β, is log-normal. That of ξ is normal, with a mean that depends on the
# slope of the spacings.
SCALE_PRIOR = 0.78
SCALE_SPREAD = 0.1
SHAPE_AT_ZERO = 0.05
SHAPE_PER_SLOPE = 0.5
SHAPE_SPREAD = 0.12
STEEPEST = -0.2
FLATTEST = 0.08
# A person who is enrolled under two names finds themselves in a left-out search. The share of such
# searches is one of these, with a prior that falls as its inverse. If all were equally likely, a
# few people who look alike would count as doubles, and the tail would leave them out.
DOUBLES = np.array([0.003, 0.01, 0.03, 0.1, 0.3])
# The grid of the posterior: ln σ relative to the prior's, and ξ, by which the formulas divide.
LOGS = np.linspace(-0.5, 0.5, 21)
SHAPES = np.linspace(-0.3, 0.6, 37)
SHAPES[12] = 1e-3
# A tail stores the heights that a share e^−t of strangers reaches, for each of these t.
RARITIES = -np.log([MEDIAN, 0.3, 0.1, 0.03, 0.01, 3e-3, 1e-3, 1e-4, 1e-5])
HIGHEST = 80.0
STEPS = 1601
# The rarity of a genuine score, and the excess of a person under two names, are assumed to be
# distributed as Gamma(2, 3). The scale is fixed, so that a probability is the same function of
# rarity everywhere; fitted to searches, it is no better.
GENUINE = 3.0
# The artefact's own thresholds are computed for these numbers of identities. There are more than
# `FEW_IDENTITIES`, since `CurrentCalibration.judge` counts further crops as further identities.
ARTEFACT_SIZES = (*range(1, FEW_IDENTITIES), 24, 32, 48, 64, 96, 128, 256, 512)
# Heights have to rise strictly, but an impostor tail may have one score at several shares.
LEAST_RISE = 1e-6


def level(leaders: Array) -> Array:
    """Compute ℓ, the mean of M₂ … M₉, of searches `(…, 9)`."""
    return leaders[..., 1:RANKS].mean(axis=-1)


def spacing(leaders: Array) -> Array:
    """Compute the mean of i·(Mᵢ − Mᵢ₊₁) over ranks 3 to 8, of searches `(…, 9)`."""
    # A genuine M₁ lowers the ranks of the others by one, which matters least from rank 3 on.
    spacings = -np.diff(leaders) * RANK
    return spacings[..., 2:].mean(axis=-1)


def identity_weights(names: Codes) -> tuple[int, Array]:
    """Return the number of identities, and weights `(n,)` that add up to one for each identity."""
    _, places, counts = np.unique(
        names,
        return_inverse=True,
        return_counts=True,
    )
    return len(counts), 1.0 / counts[places]


class LeftOutSearches(NamedTuple):
    """Searches by named crops without their own identities, so that each crop plays a stranger.

    Attributes:
        leaders: the nine best identity scores of each search, `(n, 9)`, descending; a row that is
            not finite is left out. They are divided by the spread of the crop's camera.
        names: codes of the identities that the crops show, `(n,)`.
        identities: K, the number of identities that are searched.
    """

    leaders: Array
    names: Codes
    identities: int


class StrangerTail(Stored):
    """The distribution of strangers' heights among K identities.

    Attributes:
        identities: K, the number of identities that are searched.
        scale: β, in units of the score.
        heights: the heights at `RARITIES`, rising.
    """

    identities: int
    scale: float
    heights: tuple[float, ...] = Field(min_length=len(RARITIES), max_length=len(RARITIES))

    def threshold(self, far: float, level: float) -> float:
        """Return the score that a share `far` of strangers reaches in a search with this level."""
        return level + self.scale * self.height(-math.log(far))

    def height(self, rarity: float) -> float:
        """Return the height that a share e^−rarity of strangers reaches; rarity > 0."""
        lowest = RARITIES[0]
        if rarity < lowest:
            return self.heights[0] + math.log(rarity / lowest) / self._decay
        return float(continued(rarity, RARITIES, self.heights))

    def probability(self, scores: NDArray[np.floating], level: float) -> Array:
        """Compute the probability at even odds that each score is genuine, same shape.

        It rises strictly with the score, and is 0.54 at the threshold of 1e-1, 0.92 at 1e-2 and
        0.99 at 1e-3 in every search, gallery and scoring. It never contradicts a verdict, and
        unlike a raw score it can be compared between searches.
        """
        heights = (np.asarray(scores, np.float64) - level) / self.scale
        return bounded_probability(self.evidence(heights))

    def evidence(self, heights: Array) -> Array:
        """Compute the logit of the probability at even odds that each height is genuine.

        The rarity t of a height is −ln of the share of strangers that reach it. It is distributed
        as Exp(1) for strangers, and is assumed to be as Gamma(2, 3) for genuine scores, so that the
        logit is ln t + 2t/3 − 2 ln 3.
        """
        lowest = self.heights[0]
        inside = continued(np.maximum(heights, lowest), self.heights, RARITIES)
        rarity = inside * np.exp(self._decay * np.minimum(heights - lowest, 0.0))
        return _genuine_density(rarity) + rarity

    @property
    def _decay(self) -> float:
        # Below the lowest height the rarity falls exponentially, with the slope above it.
        run = self.heights[1] - self.heights[0]
        return float(RARITIES[1] / RARITIES[0] - 1.0) / run


def _genuine_density(values: Array) -> Array:
    """Return the log density of Gamma(2, 3)."""
    return np.log(values) - values / GENUINE - 2.0 * math.log(GENUINE)


class GalleryThresholds(Metadata):
    """Thresholds and probabilities for the searches of one gallery by one scoring.

    A search with level ℓ among K identities has the threshold ℓ + β·y(rate). A verdict thus depends
    on the level, and the same raw score can be a match in one search and none in another.

    Attributes:
        tails: tails of the strangers' heights in the gallery and in parts of it, for the largest
            number of identities first.
        mean_scales: rising numbers of crops, and for each the scale of searches by the mean of
            crops, relative to searches by one crop. Empty if too few people have several crops, and
            None if it was not measured.
    """

    tails: tuple[StrangerTail, ...]
    mean_scales: tuple[tuple[int, float], ...] | None = None

    def tail(self, identities: int, pictures: int = 1, spread: float = 1.0) -> StrangerTail:
        """Return the tail of searches among K identities.

        It is interpolated along ln K. For searches by the mean of several crops of one person the
        scale is interpolated along the logarithm of their number. Both are constant beyond the ends
        of the tables.

        Args:
            identities: K.
            pictures: number of crops whose mean searches.
            spread: that of the camera that searches; see `model.centring.measure_spreads`.
        """
        tails = self.tails[::-1]
        sizes = np.log([tail.identities for tail in tails])
        rows = np.array([(tail.scale, *tail.heights) for tail in tails])
        place = math.log(max(1, identities))
        scale, *heights = [float(np.interp(place, sizes, column)) for column in rows.T]
        measured = self.mean_scales or ()
        numbers, scales = zip((1, 1.0), *measured, strict=True)
        of_pictures = float(np.interp(math.log(pictures), np.log(numbers), scales))
        return StrangerTail(
            identities=identities,
            scale=of_pictures * scale * spread,
            heights=heights,
        )

    def extrapolated(self, identities: int) -> bool:
        """Return whether K is over ten times the number of identities of the left-out searches."""
        return identities > FAR_EXTRAPOLATION * self.tails[0].identities


def artefact_thresholds(calibration: ScoringCalibration) -> GalleryThresholds:
    """Return an artefact's thresholds for searches that cover 1 to 17 identities.

    Searches among so few have no level or scale of their own. The heights are raw scores that the
    best of K pairs reaches by the artefact's impostor tail: pass 0 as the level. A probability is
    the same function of rarity as in a gallery with its own thresholds.
    """
    tails = []
    for identities in reversed(ARTEFACT_SIZES):
        rates = np.exp(-RARITIES).tolist()
        scores = [calibration.search_threshold(rate, identities) for rate in rates]
        rising = scores + LEAST_RISE * np.arange(len(scores))
        tails.append(StrangerTail(identities=identities, scale=1.0, heights=rising.tolist()))
    return GalleryThresholds(tails=tails)


def fit_thresholds(
    left_out: Sequence[LeftOutSearches],
    mean_scales: Sequence[tuple[int, float]] | None = None,
) -> GalleryThresholds:
    """Fit thresholds to the left-out searches of a gallery.

    Args:
        left_out: searches of the whole gallery, then of parts of it.
        mean_scales: as in `GalleryThresholds`.

    Raises:
        InputProblem: there are fewer than 18 identities, or the scores have no spread.
    """
    return GalleryThresholds(
        tails=[fit_tail(searches) for searches in left_out],
        mean_scales=mean_scales,
    )


def mean_scale(leaders: Array, names: Codes) -> float | None:
    """Return the scale of searches by means of crops, relative to searches by the single crops.

    Args:
        leaders: the nine best identity scores of the mean of each group, then of each of its crops,
            `(g, 1 + k, 9)`.
        names: codes of the identities that the groups show, `(g,)`.

    Returns:
        The ratio; None if there are fewer than 18 identities, or the scores have no spread.
    """
    scored = np.isfinite(leaders).all(axis=(1, 2))
    identities, weights = identity_weights(names[scored])
    of_mean, *of_crops = (weights @ spacing(leaders[scored])).tolist()
    if identities < FEW_IDENTITIES or min(of_mean, *of_crops) <= 0.0:
        return None
    return round(of_mean * len(of_crops) / sum(of_crops), 4)


def fit_tail(searches: LeftOutSearches, shape_spread: float = SHAPE_SPREAD) -> StrangerTail:
    """Fit the tail of the heights; every identity has the same weight.

    Args:
        searches: at least 18 identities search.
        shape_spread: standard deviation of the prior of ξ.

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
    spacings = weights @ (-np.diff(leaders) * RANK)
    scale = float(spacings[2:].mean() / identities)
    if scale <= 0.0:
        raise InputProblem(
            "the scores of the identities have no spread, so that they show no tail; enroll "
            "different people"
        )
    heights = (leaders[:, 0] - level(leaders)) / scale
    order = np.argsort(heights)
    shares = np.cumsum(weights[order]) / weights.sum()
    start = float(heights[order][np.searchsorted(shares, 1.0 - MEDIAN)])
    # The slope of a line through the mean spacings is a sign of ξ. Rank 1 is left out, since people
    # who are enrolled under two names distort it.
    slope, _ = np.polyfit((weights @ leaders)[2:], spacings[1:], 1)
    shape = np.clip(SHAPE_AT_ZERO + SHAPE_PER_SLOPE * slope, STEEPEST, FLATTEST)
    above = heights > start
    excesses = _excesses(heights[above] - start, weights[above], shape, shape_spread)
    rising = np.maximum.accumulate(start + excesses + 1e-3 * np.arange(len(RARITIES)))
    return StrangerTail(
        identities=searches.identities,
        scale=float(f"{scale:.6g}"),
        heights=np.round(rising, 4).tolist(),
    )


def _excesses(
    excess: Array,
    weight: Array,
    expected_shape: float,
    shape_spread: float,
) -> Array:
    """Compute the heights above the median at `RARITIES`, averaged over a posterior of σ and ξ.

    A component of its own takes up the searches that found their own person under another name. The
    posterior sums over its share, and the tail leaves it out.
    """
    # The axes are the share of doubles, σ, ξ, and the searches or the points of the grid.
    share = DOUBLES[:, None, None, None]
    sigma = SCALE_PRIOR * np.exp(LOGS)[:, None, None]
    shape = SHAPES[:, None]
    inside = 1.0 + shape * excess / sigma
    density = -(1.0 / shape + 1.0) * np.log(np.maximum(inside, 1e-9))
    density = np.where(inside > 1e-9, density, -1e3) - np.log(sigma)
    double = _genuine_density(np.maximum(excess, 1e-3))
    likelihood = np.logaddexp(np.log1p(-share) + density, np.log(share) + double) @ weight
    prior = (LOGS[:, None] / SCALE_SPREAD) ** 2 + ((SHAPES - expected_shape) / shape_spread) ** 2
    posterior = likelihood - 0.5 * prior - np.log(DOUBLES)[:, None, None]
    posterior = np.exp(posterior - posterior.max()).sum(axis=0)
    grid = np.linspace(0.0, HIGHEST, STEPS)
    tails = np.maximum(1.0 + shape * grid / sigma, 0.0) ** (-1.0 / shape)
    survival = MEDIAN * np.einsum("ij,ijk->k", posterior / posterior.sum(), tails)
    return np.interp(RARITIES, -np.log(np.maximum(survival, 1e-15)), grid)
