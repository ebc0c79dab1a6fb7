"""What an index of a gallery answers, in this process or outside it: candidates by cosine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from service.record.records import CropLabel
from service.search.table import RowTable

EXACT_ROWS = 1024


@dataclass(frozen=True)
class FetchedCrops:
    """Crops that an index outside this process has sent; in parallel."""

    row_ids: NDArray[np.int64]
    groups: NDArray[np.int64]
    vectors: NDArray[np.float32]
    labels: Sequence[CropLabel]

    def label(self, row: int) -> CropLabel:
        """The label of one."""
        return self.labels[row]


@dataclass(frozen=True)
class Candidates:
    """The best of a search, by cosine downwards and, where equal, by age.

    Vectors and labels are read from the index, on the device thread, unless they were copied.

    Attributes:
        row_ids: the record's ids, `(n,)` int64.
        cosines: mean cosine to the queries, `(n,)` float32.
        groups: `(n,)` int64, equal for the crops of one identity and not negative; a crop without
            an identity has a negative value of its own.
        searched: the number of crops that passed the filter, or where an index outside this process
            does not count them and has more, all.
        version: of the gallery, as an index outside this process shows it; None of one inside.
    """

    row_ids: NDArray[np.int64]
    cosines: NDArray[np.float32]
    groups: NDArray[np.int64]
    searched: int
    _source: RowTable | FetchedCrops
    _rows: NDArray[np.int64]
    version: int | None = None

    def __getitem__(self, places: slice | NDArray[np.int64] | NDArray[np.bool_]) -> Candidates:
        """Some of them."""
        return replace(
            self,
            row_ids=self.row_ids[places],
            cosines=self.cosines[places],
            groups=self.groups[places],
            _rows=self._rows[places],
        )

    def extended(self, deeper: Candidates, most: int | None = None) -> Candidates:
        """These, then up to `most` others of a deeper search of the same index."""
        new = deeper[np.flatnonzero(~np.isin(deeper.row_ids, self.row_ids))[:most]]
        if new._source is not self._source:
            return self._joined(new)
        return replace(
            self,
            row_ids=np.concatenate([self.row_ids, new.row_ids]),
            cosines=np.concatenate([self.cosines, new.cosines]),
            groups=np.concatenate([self.groups, new.groups]),
            _rows=np.concatenate([self._rows, new._rows]),
        )

    def _joined(self, other: Candidates) -> Candidates:
        """Both in turn, of answers that brought their own vectors and labels."""
        source = FetchedCrops(
            np.concatenate([self.row_ids, other.row_ids]),
            np.concatenate([self.groups, other.groups]),
            np.concatenate([self.vectors(), other.vectors()]),
            self.labels() + other.labels(),
        )
        cosines = np.concatenate([self.cosines, other.cosines])
        rows = np.arange(len(cosines))
        ids = source.row_ids
        groups = source.groups
        return Candidates(ids, cosines, groups, self.searched, source, rows, self.version)

    def copied(self, version: int) -> Candidates:
        """Return candidates that no longer read the index, which may change.

        Args:
            version: of the gallery now; that of an index outside this process stays.
        """
        source = FetchedCrops(self.row_ids, self.groups, self.vectors(), self.labels())
        version = version if self.version is None else self.version
        return replace(self, _source=source, _rows=np.arange(len(self.row_ids)), version=version)

    def first_of_groups(self) -> NDArray[np.int64]:
        """The places, ascending, at which each group occurs for the first time."""
        return np.sort(np.unique(self.groups, return_index=True)[1])

    def vectors(self) -> NDArray[np.float32]:
        """Their features as the embedder gave them, `(n, d)`."""
        return self._source.vectors[self._rows]

    def labels(self) -> list[CropLabel]:
        """Their labels."""
        return list(map(self._source.label, self._rows.tolist()))


def scored(
    source: RowTable | FetchedCrops,
    rows: NDArray[np.int64],
    query: NDArray[np.float64],
    searched: int,
) -> Candidates:
    """Crops in order, with their exact cosines to the mean direction of queries `(d,)`."""
    row_ids = source.row_ids[rows]
    groups = source.groups[rows]
    cosines = np.empty(len(rows), np.float32)
    for start in range(0, len(rows), EXACT_ROWS):
        part = slice(start, start + EXACT_ROWS)
        vectors = source.vectors[rows[part]].astype(np.float64)
        # einsum sums every row alone; a matrix product's last digits depend on its height.
        products = np.einsum("rd,d->r", vectors, query)
        norms = np.sqrt(np.einsum("rd,rd->r", vectors, vectors))
        cosines[part] = products / np.maximum(norms, 1e-12)
    found = Candidates(row_ids, np.clip(cosines, -1.0, 1.0), groups, searched, source, rows)
    return found[np.lexsort((row_ids, -found.cosines))]


def mean_direction(queries: NDArray[np.float32]) -> NDArray[np.float64]:
    """The mean `(d,)` of features `(m, d)` at unit length; itself of that length or shorter."""
    units = queries.astype(np.float64)
    units /= np.maximum(np.linalg.norm(units, axis=1, keepdims=True), 1e-12)
    return np.asarray(units.mean(axis=0), np.float64)
