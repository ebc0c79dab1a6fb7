"""Search thresholds from the enrolled gallery: every named crop plays a stranger.

Each named crop searches the crops of all other identities (leave one identity out), so that the
gallery shows how far a stranger's best score exceeds the level of its search, before any search
came. Unlabelled searches correct the scale alone. docs/calibration.md has the equations
and the measurements.
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
# Numbers of crops whose mean searches, and how many such searches there are of each at most.
PICTURES = (2, 4, 8)
MOST_MEANS = 100
# Tables for filters: K identities, a third of them, a tenth …
FEWER = (1, 3, 10, 30, 100)
# Numbers of identities for which the artefact's own thresholds are computed. Crops count as further
# ones, see `CurrentCalibration.judge`.
ARTEFACT_SIZES = (*range(1, FEW_IDENTITIES), 24, 32, 48, 64, 96, 128, 256, 512)
# ρ before any search, with the weight of this number of searches.
RATIO_PRIOR = 0.92
RATIO_WEIGHT = 20.0
# The rarity of the right identity's score is taken as Gamma(2, 3): with a fixed 3, a probability is
# one function of rarity everywhere. A value fitted to searches is no better calibrated.
GENUINE = 3.0
ROUNDS = 15
# A tail may have one score at several shares. Heights have to rise strictly.
LEAST_RISE = 1e-6


class GalleryThresholds(Stored):
    """Thresholds and probability for the searches of one gallery, in one scoring.

    A search with level ℓ among K identities has the threshold ℓ + ρ·β·y(rate). So a verdict
    depends on the level, and one raw score can be a match in one search and none in another.

    Attributes:
        tails: the strangers' heights, the largest number of identities first.
        ratio: ρ, the scale of real searches over that of the left-out ones.
        searches: how many searches are behind ρ.
        identities, crops: how many named ones are behind the tails; 0 for the artefact's.
        mean_scales: for some k, rising, the scale of searches by the mean of k crops over that of
            searches by one crop; empty where too few people have several, None where it was not
            measured.
    """

    tails: tuple[StrangerTail, ...] = Field(min_length=1)
    mean_scales: tuple[tuple[int, float], ...] | None = None
    ratio: float = Field(RATIO_PRIOR, gt=0.0)
    searches: int = Field(0, ge=0)
    identities: int = Field(ge=0)
    crops: int = Field(ge=0)

    def tail(self, identities: int) -> StrangerTail:
        """Return the strangers' heights among K identities, interpolated along ln K."""
        return _tail_of(self.tails, max(1, identities))

    def for_pictures(self, pictures: int) -> GalleryThresholds:
        """Return the thresholds of searches by the mean of this number of crops of one person.

        Between measured numbers the scale follows ln k on straight lines; beyond the last it stays.
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
            identities: K.
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
        """Compute the probability at even odds that each score is the right identity's, same shape.

        With t the rarity of the score, −ln of the share of strangers' searches whose best score is
        as high above its level: Gamma(2, 3) against Exp(1), the logit ln t + 2t/3 − 2 ln 3. It
        rises strictly with the score within an answer, and is one function of rarity: 0.54 at the
        threshold of 1e-1, 0.92 at 1e-2 and 0.99 at 1e-3 in every search, gallery and scoring. So
        it never contradicts a verdict, and can be compared across answers as raw scores cannot.
        """
        tail = self.tail(identities)
        values = np.asarray(scores, dtype=np.float64)
        rarity = tail.rarity((values - level) / (self.ratio * tail.scale))
        return bounded_probability(_evidence(rarity))

    def extrapolated(self, identities: int) -> bool:
        """Return whether K lies beyond ten times the identities that were searched."""
        return identities > FAR_EXTRAPOLATION * self.tails[0].identities


def artefact_thresholds(calibration: ScoringCalibration) -> GalleryThresholds:
    """Return an artefact's thresholds for searches among 1 to 17 identities with any crops.

    So few identities have no level or scale of their own. The tails are the artefact's impostor
    tail for the best of K pairs, in raw scores: call its methods with level 0. A probability is
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
    # One search asks three times, and the next one mostly for the same number.
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
    """Fit thresholds to leave-one-identity-out searches.

    Args:
        left_out: one for each size of `subgalleries`, the whole gallery first.
        searches: of the gallery, the latest last.
        mean_scales: by numbers of crops, rising; None where they were not measured.

    Raises:
        InputProblem: for fewer than 18 named identities, or scores without spread.
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
    """Return the same tails with ρ of these searches, by expectation maximisation.

    The searches need no labels: each is weighted by the probability that its best score is the
    right identity's.

    Args:
        thresholds: those of the gallery, with any ρ.
        searches: the latest last; of more than 256 the latest count.
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
            here = sizes == size
            rarity[here] = tail.rarity(heights[here] / ratio)
        logits = _evidence(rarity) + math.log(share / (1.0 - share))
        right = sigmoid(logits, 50.0)
        share = float(np.clip(right.mean(), LEAST_SHARE, 1.0 - LEAST_SHARE))
        total = float(((1.0 - right) * strangers + right * enrolled).sum())
        ratio = (RATIO_WEIGHT * RATIO_PRIOR + total) / (RATIO_WEIGHT + len(latest))
    fitted = {"ratio": round(ratio, 4), "searches": len(latest)}
    return thresholds.model_copy(update=fitted)


