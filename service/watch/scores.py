"""The people of a watch list, and how crops score against them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from model.arrays import Array, unit_rows
from model.gallery_thresholds import hide_known, sampled_crops
from model.problems import InputProblem
from model.search_calibration import RANKS
from model.stranger_tail import level

# One step holds a few arrays of this many scores.
SCORES_PER_STEP = 2**22
Vectors = NDArray[np.float32]
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class LeftOutCrops:
    """A sample of a list's crops, compared as if they were not on it.

    Attributes:
        people: codes of the people that the crops show, `(n,)`.
        others: the nine best scores of other people, `(n, 9)`, descending; −∞ where there are
            fewer.
        same: the best cosine with another crop of the same person, `(n,)`; −∞ without one.
        elsewhere: the best cosine with a crop of the same person under another camera, `(n,)`.
    """

    people: Integers
    others: Array
    same: Array
    elsewhere: Array


class WatchList:
    """The named crops of a list, in the order of their people.

    Made of vectors `(n, d)` of any length, and codes of people and cameras, `(n,)`. Crops of the
    person -1 are ignored, and the camera -1 is unknown. Raises `InputProblem` where no crop has a
    name.

    Attributes:
        people, cameras: codes of each named crop.
        size: the number of people.
        has_level: scores are heights above the level of a search, and not cosines.
    """

    def __init__(self, vectors: Vectors, people: Integers, cameras: Integers) -> None:
        named = np.flatnonzero(people >= 0)
        if not len(named):
            raise InputProblem("the list has no named person; enroll crops with an identity")
        order = named[np.argsort(people[named], kind="stable")]
        self.people = people[order]
        self._places = order
        self.cameras = cameras[order]
        self._units = unit_rows(vectors[order])
        self._starts = np.flatnonzero(np.diff(self.people, prepend=-1))
        self.size = len(self._starts)
        self.has_level = self.size >= RANKS

    def heights(self, queries: Vectors) -> tuple[Array, Integers]:
        """Score crops against the list.

        Args:
            queries: `(m, d)` of any length.

        Returns:
            With M₁ ≥ M₂ ≥ … the best cosine per person: M₁ − mean(M₂ … M₉), or M₁ in a list of
            fewer than nine people, `(m,)`; and the code of M₁'s person, `(m,)`.
        """
        heights, _, places = self._best(queries)
        return heights, self.people[places]

    def nearest(self, queries: Vectors) -> tuple[Array, Array, Integers]:
        """Score crops against the list, and find its crops that are nearest to them.

        Args:
            queries: `(m, d)` of any length.

        Returns:
            Scores as of `heights`, M₁, and the place of its crop among the vectors that the list
            was made of, `(m,)` each.
        """
        heights, cosines, places = self._best(queries)
        return heights, cosines, self._places[places]

    def _best(self, queries: Vectors) -> tuple[Array, Array, Integers]:
        heights = np.empty(len(queries))
        nearest = np.empty(len(queries))
        places = np.empty(len(queries), np.int64)
        for part, cosines in self._cosines(unit_rows(queries)):
            places[part] = cosines.argmax(axis=1)
            leaders = _leaders(np.maximum.reduceat(cosines, self._starts, axis=1))
            nearest[part] = leaders[:, 0]
            heights[part] = self.rise(leaders)
        return heights, nearest, places

    def rise(self, leaders: Array) -> Array:
        """Return the scores `(n,)` of crops by their best cosines per person, `(n, 9)` or more."""
        return leaders[:, 0] - level(leaders) if self.has_level else leaders[:, 0]

    @cached_property
    def left_out(self) -> LeftOutCrops:
        """Compare at most 3 crops of each person, and 1,000, with the rest of the list."""
        sample = sampled_crops(self.people, np.random.default_rng(len(self.people)))
        others = np.empty((len(sample), RANKS))
        same = np.empty(len(sample))
        elsewhere = np.empty(len(sample))
        for part, cosines in self._cosines(self._units[sample]):
            rows = sample[part]
            people = self.people[rows]
            cameras = self.cameras[rows]
            hidden = hide_known(cosines, (people, cameras), (self.people, self.cameras))
            others[part] = _leaders(np.maximum.reduceat(hidden, self._starts, axis=1))
            cosines[self.people != people[:, None]] = -np.inf
            cosines[np.arange(len(rows)), rows] = -np.inf
            same[part] = cosines.max(axis=1)
            unmoved = (self.cameras == cameras[:, None]) | (self.cameras < 0)
            cosines[unmoved | (cameras < 0)[:, None]] = -np.inf
            elsewhere[part] = cosines.max(axis=1)
        return LeftOutCrops(self.people[sample], others, same, elsewhere)

    def _cosines(self, units: Vectors) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        step = max(1, SCORES_PER_STEP // len(self._units))
        for start in range(0, len(units), step):
            part = slice(start, start + step)
            yield part, units[part] @ self._units.T


def _leaders(best: NDArray[np.float32]) -> Array:
    """Return the nine best scores of each row of people's scores, descending, padded with −∞."""
    count = min(RANKS, best.shape[1])
    top = np.partition(best, -count, axis=1)[:, -count:]
    leaders = np.full((len(best), RANKS), -np.inf)
    leaders[:, :count] = -np.sort(-top, axis=1)
    return leaders
