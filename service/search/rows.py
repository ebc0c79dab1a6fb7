"""The index's own table: row number → crop, as growing column arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from service.record.records import CropLabel, IndexedCrop
from service.search.vector_blocks import BLOCK_ROWS, VectorBlocks

UNKNOWN = -1
FIRST_CAPACITY = 256
COPIED_AT_ONCE = 1024
COLUMNS = ("norms", "row_ids", "alive", "groups", "_cameras", "_captured")


@dataclass(frozen=True)
class Filter:
    """Which crops a search may return; a crop whose camera or time is unknown passes no `only`.

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

    @property
    def passes_all(self) -> bool:
        """Whether nothing is asked but what is alive."""
        return self == Filter()


class RowTable:
    """Columns of equal length; a row is never reused while the table lives.

    One thread writes. Another may meanwhile read what stood there before it began: `rewritten`
    does, and `catch_up` then mends what had changed under its eyes.

    Attributes:
        vectors: rows `(d,)` float32 as the embedder gave them; the first `size` rows count.
        norms: their Euclidean lengths, `(capacity,)` float32.
        row_ids: the record store's ids, `(capacity,)` int64, ascending.
        alive: False where a crop was deleted.
        groups: `(capacity,)` int64, equal for the crops of one identity and not negative; a crop
            without an identity has a negative value of its own.
    """

    def __init__(self, dimension: int, block_rows: int = BLOCK_ROWS) -> None:
        self.size = 0
        self.live = 0
        self.vectors = VectorBlocks(dimension, block_rows)
        self.norms = np.empty(FIRST_CAPACITY, np.float32)
        self.row_ids = np.empty(FIRST_CAPACITY, np.int64)
        self.alive = np.zeros(FIRST_CAPACITY, np.bool_)
        self.groups = np.empty(FIRST_CAPACITY, np.int64)
        self._cameras = np.empty(FIRST_CAPACITY, np.int32)
        self._captured = np.empty(FIRST_CAPACITY, np.float64)
        self._camera_codes: dict[str, int] = {}
        self._labels: list[CropLabel | None] = []
        self._row_of_crop: dict[str, int] = {}
        self._changes = 0
        self._counted = (0, 0)

    def reserve(self, crops: int) -> None:
        """Makes room for so many more crops, or, where memory is short, changes nothing."""
        size, capacity = self.size + crops, len(self.row_ids)
        self.vectors.reserve(size)
        if size <= capacity:
            return
        capacity = max(size, capacity * 2)
        grown = {}
        for name in COLUMNS:
            old = getattr(self, name)
            new = np.zeros(capacity, old.dtype)
            new[: self.size] = old[: self.size]
            grown[name] = new
        for name, new in grown.items():
            setattr(self, name, new)

    def append(self, crops: Iterable[IndexedCrop]) -> None:
        """Adds crops at the end, where there is room for them."""
        for crop in crops:
            row, label = self.size, crop.label
            self.vectors[row] = crop.vector
            self.norms[row] = max(float(np.linalg.norm(crop.vector)), 1e-12)
            self.row_ids[row] = label.row_id
            self.alive[row] = True
            self._labels.append(label)
            self._label(row, label)
            self._row_of_crop[label.crop_id] = row
            self.size += 1
            self.live += 1

    def kill(self, row_id: int) -> int | None:
        """Marks a crop as deleted and answers its row; an unknown id is no error."""
        row = int(np.searchsorted(self.row_ids[: self.size], row_id))
        if row == self.size or self.row_ids[row] != row_id or not self.alive[row]:
            return None
        label = self.label(row)
        self.alive[row] = False
        # Not only masked: what was deleted leaves the memory too.
        self.vectors[row] = 0.0
        self._labels[row] = None
        del self._row_of_crop[label.crop_id]
        self.live -= 1
        self._changes += 1
        return row

    def relabel(self, labels: Iterable[CropLabel]) -> None:
        """Shows crops under other labels; unknown and deleted ones are no error."""
        for label in labels:
            row = int(np.searchsorted(self.row_ids[: self.size], label.row_id))
            if row < self.size and self.row_ids[row] == label.row_id and self.alive[row]:
                self._label(row, label)

    def _label(self, row: int, label: CropLabel) -> None:
        self._labels[row] = label
        self.groups[row] = _group(label)
        self._cameras[row] = self._code(label.camera)
        self._captured[row] = label.captured_at.timestamp() if label.captured_at else np.nan
        self._changes += 1

    @property
    def identities(self) -> int:
        """How many the living rows show, counted once a change; unnamed ones count each.

        May be asked on any thread: amid a change it is of before or after.
        """
        changes, counted = self._counted
        if changes != self._changes:
            changes = self._changes
            living = self.alive[: self.size]
            counted = len(np.unique(self.groups[: len(living)][living]))
            self._counted = (changes, counted)
        return counted

    @property
    def newest(self) -> int:
        """The highest `row_id`, of a deleted crop too; −1 where there is none."""
        return int(self.row_ids[self.size - 1]) if self.size else -1

    def holds(self, row_id: int) -> bool:
        """Whether a crop is there and not deleted."""
        row = int(np.searchsorted(self.row_ids[: self.size], row_id))
        return row < self.size and bool(self.row_ids[row] == row_id and self.alive[row])

    def row_of(self, crop_id: str) -> int | None:
        """The row of a living crop."""
        return self._row_of_crop.get(crop_id)

    def label(self, row: int) -> CropLabel:
        """Who a living row shows, and where."""
        label = self._labels[row]
        if label is None:
            raise LookupError(f"row {row} was deleted")
        return label

    def select(self, wanted: Filter) -> NDArray[np.int64]:
        """The living rows that pass a filter, ascending."""
        passing = self.alive[: self.size].copy()
        cameras = self._cameras[: self.size]
        captured = self._captured[: self.size]
        if wanted.cameras:
            passing &= np.isin(cameras, self._codes(wanted.cameras))
        if wanted.exclude_cameras:
            passing &= ~np.isin(cameras, self._codes(wanted.exclude_cameras))
        if wanted.captured_after:
            passing &= captured >= wanted.captured_after.timestamp()
        if wanted.captured_before:
            passing &= captured <= wanted.captured_before.timestamp()
        if wanted.without:
            passing &= ~np.isin(self.row_ids[: self.size], list(wanted.without))
        return np.flatnonzero(passing)

    def living(self, since: int = 0) -> Iterable[IndexedCrop]:
        """Every living crop from a row on, with its vector, in order."""
        for row in (np.flatnonzero(self.alive[since : self.size]) + since).tolist():
            yield IndexedCrop(self.label(row), self.vectors[row : row + 1][0])

    def rewritten(self, rows: NDArray[np.int64], between: Callable[[], None]) -> RowTable:
        """Another table of these rows alone; to be caught up before it is used.

        Args:
            rows: ascending, living when the caller learnt of them. They may be killed meanwhile.
            between: called now and then; what it raises ends this.
        """
        table = RowTable(self.vectors.dimension, self.vectors.block_rows)
        # Labels first: where one is still there, the vector that is read next may be torn by its
        # removal, which `catch_up` sees.
        table._labels = [self._labels[row] for row in rows.tolist()]
        for place, label in enumerate(table._labels):
            if label is not None:
                table._row_of_crop[label.crop_id] = place
        for name in COLUMNS:
            setattr(table, name, getattr(self, name)[rows])
        table.alive[:] = [label is not None for label in table._labels]
        table.live = int(table.alive.sum())
        for start in range(0, len(rows), COPIED_AT_ONCE):
            between()
            part = rows[start : start + COPIED_AT_ONCE]
            table.vectors.extend(self.vectors[part], start)
        table.size = len(rows)
        return table

    def catch_up(
        self, old: RowTable, rows: NDArray[np.int64], size: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Brings in what became of a table since this one was made of its rows.

        Args:
            old: that table.
            rows: those that this one was made of.
            size: how many it had then.

        Returns:
            The rows of this table whose crops were deleted since, and the rows of the old table
            that were added since and live.

        Raises:
            MemoryError: too little for what was added; this table cannot be used.
        """
        added = np.flatnonzero(old.alive[size : old.size]) + size
        self.reserve(len(added))
        deleted = np.flatnonzero(~old.alive[rows])
        for row in deleted.tolist():
            self.kill(int(self.row_ids[row]))
        self._labels = [old._labels[row] for row in rows.tolist()]
        for name in ("groups", "_cameras", "_captured"):
            getattr(self, name)[: len(rows)] = getattr(old, name)[rows]
        self._changes += 1
        self._camera_codes = old._camera_codes
        self.append(old.living(size))
        return deleted, added

    def _code(self, camera: str | None) -> int:
        if camera is None:
            return UNKNOWN
        return self._camera_codes.setdefault(camera, len(self._camera_codes))

    def _codes(self, cameras: Iterable[str]) -> list[int]:
        return [self._camera_codes[name] for name in cameras if name in self._camera_codes]


def _group(label: CropLabel) -> int:
    # A hash of 63 bits, and not a numbering of the names, which would outlive a forgotten person.
    # Among a million identities two share one with a probability of 5e-8.
    return -1 - label.row_id if label.identity is None else hash(label.identity) & (2**63 - 1)
