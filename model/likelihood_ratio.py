"""The likelihood ratio of two crops, fitted to pairs of a gallery's own named crops.

It compares two statements about two crops: they show one person, or they show two of the gallery's
named people. docs/alarms.md has the measurements, and docs/calibration.md says what it may be used
for.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.arrays import Array, Codes, sigmoid
from model.gallery_thresholds import identity_weights
from model.left_out import sampled_crops
from model.stored import Stored

# Number of people with pairs of their own that a fit needs.
FEWEST_PEOPLE = 100
# Upper bounds on the pairs of one person that a crop is in, and for each of them on the pairs of
# different people under the same two cameras.
PAIRS_OF_A_CROP = 4
OTHERS_OF_A_PAIR = 3
ROUNDS = 50
CONVERGED = 1e-9


class SampledPairs(NamedTuple):
    """Pairs of named crops.

    Attributes:
        first, second: positions of the crops, `(n,)`.
        same: true if both show one person, `(n,)`.
        people: codes of the person that the first crop shows, `(n,)`.
    """

    first: Codes
    second: Codes
    same: NDArray[np.bool_]
    people: Codes

    def weights(self) -> Array:
        """Return weights `(n,)`: people weigh equally, and each kind of pairs one half."""
        weights = np.empty(len(self.first))
        for kind in (self.same, ~self.same):
            people, of_people = identity_weights(self.people[kind])
            weights[kind] = 0.5 * of_people / people
        return weights

    def where(self, chosen: NDArray[np.bool_]) -> SampledPairs:
        """Return the chosen pairs."""
        return SampledPairs(
            self.first[chosen], self.second[chosen], self.same[chosen], self.people[chosen]
        )


class LikelihoodRatio(Stored):
    """A line that maps scores to logs of likelihood ratios.

    Attributes:
        slope, intercept: of the line; a higher score speaks for one person.
        people: number of people whose pairs it was fitted to. So few people cannot support a ratio
            above their number or below its inverse, and none is given.
    """

    slope: float
    intercept: float
    people: int

    def of(self, scores: NDArray[np.floating]) -> Array:
        """Return the likelihood ratio of each score, same shape."""
        logs = self.slope * scores.astype(np.float64) + self.intercept
        # Logs beyond ±50 are beyond any number of people, and must not overflow.
        ratios = np.exp(np.clip(logs, -50.0, 50.0))
        return np.clip(ratios, 1.0 / self.people, self.people)


def sample_pairs(names: Codes, cameras: Codes, random: np.random.Generator) -> SampledPairs:
    """Choose pairs of crops under different cameras, of one person and of two.

    At most 1,000 crops, and 3 of a person, are paired with up to four crops of the same person.
    Each of these pairs comes with up to three in which the second crop shows somebody else under
    the same camera, so that both kinds of pairs have the same cameras. A crop whose camera is
    unknown counts as that of another camera than any other crop.

    Args:
        names: codes of the identities, `(n,)`.
        cameras: codes of the cameras, `(n,)`; -1 is unknown.
        random: draws the pairs.
    """
    # A code of its own for each crop whose camera is unknown.
    places = np.where(cameras < 0, -1 - np.arange(len(cameras)), cameras)
    crops_of = _Groups(names)
    crops_under = _Groups(cameras)
    usable = np.flatnonzero(crops_of.vary(places))
    rows: list[tuple[int, int, bool]] = []
    for crop in usable[sampled_crops(names[usable], random)].tolist():
        name = names[crop]
        own = crops_of.members(name)
        elsewhere = own[places[own] != places[crop]]
        for match in random.permutation(elsewhere)[:PAIRS_OF_A_CROP].tolist():
            rows.append((crop, match, True))
            under_camera = crops_under.members(cameras[match])
            drawn = under_camera[random.integers(len(under_camera), size=OTHERS_OF_A_PAIR)]
            rows += [(crop, other, False) for other in drawn.tolist() if names[other] != name]
    first, second, same = np.array(rows, np.int64).reshape(-1, 3).T
    return SampledPairs(first, second, same.astype(np.bool_), names[first])


class _Groups:
    """The positions of equal codes `(n,)`."""

    def __init__(self, codes: Codes) -> None:
        self._order = np.argsort(codes, kind="stable")
        self._sorted_codes = codes[self._order]

    def members(self, code: np.int64) -> Codes:
        start, stop = np.searchsorted(self._sorted_codes, [code, code + 1])
        return self._order[start:stop]

    def vary(self, values: Codes) -> NDArray[np.bool_]:
        """Return for each position whether its group has several values `(n,)`."""
        _, starts, sizes = np.unique(self._sorted_codes, return_index=True, return_counts=True)
        grouped = values[self._order]
        lowest = np.minimum.reduceat(grouped, starts)
        highest = np.maximum.reduceat(grouped, starts)
        varies = np.empty(len(values), np.bool_)
        varies[self._order] = np.repeat(lowest < highest, sizes)
        return varies


def fit_likelihood_ratio(
    scores: NDArray[np.floating], pairs: SampledPairs
) -> LikelihoodRatio | None:
    """Fit the line by logistic regression.

    The targets are Platt's for as many pairs as there are people, so that the line stays finite if
    the two kinds of pairs do not overlap.

    Args:
        scores: of the pairs, `(n,)`; pairs whose score is not finite are left out.
        pairs: as `sample_pairs` returns them.

    Returns:
        The line; None if fewer than 100 people have pairs of their own, if there are no others, or
        if a higher score does not speak for one person.
    """
    scored = np.isfinite(scores)
    pairs = pairs.where(scored)
    values = scores[scored].astype(np.float64)
    people = len(np.unique(pairs.people[pairs.same]))
    if people < FEWEST_PEOPLE or pairs.same.all():
        return None
    weights = pairs.weights()
    middle = float(np.average(values, weights=weights))
    spread = math.sqrt(np.average((values - middle) ** 2, weights=weights))
    if spread == 0.0:
        return None
    terms = np.stack([(values - middle) / spread, np.ones_like(values)])
    targets = np.where(pairs.same, people + 1.0, 1.0) / (people + 2.0)
    line = np.zeros(2)
    for _ in range(ROUNDS):
        expected = sigmoid(line @ terms)
        gradient = terms @ (weights * (targets - expected))
        curvature = weights * expected * (1.0 - expected)
        step = np.linalg.solve((curvature * terms) @ terms.T, gradient)
        # A first step from far away may overshoot; a long one is scaled down.
        line = line + step / max(1.0, np.abs(step).max())
        if np.abs(step).max() < CONVERGED:
            break
    slope = float(line[0]) / spread
    if slope <= 0.0:
        return None
    intercept = float(line[1]) - slope * middle
    return LikelihoodRatio(
        slope=float(f"{slope:.6g}"), intercept=float(f"{intercept:.6g}"), people=people
    )
