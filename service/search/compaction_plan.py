"""What is to be rewritten of an index: a table without deleted rows, a segment over its rows."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import CancelledError
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.engine.device import retry_out_of_memory
from service.ops.health import heartbeat
from service.search.gpu import DeviceVectors
from service.search.index_files import IndexFolder
from service.search.product_codes import ProductCodes
from service.search.table import RowTable

Segment = ProductCodes | DeviceVectors
Cover = Callable[[RowTable, int, NDArray[np.int64], Callable[[], None]], Segment]


@dataclass
class Compaction:
    """What to rewrite of an index, and once it is built the outcome.

    Attributes:
        table: the index's own, read without being changed.
        size: the number of its rows.
        rows: the valid ones, ascending.
        texts_at: where their texts began.
        rewrite: whether to make a table without the deleted ones.
        folder: where it gets files; None for memory.
        cover: makes a segment over the first rows of a table.
        rewritten, segment: the outcome.
        stopped: whether `build` is to end at its next step.
    """

    table: RowTable
    size: int
    rows: NDArray[np.int64]
    texts_at: NDArray[np.int64]
    rewrite: bool
    cover: Cover | None
    folder: IndexFolder | None = None
    rewritten: RowTable | None = None
    segment: Segment | None = None
    stopped: bool = False

    def build(self) -> Compaction:
        """Does the work; on any thread."""
        table, size, rows = self.table, self.size, self.rows
        if self.rewrite:
            table = self.rewritten = self._rewritten()
            size, rows = table.size, np.arange(table.size)
        if self.cover:
            self.segment = retry_out_of_memory(self.cover, table, size, rows, self._between)
        return self

    def _rewritten(self) -> RowTable:
        size = self.table.vector_bytes(len(self.rows))
        files = self.folder.create(size) if self.folder else None
        return self.table.rewritten(self.rows, self.texts_at, self._between, files)

    def _between(self) -> None:
        heartbeat()
        if self.stopped:
            raise CancelledError
