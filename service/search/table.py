"""The rows of a gallery's index, in columns: vectors, labels, and what filters compare."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

import faiss
import numpy as np
from numpy.typing import NDArray

from service.record.records import CropLabel, IndexedCrop, group_code

COPIED_AT_ONCE = 1024
FIRST_CAPACITY = 256
# Above this share of a block, multiplying all of it is faster than copying the wanted rows first.
WHOLE_BLOCK_SHARE = 0.25
# Codes of an unknown camera, and of one that no crop has.
UNKNOWN, NOWHERE = -1, -2
COLUMNS = ("norms", "row_ids", "valid", "groups", "cameras", "_captured")


class VectorBlocks:
    """Rows `(d,)` float32, numbered from 0, in blocks of a fixed height.

    Appending moves nothing, so that other threads may read rows meanwhile. The owner counts rows.
    """

    def __init__(self, dimension: int, block_rows: int) -> None:
        self.dimension = dimension
        self.block_rows = block_rows
        self._blocks: list[NDArray[np.float32]] = []

    def reserve(self, rows: int) -> None:
        """Makes room for so many rows in all; a block takes memory as it is written."""
        while len(self._blocks) * self.block_rows < rows:
            self._blocks.append(np.empty((self.block_rows, self.dimension), np.float32))

    def __setitem__(self, row: int, vector: NDArray[np.float32] | float) -> None:
        """Writes a row for which there is room."""
        number, place = divmod(row, self.block_rows)
        self._blocks[number][place] = vector

    def __getitem__(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """A copy of rows `(n, d)`."""
        found = np.empty((len(rows), self.dimension), np.float32)
        numbers, places = np.divmod(rows, self.block_rows)
        for number in np.unique(numbers):
            here = numbers == number
            found[here] = self._blocks[number][places[here]]
        return found

    def products(self, rows: NDArray[np.int64], query: NDArray[np.float32]) -> NDArray[np.float32]:
        """Inner products `(n,)` of rows, ascending, with a query `(d,)`."""
        products = np.empty(len(rows), np.float32)
        blocks = np.arange(len(self._blocks) + 1)
        edges = np.searchsorted(rows, blocks * self.block_rows).tolist()
        for number, (start, stop) in enumerate(itertools.pairwise(edges)):
            if start == stop:
                continue
            places = rows[start:stop] - number * self.block_rows
            filled = self._blocks[number][: places[-1] + 1]
            if len(places) > WHOLE_BLOCK_SHARE * len(filled):
                products[start:stop] = _products(filled, query)[places]
            else:
                products[start:stop] = _products(filled[places], query)
        return products


def _products(vectors: NDArray[np.float32], query: NDArray[np.float32]) -> NDArray[np.float32]:
    # FAISS's own loop takes half the time of a matrix product through BLAS for one query. It is as
    # fast as IndexFlatIP, which would need a second copy of every vector.
    products = np.empty(len(vectors), np.float32)
    # FAISS exports it, its type stubs leave it out.
    faiss.fvec_inner_products_ny(  # type: ignore[attr-defined]
        faiss.swig_ptr(products),
        faiss.swig_ptr(np.ascontiguousarray(query)),
        faiss.swig_ptr(vectors),
        vectors.shape[1],
        len(vectors),
    )
    return products


@dataclass(frozen=True)
class Filter:
    """Which crops a search may return; a crop of unknown camera or time passes no `only`.

    Attributes:
        cameras: only these; empty for every camera.
        exclude_cameras: none of these.
        captured_after, captured_before: inclusive bounds, with time zone.
        without: `row_id`s to leave out.
    """

    cameras: tuple[str, ...] = ()
    exclude_cameras: tuple[str, ...] = ()
    captured_after: datetime | None = None
    captured_before: datetime | None = None
    without: frozenset[int] = frozenset()

    def passes(self, label: CropLabel) -> bool:
        """Whether a crop with this label may be returned."""
        taken, after, before = label.captured_at, self.captured_after, self.captured_before
        if self.cameras and label.camera not in self.cameras:
            return False
        if label.camera in self.exclude_cameras or label.row_id in self.without:
            return False
        if taken is None:
            return after is None and before is None
        return (after is None or taken >= after) and (before is None or taken <= before)


EVERY_CROP = Filter()


class RowTable:
    """Columns of equal length; a row is never reused while the table lives.

    One thread writes. Another may read the rows that were there before: `rewritten` does, and
    `catch_up` then applies what changed meanwhile.

    Attributes:
        vectors: as the embedder gave them; the first `size` rows count.
        norms: their Euclidean lengths, `(capacity,)` float32.
        row_ids: the record's ids, `(capacity,)` int64, ascending.
        valid: False where a crop was deleted.
        valid_count: the number of valid rows.
        groups: `(capacity,)` int64, equal for the crops of one identity and not negative; a crop
            without an identity has a negative value of its own.
        cameras: `(capacity,)` int32, a code for each camera; -1 where it is unknown.
    """

    def __init__(self, dimension: int, block_rows: int, secret: bytes = b"") -> None:
        self.size = self.valid_count = 0
        self._secret = secret
        self.vectors = VectorBlocks(dimension, block_rows)
        self.norms = np.empty(0, np.float32)
        self.row_ids = np.empty(0, np.int64)
        self.valid = np.zeros(0, np.bool_)
        self.groups = np.empty(0, np.int64)
        self.cameras = np.empty(0, np.int32)
        self._captured = np.empty(0, np.float64)
        self._camera_codes: dict[str, int] = {}
        self._labels: list[CropLabel | None] = []
        self._row_of_crop: dict[str, int] = {}
        self._crops_of_group: Counter[int] = Counter()

    def reserve(self, crops: int) -> None:
        """Makes room for so many more crops; where memory is short it changes nothing."""
        size, capacity = self.size + crops, len(self.row_ids)
        self.vectors.reserve(size)
        if size > capacity:
            more = max(size, 2 * capacity, FIRST_CAPACITY) - capacity
            grown = {name: np.pad(getattr(self, name), (0, more)) for name in COLUMNS}
            vars(self).update(grown)

    def append(self, crops: Sequence[IndexedCrop]) -> None:
        """Adds crops at the end; a `MemoryError` comes before the first change."""
        self.reserve(len(crops))
        for crop in crops:
            row, label = self.size, crop.label
            self.vectors[row] = crop.vector
            self.norms[row] = max(float(np.linalg.norm(crop.vector)), 1e-12)
            self.row_ids[row] = label.row_id
            self.valid[row] = True
            self._labels.append(label)
            self._set_label(row, label)
            self._row_of_crop[label.crop_id] = row
            self.size += 1
            self.valid_count += 1

    def mark_deleted(self, row_id: int) -> int | None:
        """Deletes a crop, also from memory, and returns its row; None where it is not there."""
        row = self._row(row_id)
        if row is not None:
            del self._row_of_crop[self.label(row).crop_id]
            self.valid[row] = False
            self.vectors[row] = 0.0
            self._labels[row] = None
            self.valid_count -= 1
            self._count(row, -1)
        return row

    def relabel(self, labels: Iterable[CropLabel]) -> None:
        """Gives crops other labels; unknown and deleted ones are ignored."""
        for label in labels:
            row = self._row(label.row_id)
            if row is not None:
                self._count(row, -1)
                self._set_label(row, label)

    @property
    def identities(self) -> int:
        """The number of identities, a crop without one counting by itself; any thread may ask."""
        return len(self._crops_of_group)

    @property
    def newest(self) -> int:
        """The highest `row_id`, also of a deleted crop; −1 where there is none."""
        return int(self.row_ids[self.size - 1]) if self.size else -1

    def holds(self, row_id: int) -> bool:
        """Whether a crop is there and not deleted."""
        return self._row(row_id) is not None

    def row_of(self, crop_id: str) -> int | None:
        """The row of a valid crop."""
        return self._row_of_crop.get(crop_id)

    def label(self, row: int) -> CropLabel:
        """The label of a valid row."""
        label = self._labels[row]
        if label is None:
            raise LookupError(f"row {row} was deleted")
        return label

    def units(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """A copy of rows at unit length, `(n, d)`."""
        return np.asarray(self.vectors[rows] / self.norms[rows, None], np.float32)

    def unit_parts(self, size: int) -> Iterator[NDArray[np.float32]]:
        """Copies of the first rows at unit length, block by block."""
        for start in range(0, size, self.vectors.block_rows):
            yield self.units(np.arange(start, min(start + self.vectors.block_rows, size)))

    def select(self, wanted: Filter) -> NDArray[np.int64]:
        """The valid rows that pass a filter, ascending."""
        passing, codes = self.valid[: self.size].copy(), self._camera_codes
        cameras, captured = self.cameras[: self.size], self._captured[: self.size]
        if wanted.cameras:
            passing &= np.isin(cameras, [codes.get(name, NOWHERE) for name in wanted.cameras])
        if wanted.exclude_cameras:
            excluded = [codes.get(name, NOWHERE) for name in wanted.exclude_cameras]
            passing &= ~np.isin(cameras, excluded)
        if wanted.captured_after:
            passing &= captured >= wanted.captured_after.timestamp()
        if wanted.captured_before:
            passing &= captured <= wanted.captured_before.timestamp()
        if wanted.without:
            passing &= ~np.isin(self.row_ids[: self.size], list(wanted.without))
        return np.flatnonzero(passing)

    def named_crops(self) -> NamedCrops:
        """The valid rows with an identity; other threads may read their vectors."""
        rows = np.flatnonzero(self.valid[: self.size] & (self.groups[: self.size] >= 0))
        return NamedCrops(self, rows, self.groups[rows], self.cameras[rows].astype(np.int64))

    def rewritten(self, rows: NDArray[np.int64], between: Callable[[], None]) -> RowTable:
        """Another table of these rows alone; `catch_up` has to be called before it is used.

        Args:
            rows: ascending, valid when the caller read them. They may be deleted meanwhile.
            between: called now and then; an error of it ends this.
        """
        table = RowTable(self.vectors.dimension, self.vectors.block_rows, self._secret)
        for start in range(0, len(rows), COPIED_AT_ONCE):
            between()
            part = rows[start : start + COPIED_AT_ONCE]
            # Labels first: where one is still there, the vector that is read next may be torn by
            # its deletion, which `catch_up` finds.
            labels = [self._labels[row] for row in part.tolist()]
            pairs = zip(labels, self.vectors[part], strict=True)
            table.append([IndexedCrop(label, vector) for label, vector in pairs if label])
        return table

    def catch_up(self, old: RowTable, size: int) -> NDArray[np.int64]:
        """Applies the changes of a table since this one was made of its rows.

        Args:
            size: the number of rows that it had then.

        Returns:
            The rows of this table whose crops were deleted since.

        Raises:
            MemoryError: too little for the added rows; this table cannot be used.
        """
        places = np.searchsorted(old.row_ids[: old.size], self.row_ids[: self.size])
        deleted = np.flatnonzero(~old.valid[places])
        for row in deleted.tolist():
            self.mark_deleted(int(self.row_ids[row]))
        now = [old._labels[place] for place in places.tolist()]
        pairs = zip(now, self._labels, strict=True)
        self.relabel([label for label, own in pairs if label and label is not own])
        added = np.flatnonzero(old.valid[size : old.size]) + size
        new = zip(added.tolist(), old.vectors[added], strict=True)
        self.append([IndexedCrop(old.label(row), vector) for row, vector in new])
        return deleted

    def _set_label(self, row: int, label: CropLabel) -> None:
        self._labels[row] = label
        self.groups[row] = group_code(label, self._secret)
        codes, camera = self._camera_codes, label.camera
        self.cameras[row] = codes.setdefault(camera, len(codes)) if camera is not None else UNKNOWN
        self._captured[row] = label.captured_at.timestamp() if label.captured_at else np.nan
        self._count(row, 1)

    def _count(self, row: int, crops: int) -> None:
        group = int(self.groups[row])
        self._crops_of_group[group] += crops
        if not self._crops_of_group[group]:
            del self._crops_of_group[group]

    def _row(self, row_id: int) -> int | None:
        """The row of a crop that is there and not deleted."""
        row = int(np.searchsorted(self.row_ids[: self.size], row_id))
        there = row < self.size and self.row_ids[row] == row_id and self.valid[row]
        return row if there else None


@dataclass(frozen=True)
class NamedCrops:
    """Named crops of a gallery at one moment.

    Attributes:
        table: holds their vectors.
        rows: in the table, `(n,)`.
        names, cameras: codes, `(n,)`; the camera is -1 where it is unknown.
    """

    table: RowTable
    rows: NDArray[np.int64]
    names: NDArray[np.int64]
    cameras: NDArray[np.int64]

    def at(self, places: NDArray[np.int64]) -> NamedCrops:
        """The crops at some places, in their order."""
        return NamedCrops(self.table, self.rows[places], self.names[places], self.cameras[places])
