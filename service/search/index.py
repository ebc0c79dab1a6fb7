"""The index of one gallery: a table of exact vectors, and faster proposals of the nearest of them.

It is derived from the record and belongs to one thread. The table is the only full copy of the
vectors, and it grows without moving; exact search reads it in place. Beside it there may be a
segment over the first rows, which only proposes rows: trained lists (`IvfSegment`, large galleries
on a processor), or a copy on the networks' device (`DeviceVectors`), which float16 halves. The rows
after it are its delta and are searched exactly; a compaction covers them anew.

Proposals are masked by row, never by an `IDSelector`, which FAISS's GPU indexes accept and ignore,
and scored once more in float64.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterable
from concurrent.futures import CancelledError
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from service.engine.device import retry_out_of_memory
from service.errors import DeviceFull
from service.ops.health import heartbeat
from service.record.records import IndexedCrop
from service.search.gpu import DeviceVectors
from service.search.ivf import IvfSegment
from service.search.table import Filter, RowTable

log = logging.getLogger(__name__)
Segment = IvfSegment | DeviceVectors
Cover = Callable[[RowTable, int, NDArray[np.int64], Callable[[], None]], Segment]
ROWS_PER_CHUNK = 8192
BLOCK_ROWS = 4096
EXACT_ROWS = 1024
# Float32 sums differ in their last digits from one way of searching to another. Rows this close to
# the last place are scored exactly before the cut, so that ties are cut by age.
TOLERANCE = 1e-5
# A trained segment is asked for a few more than are wanted: float16 may swap neighbours.
MARGIN = 16
# Of a larger share of its rows an exact search is as quick.
TRAINED_SHARE = 0.1
# A trained segment is asked for so many crops for each group that is wanted.
CROPS_PER_GROUP = 100


@dataclass(frozen=True)
class IndexLimits:
    """When an index changes how it searches, and when it is worth rewriting.

    Attributes:
        trained_rows: from so many valid crops on a processor searches through a trained segment.
        float16_rows: from so many on the device's copy is float16.
        deleted_rows, deleted_share: deleted rows, at least so many and above this share of all.
        delta_rows, delta_share: rows that a segment does not cover, above both, the second a share
            of those that it covers.
    """

    trained_rows: float = 500_000
    float16_rows: float = 1_000_000
    deleted_rows: int = 64
    deleted_share: float = 0.2
    delta_rows: int = 1024
    delta_share: float = 0.05


@dataclass(frozen=True)
class Candidates:
    """The best of a search, by cosine downwards and, where equal, by age.

    Attributes:
        rows: row numbers, `(n,)`.
        cosines: mean cosine to the queries, `(n,)` float32.
        searched: the number of crops that passed the filter.
    """

    rows: NDArray[np.int64]
    cosines: NDArray[np.float32]
    searched: int

    def __getitem__(self, places: slice | NDArray[np.int64]) -> Candidates:
        """Some of them."""
        return Candidates(self.rows[places], self.cosines[places], self.searched)

    def extended(self, deeper: Candidates, most: int | None = None) -> Candidates:
        """These, then up to `most` others of a deeper search."""
        new = deeper[np.flatnonzero(~np.isin(deeper.rows, self.rows))[:most]]
        rows = np.concatenate([self.rows, new.rows])
        return Candidates(rows, np.concatenate([self.cosines, new.cosines]), self.searched)


@dataclass
class Compaction:
    """What to rewrite of an index, and once it is built the outcome.

    Attributes:
        table: the index's own, read without being changed.
        size: the number of its rows.
        rows: the valid ones, ascending.
        rewrite: whether to make a table without the deleted ones.
        cover: makes a segment over the first rows of a table.
        rewritten, segment: the outcome.
        stopped: whether `build` is to end at its next step.
    """

    table: RowTable
    size: int
    rows: NDArray[np.int64]
    rewrite: bool
    cover: Cover | None
    rewritten: RowTable | None = None
    segment: Segment | None = None
    stopped: bool = False

    def build(self) -> Compaction:
        """Does the work; on any thread."""
        table, size, rows = self.table, self.size, self.rows
        if self.rewrite:
            table = self.rewritten = table.rewritten(rows, self._between)
            size, rows = table.size, np.arange(table.size)
        if self.cover:
            self.segment = retry_out_of_memory(self.cover, table, size, rows, self._between)
        return self

    def _between(self) -> None:
        heartbeat()
        if self.stopped:
            raise CancelledError


class GalleryIndex:
    """Vectors of one gallery, ready to be searched.

    The same search gives the same rows and the same cosines with a filter and without, on every
    device, before and after a compaction. Only a trained segment, where `recall` is not None, may
    miss some in a search without a filter.
    """

    def __init__(
        self, dimension: int, limits: IndexLimits | None = None, block_rows: int = BLOCK_ROWS
    ) -> None:
        """An empty index of features `(d,)`; its table takes memory for `block_rows` at a time."""
        self.dimension = dimension
        self.table = RowTable(dimension, block_rows)
        self._limits = limits or IndexLimits()
        self._segment: Segment | None = None

    @property
    def kind(self) -> str:
        """What searches without a filter go through, in FAISS's words."""
        return "ivf_flat" if self.recall is not None else "flat_ip"

    @property
    def dtype(self) -> str:
        """The type that proposals are compared in; their cosines are exact."""
        return self._segment.dtype if self._segment else "float32"

    @property
    def recall(self) -> float | None:
        """Measured share of the ten nearest that a search without filter finds; None: all."""
        return self._segment.recall if self._segment else None

    @property
    def bytes(self) -> int:
        """Memory of the vectors: the table's and a segment's."""
        segment = self._segment.bytes if self._segment else 0
        return self.table.size * self.dimension * 4 + segment

    def add(self, crops: Iterable[IndexedCrop]) -> None:
        """Makes crops findable."""
        arriving = iter(crops)
        while chunk := list(itertools.islice(arriving, ROWS_PER_CHUNK)):
            self.table.append(chunk)
            heartbeat()

    def remove(self, row_ids: Iterable[int]) -> None:
        """Makes crops unfindable, at once."""
        found = [row for row in map(self.table.mark_deleted, row_ids) if row is not None]
        if self._segment:
            self._segment.mark_deleted(np.array(found, np.int64))

    def search(
        self, queries: NDArray[np.float32], limit: int, wanted: Filter | None = None
    ) -> Candidates:
        """The `limit` crops with the highest mean cosine to the queries.

        Args:
            queries: features `(m, d)` of one person, not of unit length.
            limit: the number of crops at most.
            wanted: which crops may be returned, all by default.
        """
        wanted = wanted or Filter()
        query = _mean_direction(queries)
        passing = self.table.select(wanted)
        rows = self._nearest(passing, query.astype(np.float32), limit, wanted.passes_all)
        return self._scored(rows, query, len(passing))[:limit]

    def search_groups(
        self, queries: NDArray[np.float32], limit: int, wanted: Filter | None = None
    ) -> Candidates:
        """The nearest crop of each of the `limit` nearest identities, in one pass.

        A crop without an identity is a group of its own. The arguments are those of `search`. The
        pass is exact, but where a trained segment proposes enough crops of as many identities.
        """
        wanted = wanted or Filter()
        proposed = limit * CROPS_PER_GROUP
        if self.recall is not None and wanted.passes_all and self._is_small(proposed):
            found = self.search(queries, proposed)
            first = self.table.first_of_groups(found.rows)
            if len(first) >= limit:
                return found[first[:limit]]
        query = _mean_direction(queries)
        passing = self.table.select(wanted)
        products = self.table.vectors.products(passing, query.astype(np.float32))
        scores = products / self.table.norms[passing]
        _, group = np.unique(self.table.groups[passing], return_inverse=True)
        best = np.full(group.max(initial=-1) + 1, -np.inf, np.float32)
        np.maximum.at(best, group, scores)
        last = np.partition(best, -limit)[-limit] if len(best) > limit else -np.inf
        rows = passing[scores >= np.maximum(best[group], last) - TOLERANCE]
        found = self._scored(rows, query, len(passing))
        return found[self.table.first_of_groups(found.rows)[:limit]]

    def identities(self, wanted: Filter) -> int:
        """The number of identities that a search covers; a crop without one counts by itself.

        Single crops that are left out are counted still.
        """
        wanted = replace(wanted, without=frozenset())
        if wanted.passes_all:
            return self.table.identities
        return len(np.unique(self.table.groups[self.table.select(wanted)]))

    def compaction(self, device: torch.device | None = None) -> Compaction | None:
        """What is to be rewritten beside this index; None: nothing.

        Args:
            device: of the networks, where that is no processor.
        """
        table, limits = self.table, self._limits
        deleted = table.size - table.valid_count
        rewrite = deleted >= limits.deleted_rows and deleted > limits.deleted_share * table.size
        cover: Cover | None = None
        if device:
            half = table.valid_count >= limits.float16_rows
            cover = partial(DeviceVectors, device, torch.float16 if half else torch.float32)
        elif table.valid_count >= limits.trained_rows:
            cover = IvfSegment.train
        covered = self._segment.size if self._segment else 0
        outgrown = table.size - covered > max(limits.delta_rows, limits.delta_share * covered)
        if not rewrite and not (outgrown and (cover or self._segment)):
            return None
        rows = np.flatnonzero(table.valid[: table.size])
        return Compaction(table, table.size, rows, rewrite, cover)

    def replace(self, built: Compaction) -> None:
        """Replaces what was rewritten, in one step, and applies what has changed since.

        What was planned of a table that is no longer searched is left out.

        Raises:
            MemoryError: everything stays as it was.
        """
        if built.table is not self.table:
            return
        deleted = built.rows[~self.table.valid[built.rows]]
        if built.rewritten:
            deleted = built.rewritten.catch_up(self.table, built.size)
            self.table = built.rewritten
        self._segment = built.segment
        if self._segment:
            self._segment.mark_deleted(deleted)

    def _nearest(
        self, passing: NDArray[np.int64], query: NDArray[np.float32], limit: int, everything: bool
    ) -> NDArray[np.int64]:
        """Rows among which the nearest are."""
        if len(passing) <= limit:
            return passing
        segment, found = self._segment, None
        covered = np.searchsorted(passing, segment.size) if segment else 0
        if isinstance(segment, DeviceVectors):
            try:
                found = retry_out_of_memory(segment.nearest, query, limit, passing[:covered])
            except DeviceFull:
                # Other work on the device may end; the next search tries again.
                log.warning("the device has no memory for a search; it is done in the host's")
        elif segment and everything and self._is_small(limit):
            found = segment.nearest(query, limit + MARGIN)
            found = found[self.table.valid[found]]
            # Where deletions left too few, all are looked at.
            found = found if len(found) >= limit else None
        if found is None:
            return self._nearest_of(passing, query, limit)
        return np.concatenate([found, self._nearest_of(passing[covered:], query, limit)])

    def _is_small(self, limit: int) -> bool:
        return self._segment is not None and limit <= TRAINED_SHARE * self._segment.size

    def _nearest_of(
        self, rows: NDArray[np.int64], query: NDArray[np.float32], limit: int
    ) -> NDArray[np.int64]:
        if len(rows) <= limit:
            return rows
        scores = self.table.vectors.products(rows, query) / self.table.norms[rows]
        last = np.partition(scores, len(rows) - limit)[len(rows) - limit]
        return np.asarray(rows[scores >= last - TOLERANCE], np.int64)

    def _scored(
        self, rows: NDArray[np.int64], query: NDArray[np.float64], searched: int
    ) -> Candidates:
        """Rows with their exact cosines, in order."""
        cosines = np.empty(len(rows), np.float32)
        for start in range(0, len(rows), EXACT_ROWS):
            part = slice(start, start + EXACT_ROWS)
            vectors = self.table.vectors[rows[part]].astype(np.float64)
            # einsum sums every row alone; a matrix product's last digits depend on its height.
            products = np.einsum("rd,d->r", vectors, query)
            norms = np.sqrt(np.einsum("rd,rd->r", vectors, vectors))
            cosines[part] = products / np.maximum(norms, 1e-12)
        found = Candidates(rows, np.clip(cosines, -1.0, 1.0), searched)
        return found[np.lexsort((self.table.row_ids[rows], -found.cosines))]


def _mean_direction(queries: NDArray[np.float32]) -> NDArray[np.float64]:
    units = queries.astype(np.float64)
    units /= np.maximum(np.linalg.norm(units, axis=1, keepdims=True), 1e-12)
    return np.asarray(units.mean(axis=0), np.float64)
