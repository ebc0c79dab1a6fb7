"""Search thresholds of a gallery with names, fitted to its own crops.

Each named crop searches the crops of all other identities, so that it plays a stranger. These
left-out searches show how far the best score of a stranger exceeds the level of its search, before
anybody searches the gallery. Unlabelled searches correct the scale alone. docs/calibration.md has
the equations and the measurements.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from model.arrays import Array, Codes, Floats
from model.calibration import ScoringCalibration
from model.order_statistics import LEAST_SHARE, bounded_probability, sigmoid
from model.search_calibration import (
    FAR_EXTRAPOLATION,
    FEW_IDENTITIES,
    RANKS,
    SearchScores,
    latest_searches,
)
from model.stored import Stored
from model.stranger_tail import (
    RARITIES,
    LeftOutSearches,
    StrangerTail,
    fit_tail,
    identity_weights,
    level,
    spacing,
)

MOST_CROPS = 1000
CROPS_PER_IDENTITY = 3
# Searches by the mean of 2, 4 and 8 crops are measured, by at most `MOST_MEANS` of each.
PICTURES = (2, 4, 8)
MOST_MEANS = 100
# Searches with a filter have tails of their own: of all identities, a third of them, a tenth …
FEWER = (1, 3, 10, 30, 100)
# The artefact's own thresholds are computed for these numbers of identities. There are more than
# `FEW_IDENTITIES`, since `CurrentCalibration.judge` counts further crops as further identities.
ARTEFACT_SIZES = (*range(1, FEW_IDENTITIES), 24, 32, 48, 64, 96, 128, 256, 512)
# ρ before any search, and its weight in searches.
RATIO_PRIOR = 0.92
RATIO_WEIGHT = 20.0
# The rarity of a genuine score is assumed to be distributed as Gamma(2, 3). The scale is fixed, so
# that a probability is the same function of rarity everywhere; fitted to searches, it is no better.
GENUINE = 3.0
ROUNDS = 15
# Heights have to rise strictly, but an impostor tail may have one score at several shares.
LEAST_RISE = 1e-6


class GalleryThresholds(Stored):
    """Thresholds and probabilities for the searches of one gallery by one scoring.

    A search with level ℓ among K identities has the threshold ℓ + ρ·β·y(rate). A verdict thus
    depends on the level, and the same raw score can be a match in one search and none in another.

    Attributes:
        tails: tails of the strangers' heights, for the largest number of identities first.
        mean_scales: rising numbers of crops, and for each the scale of searches by the mean of
            crops, relative to searches by one crop. Empty if too few people have several crops, and
            None if it was not measured.
        ratio: ρ, the scale of real searches relative to the left-out ones.
        searches: number of searches to which ρ was fitted.
        identities, crops: number of named identities and crops to which the tails were fitted; 0
            for the artefact's own thresholds.
    """

    tails: tuple[StrangerTail, ...] = Field(min_length=1)
    mean_scales: tuple[tuple[int, float], ...] | None = None
    ratio: float = Field(RATIO_PRIOR, gt=0.0)
    searches: int = Field(0, ge=0)
    identities: int = Field(ge=0)
    crops: int = Field(ge=0)

    def tail(self, identities: int) -> StrangerTail:
        """Return the tail among K identities, interpolated along ln K."""
        return _tail_of(self.tails, max(1, identities))

    def for_pictures(self, pictures: int) -> GalleryThresholds:
        """Return the thresholds of searches by the mean of several crops of one person.

        The scale is interpolated along the logarithm of their number, and constant beyond the
        largest measured number.
        """
        measured = ((1, 1.0), *(self.mean_scales or ()))
        numbers, scales = zip(*measured, strict=True)
        scale = np.interp(math.log(pictures), np.log(numbers), scales)
        return self.model_copy(update={"ratio": self.ratio * float(scale)})

    def threshold(
        self,
        far: float,
        level: float,
        identities: int,
    ) -> float:
        """Return the score that the best of `identities` other people reaches in a share `far`.

        Args:
            far: 0 < far < 1.
            level: ℓ of the search, the mean of its second to ninth best identity scores.
            identities: K, the number of identities that the search covers.
        """
        tail = self.tail(identities)
        height = tail.height(-math.log(far))
        return level + self.ratio * tail.scale * height

    def probability(
        self,
        scores: NDArray[np.floating],
        level: float,
        identities: int,
    ) -> Array:
        """Compute the probability at even odds that each score is genuine, same shape.

        The rarity t of a score is −ln of the share of strangers whose best score is as high above
        its level. It is distributed as Exp(1) for strangers, and is assumed to be as Gamma(2, 3)
        for genuine scores, so that the logit is ln t + 2t/3 − 2 ln 3. The probability rises
        strictly with the score, and is 0.54 at the threshold of 1e-1, 0.92 at 1e-2 and 0.99 at 1e-3
        in every search, gallery and scoring. It never contradicts a verdict, and unlike a raw score
        it can be compared between searches.
        """
        tail = self.tail(identities)
        values = np.asarray(scores, dtype=np.float64)
        rarity = tail.rarity((values - level) / (self.ratio * tail.scale))
        return bounded_probability(_evidence(rarity))

    def extrapolated(self, identities: int) -> bool:
        """Return whether K is over ten times the number of identities of the left-out searches."""
        return identities > FAR_EXTRAPOLATION * self.tails[0].identities


def artefact_thresholds(calibration: ScoringCalibration) -> GalleryThresholds:
    """Return an artefact's thresholds for searches that cover 1 to 17 identities.

    Searches among so few have no level or scale of their own. The heights are raw scores that the
    best of K pairs reaches by the artefact's impostor tail: pass 0 as the level. A probability is
    the same function of rarity as in a gallery with its own thresholds.
    """
    rates = np.exp(-RARITIES).tolist()
    tails = []
    for identities in reversed(ARTEFACT_SIZES):
        scores = [calibration.search_threshold(rate, identities) for rate in rates]
        heights = scores + LEAST_RISE * np.arange(len(scores))
        tail = StrangerTail(
            identities=identities,
            scale=1.0,
            heights=tuple(heights.tolist()),
        )
        tails.append(tail)
    return GalleryThresholds(
        tails=tuple(tails),
        ratio=1.0,
        identities=0,
        crops=0,
    )


@lru_cache(maxsize=64)
def _tail_of(tails: tuple[StrangerTail, ...], identities: int) -> StrangerTail:
    # A search asks three times for one number, and the next search mostly for the same one.
    tails = tails[::-1]
    sizes = np.log([tail.identities for tail in tails])
    rows = np.array([(tail.scale, *tail.heights) for tail in tails])
    place = math.log(identities)
    scale, *heights = [float(np.interp(place, sizes, column)) for column in rows.T]
    return StrangerTail(
        identities=identities,
        scale=scale,
        heights=tuple(heights),
    )


def fit_gallery(
    left_out: Sequence[LeftOutSearches],
    searches: Sequence[SearchScores] = (),
    mean_scales: Sequence[tuple[int, float]] | None = None,
) -> GalleryThresholds:
    """Fit thresholds to left-out searches.

    Args:
        left_out: searches of each part of `subgalleries`, the whole gallery first.
        searches: real searches of the gallery, the latest last.
        mean_scales: see `GalleryThresholds`.

    Raises:
        InputProblem: there are fewer than 18 named identities, or the scores have no spread.
    """
    tails = [fit_tail(part) for part in left_out]
    tails.sort(key=lambda tail: -tail.identities)
    first = left_out[0]
    fitted = GalleryThresholds(
        tails=tuple(tails),
        mean_scales=None if mean_scales is None else tuple(mean_scales),
        identities=len(np.unique(first.names)),
        crops=len(first.names),
    )
    return fit_ratio(fitted, searches)


def fit_ratio(thresholds: GalleryThresholds, searches: Sequence[SearchScores]) -> GalleryThresholds:
    """Return the same tails with ρ fitted to searches, by expectation maximisation.

    The searches need no labels: each is weighted by the probability that its best score is genuine.

    Args:
        thresholds: thresholds of the gallery, with any ρ.
        searches: searches of the gallery, the latest last; the latest 256 are used.
    """
    latest = latest_searches(searches)
    if not latest:
        return thresholds.model_copy(update={"ratio": RATIO_PRIOR, "searches": 0})
    leaders = np.array([search.scores for search in latest])
    sizes = np.array([search.identities for search in latest])
    tails = {size: thresholds.tail(size) for size in np.unique(sizes).tolist()}
    scales = np.array([tails[size].scale for size in sizes.tolist()])
    strangers = spacing(leaders) / scales
    enrolled = spacing(leaders, genuine=True) / scales
    heights = (leaders[:, 0] - level(leaders)) / scales
    ratio = RATIO_PRIOR
    share = 0.5
    rarity = np.empty(len(latest))
    for _ in range(ROUNDS):
        for size, tail in tails.items():
            rows = sizes == size
            rarity[rows] = tail.rarity(heights[rows] / ratio)
        logits = _evidence(rarity) + math.log(share / (1.0 - share))
        genuine = sigmoid(logits, 50.0)
        share = float(np.clip(genuine.mean(), LEAST_SHARE, 1.0 - LEAST_SHARE))
        expected_scales = (1.0 - genuine) * strangers + genuine * enrolled
        total = float(expected_scales.sum())
        ratio = (RATIO_WEIGHT * RATIO_PRIOR + total) / (RATIO_WEIGHT + len(latest))
    fitted = {"ratio": round(ratio, 4), "searches": len(latest)}
    return thresholds.model_copy(update=fitted)


def _evidence(rarity: Array) -> Array:
    """Compute the log of the density of Gamma(2, 3) over that of Exp(1), strictly increasing."""
    line = np.log(rarity) + rarity * (1.0 - 1.0 / GENUINE)
    return line - 2.0 * math.log(GENUINE)


def sampled_crops(names: Codes, random: np.random.Generator) -> Codes:
    """Choose the crops that play strangers: at most 3 of an identity, and 1,000 in all.

    Args:
        names: codes of the identities, `(n,)`; -1 for a crop without a name, which is not chosen.

    Returns:
        Positions of the crops.
    """
    rows = random.permutation(np.flatnonzero(names >= 0))
    order = rows[np.argsort(names[rows], kind="stable")]
    sorted_names = names[order]
    turn = np.arange(len(order)) - np.searchsorted(sorted_names, sorted_names)
    # The first crops of all identities come before any second crop.
    by_turn = np.argsort(turn, kind="stable")
    few = by_turn[turn[by_turn] < CROPS_PER_IDENTITY]
    return order[few[:MOST_CROPS]]


def sampled_groups(
    names: Codes,
    sources: Sequence[Codes],
    size: int,
    random: np.random.Generator,
) -> Codes:
    """Choose groups of crops of one identity, whose mean plays a stranger.

    The crops of a group share a source: the first of the sources that gives groups of 18
    identities. If none does, they share the identity alone.

    Args:
        names: codes of the identities, `(n,)`; -1 for a crop without a name.
        sources: codes of tracks and of cameras, `(n,)` each; a negative code is unknown.
        size: number of crops in a group.

    Returns:
        Positions of the crops, `(g, size)`.
    """
    groups = np.empty((0, size), np.int64)
    for source in (*sources, np.zeros_like(names)):
        known = (names >= 0) & (source >= 0)
        rows = random.permutation(np.flatnonzero(known))
        rows = rows[np.lexsort((source[rows], names[rows]))]
        # Codes are 0 or more, so that the first row begins a group.
        is_other_name = np.diff(names[rows], prepend=-1) != 0
        is_other_source = np.diff(source[rows], prepend=-1) != 0
        starts = np.flatnonzero(is_other_name | is_other_source)
        lengths = np.diff(starts, append=len(rows))
        turn = np.arange(len(rows)) - np.repeat(starts, lengths)
        whole_groups = np.repeat(lengths // size * size, lengths)
        groups = rows[turn < whole_groups].reshape(-1, size)
        if len(np.unique(names[groups[:, 0]])) >= FEW_IDENTITIES:
            break
    return groups[sampled_crops(names[groups[:, 0]], random)[:MOST_MEANS]]


def mean_scale(
    means: Array,
    crops: Array,
    names: Codes,
) -> float | None:
    """Return the scale of searches by means of crops, relative to searches by the single crops.

    Args:
        means: the nine best identity scores of each group, `(g, 9)`.
        crops: the nine best identity scores of each crop in the groups, `(g, k, 9)`.
        names: codes of the identities that the groups show, `(g,)`.

    Returns:
        The ratio; None if there are fewer than 18 identities, or the scores have no spread.
    """
    scored = np.isfinite(means).all(axis=1)
    scored &= np.isfinite(crops).all(axis=(1, 2))
    identities, weights = identity_weights(names[scored])
    if identities < FEW_IDENTITIES:
        return None
    scale_of_means = float(weights @ spacing(means[scored]))
    spacings = spacing(crops[scored].reshape(-1, RANKS))
    by_group = spacings.reshape(-1, crops.shape[1])
    scale_of_crops = float(weights @ by_group.mean(axis=1))
    if scale_of_means <= 0.0 or scale_of_crops <= 0.0:
        return None
    return round(scale_of_means / scale_of_crops, 4)


def subgalleries(names: Codes, random: np.random.Generator) -> list[Codes]:
    """Draw parts of the identities: all, a third, a tenth … of them, but at least 18.

    Args:
        names: codes of the identities, in which each may occur several times.

    Returns:
        The codes of each part, the largest first.
    """
    everyone = random.permutation(np.unique(names[names >= 0]))
    sizes = [len(everyone) // part for part in FEWER]
    return [everyone[:size] for size in sizes if size >= FEW_IDENTITIES]


def hide_known(
    scores: Floats,
    asking: tuple[Codes, Codes],
    shown: tuple[Codes, Codes],
) -> Floats:
    """Return scores `(n, N)` with −∞ for crops that a stranger's search would not find.

    Hidden are the scores of the crop's own identity, of crops without a name and, if at least 18
    other identities have crops under other cameras, of all crops under its own camera.

    Args:
        scores: scores of the crops that search against the searched ones, `(n, N)`.
        asking, shown: codes of the names and cameras of the crops that search, `(n,)` each, and of
            the searched ones, `(N,)` each; -1 is unknown.
    """
    own_names, own_cameras = asking
    names, cameras = shown
    hidden = (own_names[:, None] == names) | (names < 0)
    for camera in np.unique(own_cameras[own_cameras >= 0]):
        elsewhere = np.unique(names[(names >= 0) & (cameras != camera)])
        rows = np.flatnonzero(own_cameras == camera)
        others = len(elsewhere) - np.isin(own_names[rows], elsewhere)
        hidden[rows[others >= FEW_IDENTITIES]] |= cameras == camera
    return np.where(hidden, np.float32(-np.inf), scores)


def leaders_by_name(scores: NDArray[np.floating], names: Codes) -> Array:
    """Return the nine best identity scores of each row, `(n, 9)`, filled up with −∞.

    Args:
        scores: scores of candidates, `(n, c)`; −∞ marks a crop that is none.
        names: codes of their identities, `(c,)` or `(n, c)`.
    """
    codes = np.broadcast_to(names, scores.shape)
    order = np.lexsort((-scores, codes))
    codes = np.take_along_axis(codes, order, axis=1)
    best = np.take_along_axis(scores, order, axis=1).astype(np.float64)
    repeated = codes[:, 1:] == codes[:, :-1]
    best[:, 1:][repeated] = -np.inf
    top = -np.sort(-best, axis=1)[:, :RANKS]
    leaders = np.full((len(scores), RANKS), -np.inf)
    leaders[:, : top.shape[1]] = top
    return leaders