def _evidence(rarity: Array) -> Array:
    """Compute ln of Gamma(2, 3)'s density over Exp(1)'s, strictly increasing."""
    line = np.log(rarity) + rarity * (1.0 - 1.0 / GENUINE)
    return line - 2.0 * math.log(GENUINE)


def sampled_crops(names: Codes, random: np.random.Generator) -> Codes:
    """Choose the places of the crops that play strangers: at most 3 an identity, and 1,000.

    Args:
        names: codes of the identities, `(n,)`; -1 for a crop without a name, which plays none.
    """
    rows = random.permutation(np.flatnonzero(names >= 0))
    order = rows[np.argsort(names[rows], kind="stable")]
    sorted_names = names[order]
    turn = np.arange(len(order)) - np.searchsorted(sorted_names, sorted_names)
    # Every identity's first crop comes before anybody's second.
    by_turn = np.argsort(turn, kind="stable")
    few = by_turn[turn[by_turn] < CROPS_PER_IDENTITY]
    return order[few[:MOST_CROPS]]


def sampled_groups(
    names: Codes,
    sources: Sequence[Codes],
    size: int,
    random: np.random.Generator,
) -> Codes:
    """Choose groups of crops whose mean plays a stranger, as places `(g, size)`.

    The crops of a group are of one identity and one source: a track, or else a camera, or else any,
    whichever is the first by which 18 identities have a group.

    Args:
        names: codes of the identities, `(n,)`; -1 for a crop without a name.
        sources: codes of tracks, and of cameras, `(n,)` each; negative is unknown.
        size: number of crops in a group.
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
    """Return the scale of searches by means of crops over that of searches by these crops.

    Args:
        means: the nine best identity scores of each group, `(g, 9)`.
        crops: those of each of its crops, `(g, k, 9)`.
        names: codes of the identities that the groups show, `(g,)`.

    Returns:
        None for fewer than 18 identities, or scores without spread.
    """
    scored = np.isfinite(means).all(axis=1)
    scored &= np.isfinite(crops).all(axis=(1, 2))
    identities, weights = identity_weights(names[scored])
    if identities < FEW_IDENTITIES:
        return None
    together = float(weights @ spacing(means[scored]))
    apart = spacing(crops[scored].reshape(-1, RANKS))
    by_group = apart.reshape(-1, crops.shape[1])
    alone = float(weights @ by_group.mean(axis=1))
    return round(together / alone, 4) if together > 0.0 and alone > 0.0 else None


def subgalleries(names: Codes, random: np.random.Generator) -> list[Codes]:
    """Draw parts of the identities, for the tables by size: all, a third, a tenth … 18 at least.

    Args:
        names: codes of the named identities, each once or more.
    """
    everyone = random.permutation(np.unique(names[names >= 0]))
    sizes = [len(everyone) // part for part in FEWER]
    return [everyone[:size] for size in sizes if size >= FEW_IDENTITIES]


def hide_known(
    scores: Floats,
    asking: tuple[Codes, Codes],
    shown: tuple[Codes, Codes],
) -> Floats:
    """Return scores `(n, N)` with −∞ where the asking crop does not play a stranger.

    Hidden are its own identity, crops without a name and, if it has 18 identities under other
    cameras, all crops under its own camera.

    Args:
        scores: scores of the asking crops against the shown ones.
        asking, shown: codes of names and cameras, `(n,)` and `(N,)`; -1 is unknown.
    """
    names, cameras = shown
    hidden = (asking[0][:, None] == names) | (names < 0)
    for camera in np.unique(asking[1][asking[1] >= 0]):
        elsewhere = np.unique(names[(names >= 0) & (cameras != camera)])
        rows = np.flatnonzero(asking[1] == camera)
        others = len(elsewhere) - np.isin(asking[0][rows], elsewhere)
        hidden[rows[others >= FEW_IDENTITIES]] |= cameras == camera
    return np.where(hidden, np.float32(-np.inf), scores)


def leaders_by_name(scores: NDArray[np.floating], names: Codes) -> Array:
    """Return the nine best identity scores of every row, `(n, 9)`, −∞ where there are fewer.

    Args:
        scores: scores of candidates, `(n, c)`; −∞ is no candidate.
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
