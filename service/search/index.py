"""The index of one gallery: a table of exact vectors, and faster proposals of the nearest of them.

It is derived from the record and belongs to one thread. Exact search reads the vectors in place in
the record's file, which is mapped. Beside the table there may be a segment over its first rows,
which only proposes rows: product codes (`ProductCodes`, large galleries on a processor), or a copy
on the networks' device (`DeviceVectors`), which float16 halves. The rows after it are its delta and
are searched exactly; a compaction covers them anew.

Proposals are masked by row, never by an `IDSelector`, which FAISS's GPU indexes accept and ignore,
and scored once more in float64.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from service.engine.device import retry_out_of_memory
from service.errors import DeviceFull
from service.record.crop_rows import CropColumns
from service.record.vectors import VectorFile
from service.search.candidates import Candidates, mean_direction, scored
from service.search.compaction_plan import Compaction, Cover, Segment
from service.search.filters import EVERY_CROP, Filter
from service.search.metadata import ReadMetadata
from service.search.product_codes import ProductCodes
from service.search.table import RowTable, no_metadata

log = logging.getLogger(__name__)
# Float32 sums differ in their last digits from one way of searching to another. Rows this close to
# the last place are scored exactly before the cut, so that ties are cut by age.
TOLERANCE = 1e-5
# Of a larger share of its rows an exact search is as quick.
PROPOSED_SHARE = 0.1
# Number of crops that product codes are asked for, for each wanted group.
CROPS_PER_GROUP = 100
# From so many valid crops on a processor proposes from product codes, where these save time, and
# the copy of a device is float16.
CODED_ROWS = 500_000
FLOAT16_ROWS = 1_000_000
# A table is rewritten once this number and this share of its rows are deleted, and a segment once
# as many rows lie beyond it.
DELETED_ROWS = 64
DELETED_SHARE = 0.2
DELTA_ROWS = 1024
DELTA_SHARE = 0.05


class GalleryIndex:
    """Vectors of one gallery, ready to be searched.

    The same search gives the same rows and the same cosines with a filter and without, on every
    device, before and after a compaction. Only product codes, where `recall` is not None, may
    miss some in a search without a filter.
    """

    # Whether `identities` follows a filter.
    counts_filtered = True

    def __init__(
        self,
        dimension: int,
        secret: bytes = b"",
        metadata: ReadMetadata = no_metadata,
    ) -> None:
        """Make an empty index of features `(d,)`.

        Args:
            secret: the record's, under which identities become group codes.
            metadata: reads the metadata of crops by slot, for filters.
        """
        self.dimension = dimension
        self.table = RowTable(dimension, secret, metadata)
        self._segment: Segment | None = None

    @property
    def kind(self) -> str:
        """What searches without a filter go through, in FAISS's words."""
        return "pq4" if self.recall is not None else "flat_ip"

    @property
    def dtype(self) -> str:
        """The type that proposals are compared in; their cosines are exact."""
        return self._segment.dtype if self._segment else "float32"

    @property
    def recall(self) -> float | None:
        """Measured share of the 100 nearest that a search without filter finds; None: all."""
        return self._segment.recall if self._segment else None

    @property
    def count(self) -> int:
        return self.table.valid_count

    @property
    def bytes(self) -> int:
        """The bytes of the vectors that a search reads: the mapped ones and a segment's."""
        segment = self._segment.bytes if self._segment else 0
        return self.table.size * self.dimension * np.float32().nbytes + segment

    def add(self, crops: CropColumns, file: VectorFile) -> None:
        """Make crops findable; those of slots that were added already are left out.

        Args:
            file: holds their vectors.
        """
        new = crops.slots > self.table.newest
        if new.all():
            self.table.append(crops, file)
        elif new.any():
            self.table.append(crops.at(np.flatnonzero(new)), file)

    def remove(self, row_ids: Iterable[int]) -> None:
        found = self.table.mark_deleted(row_ids)
        if self._segment:
            self._segment.mark_deleted(found)

    def search(
        self, queries: NDArray[np.float32], limit: int, wanted: Filter = EVERY_CROP
    ) -> Candidates:
        """The `limit` crops with the highest mean cosine to the queries.

        Args:
            queries: features `(m, d)` of one person, not of unit length.
            limit: the number of crops at most.
            wanted: which crops may be returned, all by default.
        """
        query = mean_direction(queries)
        passing = self.table.select(wanted)
        rows = self._nearest(passing, query.astype(np.float32), limit, wanted == EVERY_CROP)
        return scored(self.table, rows, query, len(passing))[:limit]

    def search_groups(
        self, queries: NDArray[np.float32], limit: int, wanted: Filter = EVERY_CROP
    ) -> Candidates:
        """The nearest crop of each of the `limit` nearest identities, in one pass.

        A crop without an identity is a group of its own. The arguments are those of `search`. It is
        exact, but where product codes propose enough crops of as many identities.
        """
        proposed = limit * CROPS_PER_GROUP
        if self.recall is not None and wanted == EVERY_CROP and self._is_small(proposed):
            found = self.search(queries, proposed)
            first = found.first_of_groups()
            if len(first) >= limit:
                return found[first[:limit]]
        query = mean_direction(queries)
        passing = self.table.select(wanted)
        scores = self.table.cosines(passing, query.astype(np.float32))
        _, group = np.unique(self.table.groups[passing], return_inverse=True)
        best = np.full(group.max(initial=-1) + 1, -np.inf, np.float32)
        np.maximum.at(best, group, scores)
        last = np.partition(best, -limit)[-limit] if len(best) > limit else -np.inf
        rows = passing[scores >= np.maximum(best[group], last) - TOLERANCE]
        found = scored(self.table, rows, query, len(passing))
        return found[found.first_of_groups()[:limit]]

    def identities(self, wanted: Filter = EVERY_CROP) -> int:
        """The number of identities that a search covers; a crop without one counts by itself.

        Single crops that are left out are counted still. Without a filter any thread may ask.
        """
        if wanted.without:
            wanted = replace(wanted, without=frozenset())
        table = self.table
        changes = self.table.changes
        counted = table.counted
        if counted[:2] == (wanted, changes):
            return counted[2]
        numbers = table.group_numbers[table.select(wanted)]
        seen = np.zeros(int(numbers.max(initial=0)) + 1, np.bool_)
        seen[numbers[numbers >= 0]] = True
        found = int(np.count_nonzero(seen) + np.count_nonzero(numbers < 0))
        table.counted = wanted, changes, found
        return found

    def compaction(self, device: str | None = None) -> Compaction | None:
        """Plan the rewriting of this index, or return None if nothing has to be rewritten.

        Args:
            device: of the networks, if it is a GPU.
        """
        table = self.table
        deleted = table.size - table.valid_count
        rewrite = deleted >= DELETED_ROWS and deleted > DELETED_SHARE * table.size
        cover: Cover | None = None
        if device:
            from service.search.gpu import DeviceVectors

            half = table.valid_count >= FLOAT16_ROWS
            cover = partial(DeviceVectors, device, "float16" if half else "float32")
        elif table.valid_count >= CODED_ROWS:
            cover = ProductCodes
        covered = self._segment.size if self._segment else 0
        outgrown = table.size - covered > max(DELTA_ROWS, DELTA_SHARE * covered)
        if not rewrite and not (outgrown and (cover or self._segment)):
            return None
        rows = np.flatnonzero(table.valid[: table.size]) if rewrite else np.arange(table.size)
        return Compaction(table, table.size, rows, rewrite, cover)

    def replace(self, built: Compaction) -> None:
        """Search the rewritten parts from now on, with all later changes.

        A plan of a table that is no longer searched is ignored.
        """
        table = self.table
        if built.table is not table:
            return
        if built.rewrite:
            added = np.arange(built.size, table.size)
            self.table = table.taken(np.concatenate([built.rows, added]))
        self._segment = built.segment
        if self._segment:
            self._segment.mark_deleted(np.flatnonzero(~table.valid[built.rows]))

    def _nearest(
        self, passing: NDArray[np.int64], query: NDArray[np.float32], limit: int, everything: bool
    ) -> NDArray[np.int64]:
        if len(passing) <= limit:
            return passing
        segment = self._segment
        proposed = None
        covered = np.searchsorted(passing, segment.size) if segment else 0
        if isinstance(segment, ProductCodes):
            if self.recall is not None and everything and self._is_small(limit):
                nearest = segment.nearest(query, limit)
                nearest = nearest[self.table.valid[nearest]]
                # Where deletions left too few, all rows are compared.
                proposed = nearest if len(nearest) >= limit else None
        elif segment:
            try:
                proposed = retry_out_of_memory(segment.nearest, query, limit, passing[:covered])
            except DeviceFull:
                # Other work on the device may end; the next search tries again.
                log.warning("the device has no memory for a search; it is done in the host's")
        if proposed is not None:
            passing = np.concatenate([proposed, passing[covered:]])
        scores = self.table.cosines(passing, query)
        last = np.partition(scores, -limit)[-limit]
        return np.asarray(passing[scores >= last - TOLERANCE], np.int64)

    def _is_small(self, limit: int) -> bool:
        return self._segment is not None and limit <= PROPOSED_SHARE * self._segment.size
