"""The first rows of a table in 8-bit integers, which are scanned to propose the nearest.

They have a quarter of the bytes, and suit any distribution of the vectors: there are no lists or
graphs to search in part. A product is off by about a thousandth, so that more rows are proposed
than are wanted, to be scored once more exactly.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from service.search.arrays import inner_products
from service.search.table import RowTable

HIGHEST = 127
# The code that stands for zero.
ZERO = 128
# More threads than this wait for the memory.
MOST_SHARDS = 8
# The largest component among so many rows sets the scale; the few that are larger are cut.
SCALE_SAMPLE = 16_384
# So many rows are proposed for one that is wanted, and so many more.
PROPOSED_SHARE, PROPOSED_MORE = 1.5, 64
# One scan finds so many at least: enough for the deepest search of one query.
SCANNED_FOR = 2500
# Worth its memory from such a recall on, and below such a share of an exact scan's time.
LEAST_RECALL, MOST_TIME = 0.99, 1.0
# Recall and time are measured with so many stored crops as queries, on their nearest others.
RECALL_SAMPLE = 100
RECALL_DEPTH = 100
# Which of two others with cosines closer than this was found makes no difference.
TOLERANCE = 1e-5

# A query, and the rows that it was proposed.
Proposed = tuple[NDArray[np.float32], NDArray[np.int64]]
NO_QUERY: Proposed = np.empty(0, np.float32), np.empty(0, np.int64)


class QuantizedRows:
    """Proposes the nearest rows; a position is a row.

    Immutable, but that deleted rows are zeroed, so that they leave the memory.

    Attributes:
        size: how many rows it covers, with deleted ones.
        recall: the measured mean share of the 100 nearest other crops that is found, 0 to 1; None
            where too few were found, or not sooner than exactly: then it keeps no codes.
    """

    def __init__(
        self, table: RowTable, size: int, valid: NDArray[np.int64], between: Callable[[], None]
    ) -> None:
        """Quantizes the first `size` rows, then measures recall and time on them.

        It takes `d` bytes a row, the final size, from the start on; beside that some blocks of the
        table.

        Args:
            size: how many rows to cover.
            valid: those among them from which the samples are drawn, ascending.
            between: called now and then; an error of it ends this.
        """
        self.size = size
        self.recall: float | None = None
        # Each shard is scanned by a thread of FAISS's own.
        self._shards: Any = faiss.IndexShards(table.dimension, True, True)  # type: ignore[call-arg]
        self._codes: list[NDArray[np.uint8]] = []
        self._last = NO_QUERY
        random = np.random.default_rng(0)
        scaled, asked = (
            np.sort(random.choice(valid, min(len(valid), count), replace=False, shuffle=False))
            for count in (SCALE_SAMPLE, RECALL_SAMPLE)
        )
        self._quantize(table, float(np.abs(table.units(scaled)).max(initial=0.0)), between)
        recall, share_of_time = self._measure(table, asked, valid, between)
        if recall >= LEAST_RECALL and share_of_time < MOST_TIME:
            self.recall = recall
        else:
            self._shards, self._codes = None, []
        self._last = NO_QUERY

    @property
    def dtype(self) -> str:
        """What is scanned."""
        return "float32" if self.recall is None else "int8"

    @property
    def bytes(self) -> int:
        """Memory of the codes."""
        return sum(codes.nbytes for codes in self._codes)

    def nearest(self, query: NDArray[np.float32], limit: int) -> NDArray[np.int64]:
        """Rows among which nearly all of the `limit` nearest are; deleted ones may be among them.

        Args:
            query: `(d,)`, of any length.
        """
        proposed = int(PROPOSED_SHARE * limit) + PROPOSED_MORE
        asked, rows = self._last
        # A query whose candidates show too few people searches once more, deeper.
        if len(rows) < min(proposed, self.size) or not np.array_equal(asked, query):
            integers = _integers(query, float(np.abs(query).max()))
            _, (found,) = self._shards.search(
                integers[None], min(max(proposed, SCANNED_FOR), self.size)
            )
            rows = np.asarray(found[found >= 0], np.int64)
            self._last = query, rows
        return rows[:proposed]

    def mark_deleted(self, rows: NDArray[np.int64]) -> None:
        """Zeroes rows; those that it does not cover are ignored."""
        self._last = NO_QUERY
        for codes in self._codes:
            codes[rows[(rows >= 0) & (rows < len(codes))]] = ZERO
            rows = rows - len(codes)

    def _quantize(self, table: RowTable, largest: float, between: Callable[[], None]) -> None:
        dimension = table.dimension
        each = -(-self.size // min(faiss.omp_get_max_threads(), MOST_SHARDS))
        for start in range(0, self.size, each):
            shard = faiss.IndexScalarQuantizer(
                dimension,
                faiss.ScalarQuantizer.QT_8bit_direct_signed,
                faiss.METRIC_INNER_PRODUCT,
            )
            shard.ntotal = min(each, self.size - start)
            # At once, since a growing array would be copied.
            shard.codes.resize(shard.ntotal * dimension)
            codes = faiss.rev_swig_ptr(shard.codes.data(), shard.ntotal * dimension)
            self._codes.append(codes.reshape(shard.ntotal, dimension))
            self._shards.add_shard(shard)
        for part, units in table.unit_parts(self.size):
            between()
            integers = (_integers(units, largest) + ZERO).astype(np.uint8)
            for first, codes in zip(range(0, self.size, each), self._codes, strict=True):
                rows = slice(max(part.start, first), min(part.stop, first + len(codes)))
                if rows.start < rows.stop:
                    codes[rows.start - first : rows.stop - first] = integers[
                        rows.start - part.start : rows.stop - part.start
                    ]

    def _measure(
        self,
        table: RowTable,
        asked: NDArray[np.int64],
        valid: NDArray[np.int64],
        between: Callable[[], None],
    ) -> tuple[float, float]:
        """Recall on stored crops as queries, and the time as a share of that of exact scans."""
        wanted = min(RECALL_DEPTH, len(valid) - 1)
        if wanted <= 0:
            return 0.0, 1.0
        kept = np.zeros(self.size, np.bool_)
        kept[valid] = True
        hits, exact_seconds, seconds = 0, list[float](), list[float]()
        for row, unit in zip(asked.tolist(), table.units(asked), strict=True):
            between()
            began = time.perf_counter()
            cosines = inner_products(table.vectors, valid, unit) / table.norms[valid]
            # One more: the nearest is the crop itself, or one that equals it.
            last = np.partition(cosines, -wanted - 1)[-wanted - 1]
            scanned = time.perf_counter()
            found = self.nearest(unit, wanted + 1)
            cosines = table.units(found) @ unit
            ended = time.perf_counter()
            exact_seconds.append(scanned - began)
            seconds.append(ended - scanned)
            nearer = (cosines >= last - TOLERANCE) & (found != row) & kept[found]
            hits += min(int(np.count_nonzero(nearer)), wanted)
        share_of_time = float(np.median(seconds) / np.median(exact_seconds))
        return hits / (wanted * len(asked)), share_of_time


def _integers(vectors: NDArray[np.float32], largest: float) -> NDArray[np.float32]:
    """Vectors `(..., d)` as whole numbers from -127 to 127, which `largest` becomes."""
    scaled = np.rint(vectors * (HIGHEST / max(largest, 1e-12)))
    return np.asarray(np.clip(scaled, -HIGHEST, HIGHEST), np.float32)
