"""Candidates that a gallery's index, in this process or an external one, finds by cosine."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from model.arrays import unit_rows

Floats = NDArray[np.float32]
Integers = NDArray[np.int64]
EXACT_ROWS = 1024
COLUMNS = ("row_ids", "cosines", "groups", "sets", "vectors")
# Number of leading results that are ordered by their neighbours.
ORDERED_CROPS = 200
# Upper bound on the neighbours of an unnamed crop, and their lowest cosine.
NEIGHBOURS = 8
NEIGHBOUR_COSINE = 0.65
# Weight of a crop's own score against the best score among its neighbours.
OWN_WEIGHT = 0.1


@dataclass(frozen=True)
class Candidates:
    """The best crops of a search, by descending cosine, then by age.

    Attributes:
        row_ids: the record's slots, `(n,)` int64.
        cosines: mean cosine to the queries, `(n,)` float32.
        groups: `(n,)` int64: a non-negative code for each identity, and a unique negative one for
            each crop without an identity.
        sets: `(n,)` int64: equal for crops that share one result. They are the `groups`, or codes
            of tracks in a search grouped by track.
        vectors: copies of the embedder's features, not normalized, `(n, d)`.
        searched: number of crops that passed the filter, or of all crops if an external index does
            not count them.
        version: version of the gallery in an external index; None for an index in this process.
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
        """Append up to `most` more crops, found by a deeper search of the same index."""
        new = deeper[np.flatnonzero(~np.isin(deeper.row_ids, self.row_ids))[:most]]
        columns = {
            column: np.concatenate([getattr(self, column), getattr(new, column)])
            for column in COLUMNS
        }
        return replace(self, **columns)


def first_places(codes: Integers) -> Integers:
    """Return the positions `(g,)`, ascending, of the first of each code."""
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
    grouped: bool,
) -> Candidates:
    """Compute the exact cosines of some crops, and return the best of them in order.

    Args:
        row_ids, groups, sets: of the crops, `(n,)`; see `Candidates`.
        vectors: features `(m, d)`; those of the crops are at `rows` `(n,)`.
        query: mean direction of the queries, `(d,)`.
        limit: maximum number of crops.
        searched: see `Candidates`.
        grouped: return only the best crop of each set.
    """
    cosines = np.empty(len(rows), np.float32)
    for start in range(0, len(rows), EXACT_ROWS):
        part = slice(start, start + EXACT_ROWS)
        exact = vectors[rows[part]].astype(np.float64)
        # einsum sums each row separately; a matrix product's last digits depend on its height.
        products = np.einsum("rd,d->r", exact, query)
        norms = np.sqrt(np.einsum("rd,rd->r", exact, exact))
        cosines[part] = products / np.maximum(norms, 1e-12)
    cosines = np.clip(cosines, -1.0, 1.0)
    best = np.lexsort((row_ids, -cosines))
    if grouped:
        best = best[first_places(sets[best])]
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
    """Return an order `(n,)`, as positions, that places crops of one person together.

    The neighbours of a named crop are the crops of its identity. Two unnamed crops are neighbours
    if one is among the nearest of the other. A neighbour with a lower score does not move a crop,
    so it may be missing from the list.

    Args:
        crops: best first; the first one stays first.
        scores: of the crops, `(n,)`, descending.
    """
    own_scores = scores.astype(np.float64)
    _, first, groups = np.unique(crops.groups, return_index=True, return_inverse=True)
    best = own_scores[first[groups]]

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
        best[unnamed] = np.where(near, own_scores[unnamed], -np.inf).max(axis=1)

    return np.argsort(-(OWN_WEIGHT * own_scores + (1.0 - OWN_WEIGHT) * best), kind="stable")


def mean_direction(queries: Floats) -> NDArray[np.float64]:
    """Return the mean `(d,)`, of length at most 1, of features `(m, d)` scaled to unit length."""
    units = queries.astype(np.float64)
    units /= np.maximum(np.linalg.norm(units, axis=1, keepdims=True), 1e-12)
    return np.asarray(units.mean(axis=0), np.float64)
