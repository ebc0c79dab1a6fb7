"""The index of one gallery: a table of exact vectors, and what finds the nearest of them quickly.

It is derived from the record store and belongs to one thread. The table is the only full copy of
the vectors, and it grows without moving; exact search reads it in place, so there is no segment to
keep in step with it. Beside it there may be one of two things that only propose rows:

- an immutable trained segment over the first rows (`IvfSegment`, large galleries on a processor).
  The rows after it are its delta and are searched exactly; a compaction covers them anew.
- a copy on the networks' device (`DeviceRows`), to which rows are appended.

Whatever is proposed is masked by row, never by an `IDSelector`, which FAISS's GPU indexes accept
and ignore, and scored once more in float64.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from service.ops.health import heartbeat
from service.record.records import IndexedCrop
from service.search.compaction import BuiltCompaction, CompactionPlan
from service.search.device_rows import DeviceRows
from service.search.index_kinds import (
    DEVICE_KINDS,
    HOST_KINDS,
    IndexKind,
    UpkeepLimits,
    kind_for,
)
from service.search.ivf_segment import IvfSegment
from service.search.rows import Filter, RowTable
from service.search.vector_blocks import BLOCK_ROWS

log = logging.getLogger(__name__)
ROWS_PER_CHUNK = 8192
EXACT_ROWS = 1024
# Float32 sums differ in their last digits from one way of searching to another. Whatever comes so
# close to the last place is scored exactly before the cut, so that ties are cut by age.
TOLERANCE = 1e-5
# A trained segment is asked for a few more than are wanted: float16 may swap neighbours.
MARGIN = 16
# Of a larger share of its rows an exact search is as quick.
TRAINED_SHARE = 0.1
# A trained segment is asked for so many crops for each group that is wanted.
CROPS_PER_GROUP = 100


@dataclass(frozen=True)
class Candidates:
    """The best of a search, by cosine downwards and, where equal, by age.

    Attributes:
        rows: row numbers, `(n,)`.
        cosines: mean cosine to the queries, `(n,)` float32.
        searched: how many crops passed the filter.
    """

    rows: NDArray[np.int64]
    cosines: NDArray[np.float32]
    searched: int

    def first(self, count: int) -> Candidates:
        """The best of them."""
        return Candidates(self.rows[:count], self.cosines[:count], self.searched)


class GalleryIndex:
    """Vectors of one gallery, ready to be searched.

    The same search gives the same rows and the same cosines whether it is filtered or not, on
    whichever device, before and after a compaction. Only a trained segment, where `recall` is not
    None, may miss some in a search without a filter.
    """

    def __init__(
        self,
        dimension: int,
        kinds: Sequence[IndexKind] = HOST_KINDS,
        limits: UpkeepLimits | None = None,
        block_rows: int = BLOCK_ROWS,
    ) -> None:
        """An empty index.

        Args:
            dimension: d, the size of a feature.
            kinds: how it is searched at which size, ascending.
            limits: when a compaction is worth its while.
            block_rows: how many rows the table takes memory for at a time.
        """
        self.dimension = dimension
        self.table = RowTable(dimension, block_rows)
        self._kinds = kinds
        self._limits = limits or UpkeepLimits()
        self._trained: IvfSegment | None = None
        self._device: DeviceRows | None = None
        self._generation = 0

    @property
    def kind(self) -> str:
        """What searches without a filter go through, in FAISS's words."""
        return "ivf_flat" if self._trained else "flat_ip"

    @property
    def dtype(self) -> str:
        """What proposes candidates compares in; their cosines are exact."""
        if self._trained:
            return "float16"
        return self._device.dtype if self._device else "float32"

    @property
    def recall(self) -> float | None:
        """Measured share of the ten nearest that a search without filter finds; None: all."""
        return self._trained.recall.at_10 if self._trained else None

    @property
    def recall_at_100(self) -> float | None:
        """The same of the hundred nearest."""
        return self._trained.recall.at_100 if self._trained else None

    @property
    def bytes(self) -> int:
        """Memory of the vectors: the table's, a trained segment's and the device's."""
        beside = sum(part.bytes for part in (self._trained, self._device) if part)
        return self.table.size * self.dimension * 4 + beside

    @property
    def on_device(self) -> bool:
        """Whether the vectors are also where the networks compute."""
        return self._device is not None

    def attach(self, device: DeviceRows, kinds: Sequence[IndexKind] = DEVICE_KINDS) -> None:
        """Searches on a device from now on.

        Args:
            device: without rows yet.
            kinds: how it is searched at which size, ascending.

        Raises:
            MemoryError: the device is too small; everything stays as it was.
        """
        if kind_for(self.table.live, kinds).dtype == "float16":
            device.halve()
        for start, part in self.table.vectors.parts(self.table.size):
            device.append(part / self.table.norms[start : start + len(part), None])
            heartbeat()
        device.forget(np.flatnonzero(~self.table.alive[: self.table.size]))
        self._device, self._kinds, self._trained = device, kinds, None
        self._generation += 1

    def add(self, crops: Iterable[IndexedCrop]) -> None:
        """Makes crops findable."""
        arriving = iter(crops)
        while chunk := list(itertools.islice(arriving, ROWS_PER_CHUNK)):
            self._append(chunk)
            heartbeat()

    def remove(self, row_ids: Iterable[int]) -> None:
        """Makes crops unfindable, at once."""
        killed = [row for row in map(self.table.kill, row_ids) if row is not None]
        self._forget(np.array(killed, np.int64))

    def search(
        self, queries: NDArray[np.float32], limit: int, wanted: Filter | None = None
    ) -> Candidates:
        """The `limit` crops with the highest mean cosine to the queries.

        Args:
            queries: features `(m, d)` of one person, not of unit length.
            limit: how many at most.
            wanted: which crops may be returned, all by default.
        """
        wanted = wanted or Filter()
        query = _mean_direction(queries)
        passing = self.table.select(wanted)
        rows = self._nearest(passing, query.astype(np.float32), limit, wanted.passes_all)
        cosines = self._exact_cosines(rows, query)
        order = np.lexsort((self.table.row_ids[rows], -cosines))[:limit]
        return Candidates(rows[order], cosines[order], len(passing))

    def search_groups(
        self, queries: NDArray[np.float32], limit: int, wanted: Filter | None = None
    ) -> Candidates:
        """The nearest crop of each of the `limit` nearest identities, in one pass.

        A crop without an identity is a group of its own. The arguments are those of `search`. The
        pass is exact, but where a trained segment proposes enough crops of as many identities.
        """
        wanted = wanted or Filter()
        proposed = limit * CROPS_PER_GROUP
        if self._trained and wanted.passes_all and proposed <= TRAINED_SHARE * self._trained.size:
            found = self.search(queries, proposed)
            first = first_of_each(self.table.groups[found.rows])[:limit]
            if len(first) == limit:
                return replace(found, rows=found.rows[first], cosines=found.cosines[first])
        query = _mean_direction(queries)
        passing = self.table.select(wanted)
        if len(passing) == 0:
            return Candidates(passing, np.empty(0, np.float32), 0)
        products = self.table.vectors.products(passing, query.astype(np.float32))
        scores = products / self.table.norms[passing]
        _, group = np.unique(self.table.groups[passing], return_inverse=True)
        best = np.full(group.max() + 1, -np.inf, np.float32)
        np.maximum.at(best, group, scores)
        last = np.partition(best, -limit)[-limit] if len(best) > limit else -np.inf
        rows = passing[scores >= np.maximum(best[group], last) - TOLERANCE]
        cosines = self._exact_cosines(rows, query)
        order = np.lexsort((self.table.row_ids[rows], -cosines))
        first = first_of_each(self.table.groups[rows[order]])[:limit]
        return Candidates(rows[order][first], cosines[order][first], len(passing))

    def identities(self, wanted: Filter) -> int:
        """How many identities a search covers; a crop without one counts by itself.

        Single crops that are left out are counted still.
        """
        wanted = replace(wanted, without=frozenset())
        if wanted.passes_all:
            return self.table.identities
        return len(np.unique(self.table.groups[self.table.select(wanted)]))

    def compaction(self) -> CompactionPlan | None:
        """What is to be rewritten beside this index, on whichever thread; None: nothing."""
        table, limits = self.table, self._limits
        dead = table.size - table.live
        rewrite = dead >= limits.dead_rows and dead > limits.dead_share * table.size
        trained = kind_for(table.live, self._kinds).trained
        covered = self._trained.size if self._trained else 0
        delta_limit = max(limits.delta_rows, limits.delta_share * covered)
        outgrown = table.size - covered > delta_limit
        if not rewrite and not (outgrown and (trained or self._trained)):
            return None
        rows = np.flatnonzero(table.alive[: table.size])
        return CompactionPlan(table, table.size, rows, rewrite, trained, self._generation)

    def adopt(self, built: BuiltCompaction) -> bool:
        """Replaces what was rewritten, in one step, and brings in what has changed since.

        Returns:
            Whether it did: not where the index was replaced meanwhile or memory is short.
        """
        plan, table, trained = built.plan, built.table, built.trained
        if plan.generation != self._generation:
            return False
        if table is None:
            deleted = plan.rows[~self.table.alive[plan.rows]]
        else:
            try:
                deleted, added = table.catch_up(self.table, plan.rows, plan.size)
            except MemoryError:
                log.exception("too little memory to compact an index; it stays as it is")
                return False
            self._keep_on_device(np.concatenate([plan.rows, added]))
            self.table = table
        self._trained = trained
        self._generation += 1
        self._forget(deleted)
        return True

    def _append(self, crops: Sequence[IndexedCrop]) -> None:
        # Whatever can fail for want of memory comes before the first change.
        self.table.reserve(len(crops))
        first = self.table.size
        self.table.append(crops)
        if self._device is None:
            return
        vectors = np.stack([crop.vector for crop in crops]).astype(np.float32)
        try:
            self._device.append(vectors / self.table.norms[first : self.table.size, None])
            self._halve_if_large()
        except MemoryError:
            self._leave_device()

    def _keep_on_device(self, rows: NDArray[np.int64]) -> None:
        if self._device is None:
            return
        try:
            self._device.keep(rows)
        except MemoryError:
            self._leave_device()

    def _leave_device(self) -> None:
        log.exception("the device is full; searches go on in the host's memory")
        self._device, self._kinds = None, HOST_KINDS

    def _halve_if_large(self) -> None:
        wanted = kind_for(self.table.live, self._kinds).dtype
        if self._device and wanted == "float16" and self._device.dtype != wanted:
            self._device.halve()

    def _forget(self, rows: NDArray[np.int64]) -> None:
        if self._trained:
            self._trained.forget(rows)
        if self._device:
            self._device.forget(rows)

    def _nearest(
        self, passing: NDArray[np.int64], query: NDArray[np.float32], limit: int, everything: bool
    ) -> NDArray[np.int64]:
        """Rows among which the nearest are."""
        if len(passing) <= limit:
            return passing
        if everything and self._trained and limit <= TRAINED_SHARE * self._trained.size:
            found = self._trained.nearest(query, limit + MARGIN)
            found = found[self.table.alive[found]]
            # Where deletions left too few, all are looked at.
            if len(found) >= limit:
                delta = passing[np.searchsorted(passing, self._trained.size) :]
                return np.concatenate([found, self._nearest_of(delta, query, limit)])
        if self._device:
            try:
                return self._device.nearest(query, limit, None if everything else passing)
            except MemoryError:
                # What else is on the device may go; the next search tries again.
                log.warning("the device has no memory for a search; it is done in the host's")
        return self._nearest_of(passing, query, limit)

    def _nearest_of(
        self, rows: NDArray[np.int64], query: NDArray[np.float32], limit: int
    ) -> NDArray[np.int64]:
        if len(rows) <= limit:
            return rows
        scores = self.table.vectors.products(rows, query) / self.table.norms[rows]
        last = np.partition(scores, len(rows) - limit)[len(rows) - limit]
        return np.asarray(rows[scores >= last - TOLERANCE], np.int64)

    def _exact_cosines(
        self, rows: NDArray[np.int64], query: NDArray[np.float64]
    ) -> NDArray[np.float32]:
        cosines = np.empty(len(rows), np.float32)
        for start in range(0, len(rows), EXACT_ROWS):
            part = slice(start, start + EXACT_ROWS)
            vectors = self.table.vectors[rows[part]].astype(np.float64)
            # einsum sums every row alone; a matrix product's last digits depend on its height.
            products = np.einsum("rd,d->r", vectors, query)
            norms = np.sqrt(np.einsum("rd,rd->r", vectors, vectors))
            cosines[part] = products / np.maximum(norms, 1e-12)
        return np.clip(cosines, -1.0, 1.0)


def first_of_each(groups: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where each value occurs for the first time, ascending."""
    return np.sort(np.unique(groups, return_index=True)[1])


def _mean_direction(queries: NDArray[np.float32]) -> NDArray[np.float64]:
    units = queries.astype(np.float64)
    units /= np.maximum(np.linalg.norm(units, axis=1, keepdims=True), 1e-12)
    return np.asarray(units.mean(axis=0), np.float64)
