"""The rows of a gallery's index: columns that filters compare, beside the mapped vectors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import faiss
import numpy as np
from numpy.typing import NDArray

from service.record.crop_rows import CropColumns
from service.record.values import identity_code
from service.record.vectors import Vector, VectorFile
from service.search import arrays
from service.search.arrays import FIRST_CAPACITY, Rows, grown
from service.search.filters import Filter
from service.search.metadata import MetadataRows, ReadMetadata

UNITS_AT_ONCE = 4096
# The code of an unknown camera, and the group number of no identity.
UNKNOWN = -1
UNNAMED = -1
SHORTEST = 1e-12
COLUMNS = {
    "row_ids": np.int64,
    "norms": np.float32,
    "valid": np.bool_,
    "groups": np.int64,
    "group_numbers": np.int32,
    "cameras": np.int32,
    "captured": np.float64,
}


def no_metadata(_: Sequence[int]) -> Iterable[tuple[int, str]]:
    return ()


class RowTable:
    """Columns of equal length, ascending by slot; a row is never reused while the table lives.

    One thread writes. Others may read the rows that were there before, as a `Compaction` does. The
    vectors are read from the record's file, in which slots are never written again, but erased.

    Attributes:
        dimension: d, of the vectors.
        secret: under which identities become group codes.
        size: the number of rows.
        valid_count: the number of valid rows.
        changes: how many rows were changed, each time counted.
        vectors: as the embedder gave them, by slot, `(slots, d)` float32; to be read.
        row_ids: the slots of the crops, `(capacity,)` int64, ascending.
        norms: Euclidean lengths of the vectors, `(capacity,)` float32.
        valid: False where a crop was deleted, `(capacity,)`.
        groups: the group codes, `(capacity,)` int64.
        group_numbers: a number for each group from 0, `(capacity,)` int32; -1 for no identity.
        cameras: a code for each camera, `(capacity,)` int32; -1 where it is unknown.
        captured: seconds since 1970, `(capacity,)` float64; NaN where unknown.
        counted: a filter, `changes`, and how many identities passed it then.
    """

    row_ids: NDArray[np.int64]
    norms: NDArray[np.float32]
    valid: NDArray[np.bool_]
    groups: NDArray[np.int64]
    group_numbers: NDArray[np.int32]
    cameras: NDArray[np.int32]
    captured: NDArray[np.float64]

    def __init__(
        self, dimension: int, secret: bytes = b"", metadata: ReadMetadata = no_metadata
    ) -> None:
        """Make a table without rows.

        Args:
            metadata: reads the metadata of crops by slot.
        """
        self.dimension = dimension
        self.secret = secret
        self.size = 0
        self.valid_count = 0
        self.changes = 0
        self.vectors: Vector = np.zeros((0, dimension), np.float32)
        for name, dtype in COLUMNS.items():
            setattr(self, name, np.zeros(0, dtype))
        self.cameras_known: dict[str, int] = {}
        self._group_numbers: dict[int, int] = {}
        # The rows that the last filter passed, with the filter and `changes`.
        self._selected: tuple[Filter, int, Rows] | None = None
        self.counted = Filter(), -1, 0
        self._metadata = MetadataRows(secret, metadata)

    @property
    def newest(self) -> int:
        """The highest slot, also of a deleted crop; -1 where there is none."""
        return int(self.row_ids[self.size - 1]) if self.size else -1

    def append(self, crops: CropColumns, file: VectorFile) -> None:
        """Add crops with higher slots than all others; `file` has their vectors."""
        count = len(crops.slots)
        self.reserve(self.size + count)
        rows = np.arange(self.size, self.size + count)
        if crops.slots[-1] >= len(self.vectors):
            self.vectors = file.mapped()
        self.row_ids[rows] = crops.slots
        self._set_labels(rows, crops)
        for start in range(0, count, UNITS_AT_ONCE):
            part = slice(start, start + UNITS_AT_ONCE)
            self.norms[rows[part]] = _norms(self.vectors, crops.slots[part])
        self.valid[rows] = True
        self.size += count
        self.valid_count += count
        self.changes += count

    def relabel(self, crops: CropColumns) -> None:
        """Give crops other labels; unknown and deleted ones are ignored."""
        rows = np.searchsorted(self.row_ids[: self.size], crops.slots)
        there = rows < self.size
        there[there] = self.row_ids[rows[there]] == crops.slots[there]
        self._set_labels(rows[there], crops.at(np.flatnonzero(there)))
        self._metadata.outdate(rows[there])
        self.changes += int(np.count_nonzero(there))

    def mark_deleted(self, row_ids: Iterable[int]) -> Rows:
        """Delete crops, and return the rows that they had; others are ignored."""
        found = {row for one in row_ids if (row := self.row(one)) is not None}
        rows = np.array(sorted(found), np.int64)
        self.valid[rows] = False
        self.valid_count -= len(rows)
        self.changes += len(rows)
        return rows

    def row(self, row_id: int) -> int | None:
        """Return the row of a crop; None where it is not there, or deleted."""
        row = int(np.searchsorted(self.row_ids[: self.size], row_id))
        there = row < self.size and self.row_ids[row] == row_id and self.valid[row]
        return row if there else None

    def vectors_at(self, rows: Rows) -> Vector:
        """Return copies of the vectors of rows as the embedder gave them, `(n, d)`."""
        return self.vectors[self.row_ids[rows]]

    def cosines(self, rows: Rows, query: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the cosines of rows with a query of unit length, `(n,)`, in float32.

        Nothing but they has the length of the rows: a gallery of millions would take that often.
        """
        found = np.empty(len(rows), np.float32)
        for start in range(0, len(rows), arrays.ROWS_AT_ONCE):
            part = rows[start : start + arrays.ROWS_AT_ONCE]
            products = arrays.inner_products(self.vectors, self.row_ids[part], query)
            found[start : start + len(part)] = products / self.norms[part]
        return found

    def units(self, rows: Rows) -> NDArray[np.float32]:
        """Return copies of the vectors of rows at unit length, `(n, d)`."""
        vectors = self.vectors_at(rows)
        return np.asarray(vectors / self.norms[rows, None], np.float32)

    def unit_parts(self, rows: Rows) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        """Yield the `units` of rows in parts, each with its places among the rows."""
        for start in range(0, len(rows), UNITS_AT_ONCE):
            part = slice(start, min(start + UNITS_AT_ONCE, len(rows)))
            yield part, self.units(rows[part])

    def select(self, wanted: Filter) -> Rows:
        """Return the valid rows that pass a filter, ascending; not to be changed."""
        changes = self.changes
        selected = self._selected
        if selected and selected[:2] == (wanted, changes):
            return selected[2]
        passing = self.valid[: self.size]
        captured = self.captured[: self.size]
        if wanted.cameras or wanted.exclude_cameras:
            # The last one is unknown, whose code is -1.
            passes = np.array([*map(wanted.passes_camera, [*self.cameras_known, None])])
            passing = passing & passes[self.cameras[: self.size]]
        if wanted.captured_after:
            passing = passing & (captured >= wanted.captured_after.timestamp())
        if wanted.captured_before:
            passing = passing & (captured <= wanted.captured_before.timestamp())
        if wanted.named is not None:
            passing = passing & ((self.groups[: self.size] >= 0) == wanted.named)
        if wanted.identities:
            codes = [identity_code(one, self.secret) for one in wanted.identities]
            passing = passing & np.isin(self.groups[: self.size], codes)
        if wanted.metadata:
            bearing = self._metadata.bearing(wanted.metadata, self.row_ids[: self.size])
            passing = passing & bearing
        if wanted.without:
            passing = passing.copy()
            passing[[row for one in wanted.without if (row := self.row(one)) is not None]] = False
        rows = np.flatnonzero(passing)
        self._selected = wanted, changes, rows
        return rows

    def taken(self, rows: Rows) -> RowTable:
        new = RowTable(self.dimension, self.secret)
        new.vectors = self.vectors
        new.size = len(rows)
        for name in COLUMNS:
            setattr(new, name, getattr(self, name)[rows])
        new.valid_count = int(np.count_nonzero(new.valid))
        new.cameras_known = self.cameras_known
        new._group_numbers = self._group_numbers
        new._metadata = self._metadata.anew()
        return new

    def reserve(self, size: int) -> None:
        """Make room for `size` rows in all, which takes memory as they are filled."""
        capacity = len(self.row_ids)
        if size > capacity:
            capacity = max(size, 2 * capacity, FIRST_CAPACITY)
            vars(self).update({name: grown(getattr(self, name), capacity) for name in COLUMNS})

    def _set_labels(self, rows: Rows, crops: CropColumns) -> None:
        self.groups[rows] = crops.groups
        self._number(rows)
        for camera in crops.cameras:
            if camera is not None and camera not in self.cameras_known:
                self.cameras_known[camera] = len(self.cameras_known)
        codes: dict[str | None, int] = {None: UNKNOWN}
        codes.update(self.cameras_known.items())
        self.cameras[rows] = [codes[camera] for camera in crops.cameras]
        self.captured[rows] = crops.captured

    def _number(self, rows: Rows) -> None:
        known = self._group_numbers
        codes, places = np.unique(self.groups[rows], return_inverse=True)
        numbers = [
            UNNAMED if code < 0 else known.setdefault(code, len(known)) for code in codes.tolist()
        ]
        self.group_numbers[rows] = np.array(numbers, np.int32)[places]


def _norms(vectors: Vector, slots: NDArray[np.int64]) -> NDArray[np.float32]:
    first = int(slots[0])
    end = int(slots[-1]) + 1
    # A run of slots is read in place.
    found = vectors[first:end] if end - first == len(slots) else vectors[slots]
    norms = np.empty(len(slots), np.float32)
    # FAISS exports it, its type stubs leave it out.
    faiss.fvec_norms_L2(  # type: ignore[attr-defined]
        faiss.swig_ptr(norms), faiss.swig_ptr(found), found.shape[1], len(found)
    )
    return np.maximum(norms, np.float32(SHORTEST))
