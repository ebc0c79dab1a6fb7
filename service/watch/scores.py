"""The people of a watch list, and the scores of crops against them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.arrays import Array, unit_rows
from model.gallery_thresholds import level
from model.left_out import hide_known, sampled_crops
from model.order_statistics import RANKS
from model.problems import InputProblem

# Each step holds a few arrays of this many scores.
SCORES_PER_STEP = 2**22
Vectors = NDArray[np.float32]
Integers = NDArray[np.int64]


class Scores(NamedTuple):
    """Scores of crops against one list, `(m,)` each.

    Attributes:
        scores: with M₁ ≥ M₂ ≥ … the best cosine per person, M₁ − mean(M₂ … M₉); M₁ in a list of
            fewer than nine people.
        cosines: M₁.
        positions: position of M₁'s crop in the list.
    """

    scores: Array
    cosines: Array
    positions: Integers


@dataclass(frozen=True)
class LeftOutCrops:
    """A sample of a list's crops, compared as if they were not on it.

    Attributes:
        positions: positions of the crops in the list, `(n,)`.
        people, cameras: codes of the people and cameras of the crops, `(n,)`.
        others: the nine best scores of other people, `(n, 9)`, descending; −∞ where there are
            fewer.
        same: the best cosine with another crop of the same person, `(n,)`; −∞ without one.
        elsewhere: the best cosine with a crop of the same person under another camera, `(n,)`.
    """

    positions: Integers
    people: Integers
    cameras: Integers
    others: Array
    same: Array
    elsewhere: Array


class WatchList:
    """The named crops of a list.

    Args:
        vectors: features `(n, d)` of any length.
        people, cameras: codes of the crops, `(n,)`, ordered by person; camera -1 is unknown.

    Raises:
        InputProblem: there are no crops.

    Attributes:
        people, cameras: codes of the crops, `(n,)`.
        units: their vectors at unit length, `(n, d)`.
        size: number of people.
        has_level: scores are relative to the level of a search; plain cosines if not.
    """

    def __init__(self, vectors: Vectors, people: Integers, cameras: Integers) -> None:
        if not len(people):
            raise InputProblem("the list has no named person; enroll crops with names")
        self.people = people
        self.cameras = cameras
        self.units = unit_rows(vectors)
        self._starts = np.flatnonzero(np.diff(self.people, prepend=-1))
        self.size = len(self._starts)
        self.has_level = self.size >= RANKS

    def score(self, queries: Vectors) -> Scores:
        """Score crops `(m, d)`, of vectors of any length, against the list."""
        units = unit_rows(queries)
        parts = []
        for _, cosines in self._compute_cosines(units):
            leaders = _find_leaders(np.maximum.reduceat(cosines, self._starts, axis=1))
            parts.append((self.score_leaders(leaders), leaders[:, 0], cosines.argmax(axis=1)))
        return Scores(*(np.concatenate(values) for values in zip(*parts, strict=True)))

    def score_leaders(self, leaders: Array) -> Array:
        """Return the scores `(n,)` of crops with these best cosines.

        Args:
            leaders: best cosines of different people, descending, `(n, 9)` or more.
        """
        if not self.has_level:
            return leaders[:, 0]
        return leaders[:, 0] - level(leaders)

    @cached_property
    def left_out(self) -> LeftOutCrops:
        """At most 3 crops of each person, and 1,000 in all, compared with the rest of the list."""
        generator = np.random.default_rng(len(self.people))
        sample = sampled_crops(self.people, generator)
        others = np.empty((len(sample), RANKS))
        same = np.empty(len(sample))
        elsewhere = np.empty(len(sample))
        for part, cosines in self._compute_cosines(self.units[sample]):
            rows = sample[part]
            people = self.people[rows]
            cameras = self.cameras[rows]
            hidden = hide_known(cosines, people, cameras, self.people, self.cameras)
            best = np.maximum.reduceat(hidden, self._starts, axis=1)
            others[part] = _find_leaders(best)
            cosines[self.people != people[:, None]] = -np.inf
            cosines[np.arange(len(rows)), rows] = -np.inf
            same[part] = cosines.max(axis=1)
            is_same_camera = (self.cameras == cameras[:, None]) | (self.cameras < 0)
            cosines[is_same_camera | (cameras < 0)[:, None]] = -np.inf
            elsewhere[part] = cosines.max(axis=1)
        return LeftOutCrops(
            sample, self.people[sample], self.cameras[sample], others, same, elsewhere
        )

    def _compute_cosines(self, units: Vectors) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        step = max(1, SCORES_PER_STEP // len(self.units))
        for start in range(0, len(units), step):
            part = slice(start, start + step)
            yield part, units[part] @ self.units.T


def _find_leaders(best: NDArray[np.float32]) -> Array:
    """Return the nine best scores of each row of people's scores, descending, padded with −∞."""
    count = min(RANKS, best.shape[1])
    top = np.partition(best, -count, axis=1)[:, -count:]
    leaders = np.full((len(best), RANKS), -np.inf)
    leaders[:, :count] = -np.sort(-top, axis=1)
    return leaders
