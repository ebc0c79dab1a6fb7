"""The candidates that an index proposes, and their exact order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from model.arrays import Array, Floats

Integers = NDArray[np.int64]
# Crops whose exact cosines are computed at once.
EXACT_ROWS = 1024
CANDIDATE_COLUMNS = ("slots", "cosines", "groups", "sets", "vectors")


@dataclass(frozen=True)
class Candidates:
    """The best crops of a search, by descending cosine, then by age.

    Attributes:
        slots: `(n,)` int64.
        cosines: mean cosine to the queries, `(n,)` float32; of centred vectors if searches centre.
        groups: `(n,)` int64: a non-negative code for each identity, and a unique negative one for
            each crop without an identity.
        sets: `(n,)` int64: equal for crops that share one result. They are the `groups`, or codes
            of tracks in a search grouped by track.
        vectors: copies of the embedder's features, not normalized, `(n, d)`.
        searched: number of crops that passed the filter, or of all crops if an external index does
            not count them.
        version: version of the gallery in an external index; None for an index in this process.
    """

    slots: Integers
    cosines: Floats
    groups: Integers
    sets: Integers
    vectors: Floats
    searched: int
    version: int | None = None

    def __getitem__(self, positions: slice | Integers | NDArray[np.bool_]) -> Candidates:
        columns = {column: getattr(self, column)[positions] for column in CANDIDATE_COLUMNS}
        return replace(self, **columns)

    def extended(self, deeper: Candidates, most: int | None = None) -> Candidates:
        """Append up to `most` more crops, found by a deeper search of the same index."""
        is_new = ~np.isin(deeper.slots, self.slots)
        new = deeper[np.flatnonzero(is_new)[:most]]
        columns = {
            column: np.concatenate([getattr(self, column), getattr(new, column)])
            for column in CANDIDATE_COLUMNS
        }
        return replace(self, **columns)


def first_positions(codes: Integers) -> Integers:
    """Return the positions `(g,)`, ascending, of the first of each code."""
    return np.sort(np.unique(codes, return_index=True)[1])


def best_candidates(
    slots: Integers,
    groups: Integers,
    sets: Integers,
    vectors: Floats,
    rows: Integers,
    query: Array,
    limit: int,
    searched: int,
    grouped: bool,
    centre: Callable[[Array, Integers], Array] | None,
) -> Candidates:
    """Compute the exact cosines of some crops, and return the best of them in order.

    Args:
        slots, groups, sets: of the crops, `(n,)`; see `Candidates`.
        vectors: features `(m, d)`; those of the crops are at `rows` `(n,)`.
        query: mean direction of the queries, `(d,)`.
        limit: maximum number of crops.
        searched: see `Candidates`.
        grouped: return only the best crop of each set.
        centre: returns what is compared instead of the features `(k, d)` of crops at `rows`
            `(k,)`; None to compare the features.
    """
    cosines = np.empty(len(rows), np.float32)
    for start in range(0, len(rows), EXACT_ROWS):
        part = slice(start, start + EXACT_ROWS)
        exact = vectors[rows[part]].astype(np.float64)
        if centre is not None:
            exact = centre(exact, rows[part])
        # einsum sums each row separately; a matrix product's last digits depend on its height.
        products = np.einsum("rd,d->r", exact, query)
        norms = np.sqrt(np.einsum("rd,rd->r", exact, exact))
        cosines[part] = products / np.maximum(norms, 1e-12)
    cosines = np.clip(cosines, -1.0, 1.0)
    best = np.lexsort((slots, -cosines))
    if grouped:
        best = best[first_positions(sets[best])]
    best = best[:limit]
    return Candidates(
        slots=slots[best],
        cosines=cosines[best],
        groups=groups[best],
        sets=sets[best],
        vectors=vectors[rows[best]],
        searched=searched,
    )


def mean_direction(queries: Floats | Array) -> Array:
    """Return the mean `(d,)`, of length at most 1, of features `(m, d)` scaled to unit length."""
    units = queries.astype(np.float64)
    units /= np.maximum(np.linalg.norm(units, axis=1, keepdims=True), 1e-12)
    return np.asarray(units.mean(axis=0), np.float64)
