"""The rows of a gallery's index, in columns: vectors, labels, and what filters compare."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic_core import from_json, to_json

from service.record.values import LABEL, CropLabel, IndexedCrop, group_code, identity_code
from service.search.arrays import FIRST_CAPACITY, GrowingArray, Rows, grown, vector_sums
from service.search.filters import Filter
from service.search.index_files import FileSet, Stored
from service.search.metadata import MetadataRows

UNITS_AT_ONCE = 4096
# Fewer bytes of old labels are not worth a rewrite.
WASTED_TEXT = 2**21
# The code of an unknown camera, and the group number of no identity.
UNKNOWN = -1
UNNAMED = -1
SHORTEST = 1e-12
COLUMNS: Mapping[str, type] = {
    "norms": np.float32,
    "row_ids": np.int64,
    "valid": np.bool_,
    "groups": np.int64,
    "cameras": np.int32,
    "captured": np.float64,
    "crop_hashes": np.uint64,
    "vector_sums": np.uint64,
    "text_at": np.int64,
    "text_bytes": np.int32,
    "text_sums": np.uint32,
}
COPIED = ("norms", "row_ids", "groups", "cameras", "captured", "crop_hashes", "vector_sums")


class RowTable:
    """Columns of equal length; a row is never reused while the table lives.

    One thread writes. Another may read the rows that were there before, as a `Compaction` does. No
    crop is kept as an object: a label is a text that is read where it is asked for.

    Attributes:
        size: the number of rows.
        norms: their Euclidean lengths, `(capacity,)` float32.
        row_ids: the record's ids, `(capacity,)` int64, ascending.
        valid: False where a crop was deleted.
        valid_count: the number of valid rows.
        groups: `(capacity,)` int64, the group codes.
        group_numbers: `(capacity,)` int32, a number for each group from 0; -1 for no identity.
        cameras: `(capacity,)` int32, a code for each camera; -1 where it is unknown.
        secret: under which identities become group codes.
        counted: a filter, `changes`, and how many identities passed it then.
        files: that hold vectors and labels; None for memory.
        changes: how many rows were changed, each time counted.
    """

    norms: NDArray[np.float32]
    row_ids: NDArray[np.int64]
    valid: NDArray[np.bool_]
    groups: NDArray[np.int64]
    cameras: NDArray[np.int32]
    captured: NDArray[np.float64]
    crop_hashes: NDArray[np.uint64]
    vector_sums: NDArray[np.uint64]
    text_at: NDArray[np.int64]
    text_bytes: NDArray[np.int32]
    text_sums: NDArray[np.uint32]

    def __init__(self, dimension: int, secret: bytes = b"", files: FileSet | None = None) -> None:
        self.dimension = dimension
        self.secret = secret
        self.files = files
        self.size = self.valid_count = self.changes = 0
        self._vectors = GrowingArray((dimension,), np.float32, files.vectors if files else None)
        self._texts = GrowingArray((), np.uint8, files.texts if files else None)
        self._text_end = 0
        for name, dtype in COLUMNS.items():
            setattr(self, name, np.zeros(0, dtype))
        self.cameras_known: dict[str, int] = {}
        self._group_numbers: dict[int, int] = {}
        self.group_numbers: NDArray[np.int32] = np.zeros(0, np.int32)
        # What the last filter passed, with the filter and `changes`.
        self._selected: tuple[Filter, int, Rows] | None = None
        self.counted = Filter(), -1, 0
        self._metadata = MetadataRows(secret)

    @property
    def vectors(self) -> NDArray[np.float32]:
        """As the embedder gave them, `(capacity, d)`; to be read."""
        return self._vectors.items

    def vector_bytes(self, crops: int) -> int:
        """The bytes of so many vectors."""
        return crops * self.dimension * np.float32().nbytes

    def reserve(self, crops: int) -> None:
        """Makes room for so many more crops; where there is none it changes nothing."""
        size = self.size + crops
        capacity = len(self.row_ids)
        self._vectors.reserve(size)
        if size > capacity:
            capacity = max(size, 2 * capacity, FIRST_CAPACITY)
            names = [*COLUMNS, "group_numbers"]
            vars(self).update({name: grown(getattr(self, name), capacity) for name in names})

    def append(self, crops: Sequence[IndexedCrop]) -> None:
        """Adds crops at the end; where there is no room it changes nothing."""
        self.reserve(len(crops))
        if not crops:
            return
        labels = [crop.label for crop in crops]
        rows = np.arange(self.size, self.size + len(crops))
        vectors = np.stack([np.asarray(crop.vector, np.float32) for crop in crops])
        self._set_labels(rows, labels)
        self._vectors.write(self.size, vectors)
        self.norms[rows] = np.maximum(np.linalg.norm(vectors, axis=1), SHORTEST)
        self.vector_sums[rows] = vector_sums(vectors)
        self.row_ids[rows] = [label.row_id for label in labels]
        self.crop_hashes[rows] = [_crop_hash(label.crop_id) for label in labels]
        self._show(rows)

    def mark_deleted(self, row_ids: Iterable[int]) -> Rows:
        """Deletes crops, also from memory and files; answers the rows of those that were there."""
        found = {row for one in row_ids if (row := self._row(one)) is not None}
        rows = np.array(sorted(found), np.int64)
        self.valid[rows] = False
        nothing = np.zeros((1, self.dimension), np.float32)
        for row in found:
            self._vectors.write(row, nothing)
        self._erase_texts(self.text_at[rows], self.text_bytes[rows])
        self.valid_count -= len(rows)
        self.changes += len(rows)
        return rows

    def relabel(self, labels: Iterable[CropLabel]) -> None:
        """Gives crops other labels; unknown and deleted ones are ignored.

        Where there is no room it changes nothing.
        """
        found = {row: label for label in labels if (row := self._row(label.row_id)) is not None}
        if not found:
            return
        rows = np.array(list(found), np.int64)
        new = list(found.values())
        old = self.text_at[rows], self.text_bytes[rows]
        self._set_labels(rows, new)
        self._erase_texts(*old)
        self.changes += len(rows)

    @property
    def newest(self) -> int:
        """The highest `row_id`, also of a deleted crop; −1 where there is none."""
        return int(self.row_ids[self.size - 1]) if self.size else -1

    @property
    def wasteful(self) -> bool:
        """Whether most of the texts' bytes are of labels that were changed."""
        used = int(self.text_bytes[: self.size][self.valid[: self.size]].sum())
        return self._text_end > max(2 * used, WASTED_TEXT)

    def holds(self, row_id: int) -> bool:
        """Whether a crop is there and not deleted."""
        return self._row(row_id) is not None

    def row_of(self, crop_id: str) -> int | None:
        """The row of a valid crop."""
        hashes = self.crop_hashes[: self.size]
        alike = np.flatnonzero((hashes == np.uint64(_crop_hash(crop_id))) & self.valid[: self.size])
        return next((row for row in alike.tolist() if self.label(row).crop_id == crop_id), None)

    def label(self, row: int) -> CropLabel:
        """The label of a valid row."""
        if not self.valid[row]:
            raise LookupError(f"row {row} was deleted")
        label = CropLabel(*from_json(self._text(row)))
        captured: Any = label.captured_at
        return replace(label, captured_at=datetime.fromisoformat(captured)) if captured else label

    def units(self, rows: Rows) -> NDArray[np.float32]:
        """A copy of rows at unit length, `(n, d)`."""
        return np.asarray(self.vectors[rows] / self.norms[rows, None], np.float32)

    def unit_parts(self, size: int) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        """Copies of the first rows at unit length, in parts, each with its place."""
        for start in range(0, size, UNITS_AT_ONCE):
            part = slice(start, min(start + UNITS_AT_ONCE, size))
            yield part, self.vectors[part] / self.norms[part, None]

    def select(self, wanted: Filter) -> Rows:
        """The valid rows that pass a filter, ascending; not to be changed."""
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
            held = self.text_at[: self.size], self.valid[: self.size], self._text
            passing = passing & self._metadata.bearing(wanted.metadata, *held)
        if wanted.without:
            passing = passing.copy()
            passing[[row for one in wanted.without if (row := self._row(one)) is not None]] = False
        rows = np.flatnonzero(passing)
        self._selected = wanted, changes, rows
        return rows

    def copy(self, other: RowTable, rows: Rows, texts_at: NDArray[np.int64]) -> None:
        """Adds rows of another table, for which there is room; `texts_at` is where they have texts.

        Rows that are changed or deleted meanwhile may be copied in part.
        """
        new = np.arange(self.size, self.size + len(rows))
        places = zip(rows.tolist(), texts_at.tolist(), strict=True)
        self._set_texts(new, [other._text(*place) for place in places])
        self._vectors.write(self.size, other.vectors[rows])
        for name in COPIED:
            getattr(self, name)[new] = getattr(other, name)[rows]
        self._number(new)
        self._show(new)

    @property
    def unsaved(self) -> int:
        """How many changes its files do not have; 0 without files."""
        return self.changes - self.files.saved if self.files else 0

    def discard(self) -> None:
        """Removes its files; those that read it go on."""
        if self.files:
            self.files.remove()

    def checkpoint(self, named: Mapping[str, Any]) -> Stored | None:
        """The columns as they are, copied; None for a table in memory.

        Args:
            named: what it is of, as JSON.
        """
        if self.files is None:
            return None
        columns = {name: getattr(self, name)[: self.size].copy() for name in COLUMNS}
        known = {"texts": self._text_end, "cameras": {**self.cameras_known}}
        return Stored(self.files, {**named, **known}, columns, self.changes)

    def restore(self, stored: Stored) -> None:
        """Fills an empty table with a checkpoint's rows, whose vectors and texts its files have."""
        size = len(stored.columns["row_ids"])
        self._text_end = stored.named["texts"]
        self.reserve(size)
        self._texts.reserve(self._text_end)
        for name, column in stored.columns.items():
            getattr(self, name)[:size] = column
        self.cameras_known = dict(stored.named["cameras"])
        self.size = size
        rows = np.flatnonzero(self.valid)
        self._number(rows)
        self.valid_count = len(rows)

    def _show(self, rows: Rows) -> None:
        """Shows rows at the end, whose columns are complete."""
        self.valid[rows] = True
        self.size += len(rows)
        self.valid_count += len(rows)
        self.changes += len(rows)

    def _set_texts(self, rows: Rows, texts: Sequence[bytes]) -> None:
        sizes = np.array(list(map(len, texts)), np.int32)
        ends = self._text_end + np.cumsum(sizes, dtype=np.int64)
        self._texts.reserve(int(ends[-1]))
        self._texts.write(self._text_end, np.frombuffer(b"".join(texts), np.uint8))
        self.text_at[rows] = ends - sizes
        self.text_bytes[rows] = sizes
        self.text_sums[rows] = list(map(zlib.crc32, texts))
        self._text_end = int(ends[-1])

    def _text(self, row: int, at: int | None = None) -> bytes:
        at = int(self.text_at[row]) if at is None else at
        return self._texts.items[at : at + int(self.text_bytes[row])].tobytes()

    def _erase_texts(self, starts: NDArray[np.int64], sizes: NDArray[np.int32]) -> None:
        for start, size in zip(starts.tolist(), sizes.tolist(), strict=True):
            self._texts.write(start, np.zeros(size, np.uint8))

    def _set_labels(self, rows: Rows, labels: Sequence[CropLabel]) -> None:
        self._set_texts(rows, [to_json(LABEL(label)) for label in labels])
        codes = self.cameras_known
        self.groups[rows] = [group_code(label, self.secret) for label in labels]
        self._number(rows)
        self.cameras[rows] = [
            UNKNOWN if one.camera is None else codes.setdefault(one.camera, len(codes))
            for one in labels
        ]
        self.captured[rows] = [
            one.captured_at.timestamp() if one.captured_at else np.nan for one in labels
        ]

    def _number(self, rows: Rows) -> None:
        """Numbers the groups of rows, from 0."""
        known = self._group_numbers
        codes, places = np.unique(self.groups[rows], return_inverse=True)
        numbers = [
            UNNAMED if code < 0 else known.setdefault(code, len(known)) for code in codes.tolist()
        ]
        self.group_numbers[rows] = np.array(numbers, np.int32)[places]

    def _row(self, row_id: int) -> int | None:
        """The row of a crop that is there and not deleted."""
        row = int(np.searchsorted(self.row_ids[: self.size], row_id))
        there = row < self.size and self.row_ids[row] == row_id and self.valid[row]
        return row if there else None


def _crop_hash(crop_id: str) -> int:
    digest = hashlib.blake2b(crop_id.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big")
