"""Rewriting an index aside: planned on its own thread, built on another, adopted on its own.

A plan is a snapshot that stays readable: rows are appended and zeroed in place, never moved, so
building works on the live table and `adopt` mends what was removed, added or relabelled meanwhile.
While a table is rewritten there are two of it, the old one and one of its living rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.search.ivf_segment import IvfSegment
from service.search.rows import RowTable


class CompactionStopped(Exception):
    """Nobody wants the outcome any more."""


@dataclass(frozen=True)
class BuiltCompaction:
    """What an index may adopt; a table of None means that it keeps its own."""

    plan: CompactionPlan
    table: RowTable | None
    trained: IvfSegment | None


@dataclass(frozen=True)
class CompactionPlan:
    """What to rewrite.

    Attributes:
        table: the index's own, read without being changed.
        size: how many rows it had.
        rows: those that lived, ascending.
        rewrite: whether to make a table without the dead ones.
        train: whether to train a segment.
        generation: of the index that planned; one that has moved on refuses the outcome.
    """

    table: RowTable
    size: int
    rows: NDArray[np.int64]
    rewrite: bool
    train: bool
    generation: int

    def build(self, stopped: Callable[[], bool] = lambda: False) -> BuiltCompaction:
        """Does the work; on whichever thread.

        Args:
            stopped: asked between the steps whether to give up.

        Raises:
            CompactionStopped: where it said so.
            MemoryError: nothing has changed.
        """

        def between() -> None:
            if stopped():
                raise CompactionStopped

        table, rows = None, self.rows
        if self.rewrite:
            table = self.table.rewritten(self.rows, between)
            rows = np.arange(len(self.rows))
        if not self.train:
            return BuiltCompaction(self, table, None)
        source = table or self.table
        size = len(rows) if self.rewrite else self.size
        trained = IvfSegment.train(source.vectors, source.norms, size, rows, between)
        return BuiltCompaction(self, table, trained)
