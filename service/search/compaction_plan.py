"""Plans for rewriting an index: a table without deleted rows, and a segment over its rows."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import CancelledError
from dataclasses import dataclass
from typing import TYPE_CHECKING, Union

import numpy as np
from numpy.typing import NDArray

from service.engine.device import retry_out_of_memory
from service.ops.health import heartbeat
from service.record.values import IndexedCrop
from service.search.arrays import Rows
from service.search.index_files import IndexFolder
from service.search.product_codes import ProductCodes
from service.search.table import RowTable

if TYPE_CHECKING:
    from service.search.gpu import DeviceVectors

COPIED_AT_ONCE = 1024
Segment = Union[ProductCodes, "DeviceVectors"]
Cover = Callable[[RowTable, int, NDArray[np.int64], Callable[[], None]], Segment]


@dataclass
class Compaction:
    """The parts of an index to rewrite, and after `build` the rewritten ones.

    Attributes:
        table: the index's own, read without being changed.
        size: the number of its rows.
        rows: the valid ones, ascending.
        texts_at: where their texts began, as read together with them by the thread that writes:
            another one may see a new text before the columns that go with it.
        rewrite: whether to make a table without the deleted ones.
        folder: where it gets files; None for memory.
        cover: makes a segment over the first rows of a table.
        rewritten, segment: the outcome.
        stopped: whether `build` is to end at its next step.
    """

    table: RowTable
    size: int
    rows: Rows
    texts_at: NDArray[np.int64]
    rewrite: bool
    cover: Cover | None
    folder: IndexFolder | None = None
    rewritten: RowTable | None = None
    segment: Segment | None = None
    stopped: bool = False

    def build(self) -> Compaction:
        """Does the work; on any thread."""
        table = self.table
        size = self.size
        rows = self.rows
        if self.rewrite:
            table = self.rewritten = self._copied()
            size = table.size
            rows = np.arange(table.size)
        if self.cover:
            self.segment = retry_out_of_memory(self.cover, table, size, rows, self._between)
        return self

    def catch_up(self) -> Rows:
        """Applies what has changed in the table since to what was built; on the device thread.

        Returns:
            The rows below the segment whose crops were deleted since.

        Raises:
            MemoryError, OSError: there is no room for the added rows; the outcome cannot be used.
        """
        old = self.table
        new = self.rewritten
        rows = self.rows
        gone = ~old.valid[rows]
        if new is None:
            return rows[gone]
        changed = rows[(old.text_at[rows] != self.texts_at) & ~gone]
        new.mark_deleted(old.row_ids[rows[gone]].tolist())
        new.relabel([old.label(row) for row in changed.tolist()])
        added = np.flatnonzero(old.valid[self.size : old.size]) + self.size
        crops = zip(added.tolist(), old.vectors[added], strict=True)
        new.append([IndexedCrop(old.label(row), vector) for row, vector in crops])
        return np.flatnonzero(gone)

    def _copied(self) -> RowTable:
        """A table of the rows alone; what is changed while they are copied `catch_up` applies."""
        old = self.table
        room = self.table.vector_bytes(len(self.rows))
        files = self.folder.create(room) if self.folder else None
        new = RowTable(old.dimension, old.secret, files)
        new.reserve(len(self.rows))
        # The same one: cameras only join it.
        new.cameras_known = old.cameras_known
        for start in range(0, len(self.rows), COPIED_AT_ONCE):
            self._between()
            part = slice(start, start + COPIED_AT_ONCE)
            new.copy(old, self.rows[part], self.texts_at[part])
        return new

    def _between(self) -> None:
        heartbeat()
        if self.stopped:
            raise CancelledError
