"""Candidates that the index of a gallery finds by cosine, in this process or outside it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from model.pair_scores import unit_rows

Floats = NDArray[np.float32]
Integers = NDArray[np.int64]
EXACT_ROWS = 1024
COLUMNS = ("row_ids", "cosines", "groups", "sets", "vectors")
# How many of the best crops of a list are put in order by their neighbours.
ORDERED_CROPS = 200
# An unnamed crop has as many neighbours at most, of this cosine at least.
NEIGHBOURS = 8
NEIGHBOUR_COSINE = 0.65
# The weight of a crop's own score beside the best score among its neighbours.
OWN_WEIGHT = 0.1


@dataclass(frozen=True)
class Candidates:
    """The best crops of a search, by descending cosine, then by age.

    Attributes:
        row_ids: the record's slots, `(n,)` int64.
        cosines: mean cosine to the queries, `(n,)` float32.
        groups: `(n,)` int64, equal for the crops of one identity and not negative; a crop without
            an identity has a negative value of its own.
        sets: `(n,)` int64, equal for the crops that one result stands for: as `groups`, or in a
            search that is grouped by track so for the crops of one track.
        vectors: copies of the features as the embedder gave them, `(n, d)`.
        searched: number of crops that passed the filter, or of all crops if an index outside this
            process does not count those.
        version: version of the gallery in an index outside this process; None for one inside.
    """

    row_ids: Integers
    cosines: Floats
    groups: Integers
    sets: Integers
    vectors: Floats
    searched: int
    version: int | None = None

    def __getitem__(self, places: slice | Integers | NDArray[np.bool_]) -> Candidates:
        columns = {column: getattr(self, column)[places] for column in COLUMNS}
        return replace(self, **columns)

    def extended(self, deeper: Candidates, most: int | None = None) -> Candidates:
        """Append up to `most` further crops that a deeper search of the same index has found."""
        new = deeper[np.flatnonzero(~np.isin(deeper.row_ids, self.row_ids))[:most]]
        columns = {
            column: np.concatenate([getattr(self, column), getattr(new, column)])
            for column in COLUMNS
        }
        return replace(self, **columns)

    def first_of_groups(self) -> Integers:
        """Return the positions `(g,)`, ascending, at which each group first occurs."""
        return _first_places(self.groups)

    def first_of_sets(self) -> Integers:
        return _first_places(self.sets)


def _first_places(codes: Integers) -> Integers:
    return np.sort(np.unique(codes, return_index=True)[1])


def best_candidates(
    row_ids: Integers,
    groups: Integers,
    sets: Integers,
    vectors: Floats,
    rows: Integers,
    query: NDArray[np.float64],
    limit: int,
    searched: int,
    grouped: bool = False,
) -> Candidates:
    """Compute the exact cosines of some crops, and return the best of them in order.

    Args:
        row_ids, groups, sets: of the crops, `(n,)`; see `Candidates`.
        vectors: features `(m, d)`, in which `rows` `(n,)` are those of the crops.
        query: mean direction of the queries, `(d,)`.
        limit: number of crops at most.
        searched: see `Candidates`.
        grouped: whether to return the best crop of each set alone.
    """
    cosines = np.empty(len(rows), np.float32)
    for start in range(0, len(rows), EXACT_ROWS):
        part = slice(start, start + EXACT_ROWS)
        exact = vectors[rows[part]].astype(np.float64)
        # einsum sums each row by itself. The last digits of a matrix product depend on its height.
        products = np.einsum("rd,d->r", exact, query)
        norms = np.sqrt(np.einsum("rd,rd->r", exact, exact))
        cosines[part] = products / np.maximum(norms, 1e-12)
    cosines = np.clip(cosines, -1.0, 1.0)
    best = np.lexsort((row_ids, -cosines))
    if grouped:
        best = best[_first_places(sets[best])]
    best = best[:limit]
    return Candidates(
        row_ids=row_ids[best],
        cosines=cosines[best],
        groups=groups[best],
        sets=sets[best],
        vectors=vectors[rows[best]],
        searched=searched,
    )


def order_by_neighbours(crops: Candidates, scores: Floats) -> Integers:
    """Return the order in which the crops of one person stand together, as positions `(n,)`.

    The neighbours of a crop are the crops of its identity. Without an identity they are the crops
    without one that are among its nearest, or that it is among the nearest of. A neighbour that
    scores lower than the crop does not move it, so that it need not be among the crops.

    Args:
        crops: best first; the first one stays the first.
        scores: of the crops, `(n,)`, descending.
    """
    own = scores.astype(np.float64)
    _, first, groups = np.unique(crops.groups, return_index=True, return_inverse=True)
    best = own[first[groups]]

    unnamed = np.flatnonzero(crops.groups < 0)
    if len(unnamed):
        units = unit_rows(crops.vectors[unnamed])
        cosines = units @ units.T
        np.fill_diagonal(cosines, -1.0)
        near = cosines >= NEIGHBOUR_COSINE
        crowded = np.flatnonzero(near.sum(axis=1) > NEIGHBOURS)
        if len(crowded):
            farthest = np.partition(cosines[crowded], -NEIGHBOURS, axis=1)[:, [-NEIGHBOURS]]
            near[crowded] &= cosines[crowded] >= farthest
        near |= near.T
        np.fill_diagonal(near, True)
        best[unnamed] = np.where(near, own[unnamed], -np.inf).max(axis=1)

    return np.argsort(-(OWN_WEIGHT * own + (1.0 - OWN_WEIGHT) * best), kind="stable")


def mean_direction(queries: Floats) -> NDArray[np.float64]:
    """Return the mean `(d,)` of features `(m, d)` at unit length; its length is at most 1."""
    units = queries.astype(np.float64)
    units /= np.maximum(np.linalg.norm(units, axis=1, keepdims=True), 1e-12)
    return np.asarray(units.mean(axis=0), np.float64)
