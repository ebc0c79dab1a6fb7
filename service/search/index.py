"""The index of one gallery: exact vectors, and faster proposals of the nearest of them.

It is derived from the record and belongs to one thread. Exact search reads the vectors in place in
the record's file, which is mapped. Beside its columns there may be a segment of the first crops,
which only proposes crops: product codes (`ProductCodes`, large galleries on a processor), or a copy
on the networks' device (`DeviceVectors`), which float16 halves. The crops after it are its delta
and are searched exactly; now and then a new segment covers them.

Proposals are masked by crop, never by an `IDSelector`, which FAISS's GPU indexes accept and ignore,
and scored once more in float64.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Union

import numpy as np
from numpy.typing import NDArray

from service.engine.device import retry_out_of_memory
from service.errors import DeviceFull
from service.search.candidates import Candidates, best_candidates, mean_direction
from service.search.columns import Columns, Slots
from service.search.filters import EVERY_CROP, Filter
from service.search.options import GroupBy
from service.search.product_codes import ProductCodes

if TYPE_CHECKING:
    from service.search.gpu import DeviceVectors

Segment = Union[ProductCodes, "DeviceVectors"]
MakeSegment = Callable[[Callable[[], None]], Segment]
"""Makes a segment on any thread; what it is called with is called now and then, and may raise."""

log = logging.getLogger(__name__)
# Float32 sums differ in their last digits from one way of searching to another. Crops this close to
# the last place are scored exactly before the cut, so that ties are cut by age.
TOLERANCE = 1e-5
# Of a larger share of its crops an exact search is as quick.
PROPOSED_SHARE = 0.1
# Number of crops that product codes are asked for, for each wanted group.
CROPS_PER_GROUP = 100
# Minimum number of crops for product codes on a processor, where these save time.
CODED_ROWS = 500_000
# A segment is made anew once this number and this share of its crops were added or deleted.
DELTA_ROWS = 1024
DELTA_SHARE = 0.05


class GalleryIndex:
    """Vectors of one gallery, ready to be searched.

    The same search gives the same crops and the same cosines with a filter and without, on every
    device, with every segment. Only product codes, where `recall` is not None, may miss some in a
    search without a filter.

    Attributes:
        columns: the crops, which are added and relabelled there.
    """

    # Whether `identities` follows a filter.
    counts_filtered = True

    def __init__(self, columns: Columns) -> None:
        self.columns = columns
        self._segment: Segment | None = None
        # A filter, the changes of the columns, and how many identities passed it then.
        self._counted = Filter(), -1, 0

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
        return self.columns.count

    @property
    def bytes(self) -> int:
        """The bytes of the vectors that a search reads: the mapped ones and a segment's."""
        segment = self._segment.bytes if self._segment else 0
        return self.count * self.columns.dimension * np.float32().nbytes + segment

    def remove(self, slots: Iterable[int]) -> None:
        removed = self.columns.remove(slots)
        if self._segment:
            self._segment.remove(removed[removed < _covered_end(self._segment)])

    def search(
        self,
        queries: NDArray[np.float32],
        limit: int,
        wanted: Filter = EVERY_CROP,
        grouped: bool = False,
        by: GroupBy = "crop",
    ) -> Candidates:
        """The `limit` crops with the highest mean cosine to the queries.

        Args:
            queries: features `(m, d)` of one person, not of unit length.
            limit: the number of crops at most.
            wanted: which crops may be returned, all by default.
            grouped: whether to return the nearest crop of each of the `limit` nearest identities
                instead, or tracks; a crop without one is a group of its own. That is exact, but
                where product codes propose enough crops of as many identities.
            by: the kind of group; of a search by `track` the candidates have the tracks as `sets`.
        """
        proposed = limit * CROPS_PER_GROUP
        if grouped and wanted == EVERY_CROP and self._proposes_codes(proposed):
            nearest = self.search(queries, proposed, by=by)
            first = nearest.first_of_sets()
            if len(first) >= limit:
                return nearest[first[:limit]]
        query = mean_direction(queries)
        direction = query.astype(np.float32)
        passing = self.columns.select(wanted)
        sets = self.columns.tracks() if by == "track" else self.columns.groups
        if grouped:
            slots = self._nearest_of_sets(passing, direction, limit, sets)
        else:
            slots = self._nearest(passing, direction, limit, wanted == EVERY_CROP)
        groups = self.columns.groups[slots]
        vectors = self.columns.vectors
        searched = len(passing)
        return best_candidates(
            slots, groups, sets[slots], vectors, slots, query, limit, searched, grouped
        )

    def identities(self, wanted: Filter = EVERY_CROP) -> int:
        """The number of identities that a search covers; a crop without one counts by itself.

        Single crops that are left out are counted still. Without a filter any thread may ask.
        """
        if wanted.without:
            wanted = replace(wanted, without=frozenset())
        changes = self.columns.changes
        counted = self._counted
        if counted[:2] == (wanted, changes):
            return counted[2]
        numbers = self.columns.group_numbers[self.columns.select(wanted)]
        seen = np.zeros(int(numbers.max(initial=0)) + 1, np.bool_)
        seen[numbers[numbers >= 0]] = True
        identities = int(np.count_nonzero(seen) + np.count_nonzero(numbers < 0))
        self._counted = wanted, changes, identities
        return identities

    def next_segment(self, device: str | None = None) -> MakeSegment | None:
        """Return what makes a better segment than the present one; None where none is needed.

        Args:
            device: of the networks, if it is a GPU.
        """
        columns = self.columns
        covered = len(self._segment.slots) if self._segment else 0
        end = _covered_end(self._segment) if self._segment else 0
        added = int(np.count_nonzero(columns.valid[end : columns.size]))
        deleted = covered - (columns.count - added)
        if added + deleted <= max(DELTA_ROWS, DELTA_SHARE * covered):
            return None
        slots = columns.select(EVERY_CROP)
        if device and columns.count:
            from service.search.gpu import DeviceVectors

            return partial(DeviceVectors, device, columns, slots)
        if columns.count >= CODED_ROWS:
            return partial(ProductCodes, columns, slots)
        self._segment = None
        return None

    def adopt(self, segment: Segment) -> None:
        # Crops may have been deleted while it was made.
        segment.remove(segment.slots[~self.columns.valid[segment.slots]])
        self._segment = segment

    def _nearest_of_sets(
        self, passing: Slots, query: NDArray[np.float32], limit: int, sets: NDArray[np.int64]
    ) -> Slots:
        scores = self.columns.cosines(passing, query)
        _, group = np.unique(sets[passing], return_inverse=True)
        best = np.full(group.max(initial=-1) + 1, -np.inf, np.float32)
        np.maximum.at(best, group, scores)
        last = np.partition(best, -limit)[-limit] if len(best) > limit else -np.inf
        return passing[scores >= np.maximum(best[group], last) - TOLERANCE]

    def _nearest(
        self, passing: Slots, query: NDArray[np.float32], limit: int, everything: bool
    ) -> Slots:
        if len(passing) <= limit:
            return passing
        segment = self._segment
        if segment:
            covered = np.searchsorted(passing, _covered_end(segment))
            proposed = passing[:covered]
            if not isinstance(segment, ProductCodes):
                try:
                    proposed = retry_out_of_memory(segment.nearest, query, limit, proposed)
                except DeviceFull:
                    # Other work on the device may end; the next search tries again.
                    log.warning("the device has no memory for a search; it is done in the host's")
            elif everything and self._proposes_codes(limit):
                nearest = segment.nearest(query, limit)
                nearest = nearest[self.columns.valid[nearest]]
                # Where deletions left too few, all crops are compared.
                proposed = nearest if len(nearest) >= limit else proposed
            passing = np.concatenate([proposed, passing[covered:]])
        scores = self.columns.cosines(passing, query)
        last = np.partition(scores, -limit)[-limit]
        return np.asarray(passing[scores >= last - TOLERANCE], np.int64)

    def _proposes_codes(self, limit: int) -> bool:
        segment = self._segment
        if segment is None or segment.recall is None:
            return False
        return limit <= PROPOSED_SHARE * len(segment.slots)


def _covered_end(segment: Segment) -> int:
    return int(segment.slots[-1]) + 1
