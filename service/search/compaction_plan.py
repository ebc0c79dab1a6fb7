"""Plans for rewriting an index: a table without deleted rows, and a segment over its rows."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import CancelledError
from dataclasses import dataclass
from typing import TYPE_CHECKING, Union

from service.engine.device import retry_out_of_memory
from service.ops.health import heartbeat
from service.search.arrays import Rows
from service.search.product_codes import ProductCodes
from service.search.table import RowTable

if TYPE_CHECKING:
    from service.search.gpu import DeviceVectors

Segment = Union[ProductCodes, "DeviceVectors"]
Cover = Callable[[RowTable, Rows, Callable[[], None]], Segment]


@dataclass
class Compaction:
    """The parts of an index to rewrite.

    Attributes:
        table: the index's own, read without being changed.
        size: the number of its rows.
        rows: the rows that stay, ascending; the segment covers them in this order.
        rewrite: whether to make a table without the others.
        cover: makes the segment over the rows of a table.
        segment: the outcome.
        stopped: whether `build` is to end at its next step.
    """

    table: RowTable
    size: int
    rows: Rows
    rewrite: bool
    cover: Cover | None
    segment: Segment | None = None
    stopped: bool = False

    def build(self) -> Compaction:
        """Do the work; on any thread."""
        if self.cover:
            self.segment = retry_out_of_memory(self.cover, self.table, self.rows, self._between)
        return self

    def _between(self) -> None:
        heartbeat()
        if self.stopped:
            raise CancelledError
