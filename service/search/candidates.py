"""Candidates that the index of a gallery finds by cosine, in this process or outside it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from service.search.table import RowTable

Floats = NDArray[np.float32]
Integers = NDArray[np.int64]
EXACT_ROWS = 1024
COLUMNS = ("row_ids", "cosines", "groups", "logits", "scores", "_rows")


@dataclass(frozen=True)
class FetchedCrops:
    """Crops that were copied from an index; the fields are parallel."""

    row_ids: Integers
    groups: Integers
    vectors: Floats

    def vectors_at(self, rows: Integers) -> Floats:
        """Return the features of rows as the embedder gave them, `(n, d)`."""
        return self.vectors[rows]


@dataclass(frozen=True)
class Candidates:
    """The best crops of a search, by descending cosine, then by age.

    Vectors are read from the index, on the device thread, unless they were copied.

    Attributes:
        row_ids: the record's ids, `(n,)` int64.
        cosines: mean cosine to the queries, `(n,)` float32.
        groups: `(n,)` int64, equal for the crops of one identity and not negative; a crop without
            an identity has a negative value of its own.
        searched: number of crops that passed the filter, or of all crops if an index outside this
            process does not count those.
        logits, scores: M-Net's logits, and scores by the scoring of the search, `(n,)` float32; NaN
            for a crop that was not scored.
        version: version of the gallery in an index outside this process; None for one inside.
    """

    row_ids: Integers
    cosines: Floats
    groups: Integers
    searched: int
    logits: Floats
    scores: Floats
    _source: RowTable | FetchedCrops
    _rows: Integers
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
        if new._source is self._source:
            return replace(self, **columns)
        # Each answer of an index outside this process brings its own vectors.
        source = FetchedCrops(
            row_ids=columns["row_ids"],
            groups=columns["groups"],
            vectors=np.concatenate([self.vectors(), new.vectors()]),
        )
        columns["_rows"] = np.arange(len(source.row_ids))
        return replace(self, **columns, _source=source)

    def copied(self, version: int) -> Candidates:
        """Return candidates that no longer read the index, which may change.

        Args:
            version: current version of the gallery, for candidates without a version.
        """
        source = FetchedCrops(self.row_ids, self.groups, self.vectors())
        version = version if self.version is None else self.version
        return replace(self, _source=source, _rows=np.arange(len(self.row_ids)), version=version)

    def first_of_groups(self) -> Integers:
        """Return the positions `(g,)`, ascending, at which each group first occurs."""
        return np.sort(np.unique(self.groups, return_index=True)[1])

    def vectors(self) -> Floats:
        """Return the features `(n, d)` as the embedder gave them."""
        return self._source.vectors_at(self._rows)


def scored(
    source: RowTable | FetchedCrops,
    rows: Integers,
    query: NDArray[np.float64],
    searched: int,
) -> Candidates:
    """Compute exact cosines of crops, and return the crops in order.

    Args:
        rows: rows of the source, `(n,)`.
        query: mean direction of the queries, `(d,)`.
        searched: see `Candidates`.
    """
    row_ids = source.row_ids[rows]
    groups = source.groups[rows]
    cosines = np.empty(len(rows), np.float32)
    for start in range(0, len(rows), EXACT_ROWS):
        part = slice(start, start + EXACT_ROWS)
        vectors = source.vectors_at(rows[part]).astype(np.float64)
        # einsum sums each row by itself. The last digits of a matrix product depend on its height.
        products = np.einsum("rd,d->r", vectors, query)
        norms = np.sqrt(np.einsum("rd,rd->r", vectors, vectors))
        cosines[part] = products / np.maximum(norms, 1e-12)
    unscored = np.full_like(cosines, np.nan)
    candidates = Candidates(
        row_ids=row_ids,
        cosines=np.clip(cosines, -1.0, 1.0),
        groups=groups,
        searched=searched,
        logits=unscored,
        scores=unscored,
        _source=source,
        _rows=rows,
    )
    return candidates[np.lexsort((row_ids, -candidates.cosines))]


def mean_direction(queries: Floats) -> NDArray[np.float64]:
    """Return the mean `(d,)` of features `(m, d)` at unit length; its length is at most 1."""
    units = queries.astype(np.float64)
    units /= np.maximum(np.linalg.norm(units, axis=1, keepdims=True), 1e-12)
    return np.asarray(units.mean(axis=0), np.float64)
