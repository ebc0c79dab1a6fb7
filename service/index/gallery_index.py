"""The index of one gallery: exact vectors, and faster ways to propose the nearest.

The index is derived from the record and belongs to one thread. An exact search reads the vectors in
place in the record's mapped file. Beside the columns there may be a segment over the oldest crops,
which only proposes crops: product codes (`ProductCodes`, for large galleries on a CPU), or a copy
on the networks' device (`DeviceVectors`), in float16 if large. The crops after the segment are its
delta and are searched exactly; from time to time a new segment covers them.

Proposals are masked by crop, never by an `IDSelector`, which FAISS's GPU indexes accept and ignore.
They are scored again in float64.

A gallery may be searched by centred vectors (`model.centring`). A segment is of vectors that were
centred by the means of its time. Other means end it, and a crop that gets another camera leaves it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Union

import numpy as np

from model.arrays import Array, Floats
from model.centring import CameraMeans
from service.engine.device import retry_out_of_memory
from service.errors import DeviceFull
from service.index.candidates import (
    Candidates,
    Integers,
    best_candidates,
    first_positions,
    mean_direction,
)
from service.index.centring import PreparedCentring, centre_features
from service.index.columns import Columns, Slots
from service.index.filters import EVERY_CROP, GroupBy, SearchFilter
from service.index.interface import IdentityCount
from service.index.moments import Moments
from service.index.product_codes import ProductCodes
from service.record.crop_rows import CropColumns

if TYPE_CHECKING:
    from service.index.gpu import DeviceVectors

Segment = Union[ProductCodes, "DeviceVectors"]
MakeSegment = Callable[[Callable[[], None]], Segment]
"""Builds a segment on any thread. It calls its argument now and then, whose errors it raises."""

log = logging.getLogger(__name__)
NO_SLOTS: Slots = np.zeros(0, np.int64)
# Float32 sums differ in the last digits between search methods. Crops this close to the last place
# are scored exactly before the cut, so that ties are cut by age. Centring scales a crop's error.
TOLERANCE = 1e-5
# For a larger share of its crops an exact search is equally fast.
PROPOSED_SHARE = 0.1
# Number of crops requested from product codes for each wanted group.
CROPS_PER_GROUP = 100
# Number of crops from which product codes save time on a CPU.
CODED_ROWS = 500_000
# A segment is rebuilt after more than this number and this share of its crops were changed.
DELTA_ROWS = 1024
DELTA_SHARE = 0.05


class GalleryIndex:
    """Searchable vectors of one gallery.

    A search returns the same crops and cosines with and without a filter, on every device, and with
    every segment. The exception is product codes, when `recall` is not None: they may miss some
    crops in a search without a filter.

    Attributes:
        columns: the crops; add them there.
        searches: number of searches so far.
    """

    counts_filtered = True

    def __init__(self, columns: Columns) -> None:
        self.columns = columns
        self.searches = 0
        self._segment: Segment | None = None
        # Crops that left the segment, because they are centred by another camera than in it.
        self._recentred = NO_SLOTS
        # The last filter, the value of `changes` then, and the number of identities that passed.
        self._cached_count = EVERY_CROP, -1, IdentityCount(0, 0)

    @property
    def kind(self) -> str:
        return "pq4" if self.recall is not None else "flat_ip"

    @property
    def dtype(self) -> str:
        return self._segment.dtype if self._segment else "float32"

    @property
    def recall(self) -> float | None:
        return self._segment.recall if self._segment else None

    @property
    def bytes(self) -> int:
        """Size of the vectors that a search reads, in the mapped file and in a segment."""
        segment = self._segment.bytes if self._segment else 0
        return self.columns.count * self.columns.dimension * np.float32().nbytes + segment

    @property
    def device_bytes(self) -> int:
        """Size of the vectors on the networks' device; 0 if the CPU searches."""
        return self._segment.bytes if self._segment and self._is_on_device else 0

    @property
    def centred_by(self) -> str | None:
        """The version of the means that searches subtract; None without centring."""
        centring = self.columns.centring
        return None if centring is None else centring.version

    def relabel(self, crops: CropColumns) -> None:
        recentred = self.columns.relabel(crops)
        if self._segment and len(recentred):
            self._leave(self._segment, recentred)

    def remove(self, slots: Iterable[int]) -> None:
        removed = self.columns.remove(slots)
        if self._segment:
            self._segment.remove(removed[removed < self._covered_end])

    def centre_by(self, prepared: PreparedCentring | None) -> None:
        """Search by vectors centred by other means from now on, or by vectors as they are.

        Searches are exact scans until a segment of such vectors is adopted.
        """
        self.columns.centre_by(prepared)
        self._segment = None
        self._recentred = NO_SLOTS

    def search(
        self,
        queries: Floats,
        cameras: Sequence[str | None],
        limit: int,
        wanted: SearchFilter = EVERY_CROP,
        grouped: bool = False,
        by: GroupBy = "crop",
    ) -> Candidates:
        """Return the nearest crops, as `SearchedIndex.search` does.

        A grouped search is exact unless product codes propose crops of enough identities.
        """
        self.searches += 1
        proposed = limit * CROPS_PER_GROUP
        if grouped and wanted == EVERY_CROP and self._can_use_codes(proposed):
            nearest = self.search(queries, cameras, proposed, by=by)
            first = first_positions(nearest.sets)
            if len(first) >= limit:
                return nearest[first[:limit]]
        means = self.columns.means
        if means is None:
            query = mean_direction(queries)
        else:
            codes = self.columns.code_cameras(cameras)
            query = mean_direction(centre_features(queries, codes, means))
        direction = query.astype(np.float32)
        passing = self.columns.select(wanted)
        sets = self.columns.tracks() if by == "track" else self.columns.groups
        if grouped:
            slots = self._find_nearest_of_sets(passing, direction, limit, sets)
        else:
            slots = self._find_nearest(passing, direction, limit, wanted == EVERY_CROP)
        return best_candidates(
            slots=slots,
            groups=self.columns.groups[slots],
            sets=sets[slots],
            vectors=self.columns.vectors,
            rows=slots,
            query=query,
            limit=limit,
            searched=len(passing),
            grouped=grouped,
            centre=None if means is None else partial(self._centre, means),
        )

    def moments(self, slots: Integers) -> Moments:
        return self.columns.moments(slots)

    def identities(self, wanted: SearchFilter = EVERY_CROP) -> IdentityCount:
        """Count the identities that a search covers.

        The filter's `without` is ignored. Without a filter any thread may call this.
        """
        # `replace` makes a copy, and each gallery would cache its own copy of `EVERY_CROP`.
        if wanted.without:
            wanted = replace(wanted, without=frozenset())
        changes = self.columns.changes
        cached = self._cached_count
        if cached[:2] == (wanted, changes):
            return cached[2]
        numbers = self.columns.group_numbers[self.columns.select(wanted)]
        occurs = np.zeros(int(numbers.max(initial=0)) + 1, np.bool_)
        occurs[numbers[numbers >= 0]] = True
        identities = IdentityCount(
            named=int(np.count_nonzero(occurs)), unnamed=int(np.count_nonzero(numbers < 0))
        )
        self._cached_count = wanted, changes, identities
        return identities

    def next_segment(self, device: str | None = None) -> MakeSegment | None:
        """Return a function that builds a better segment, or None if none is needed.

        Args:
            device: the networks' device, if it is a GPU with room for the vectors.
        """
        columns = self.columns
        covered = len(self._segment.slots) if self._segment else 0
        added = int(np.count_nonzero(columns.valid[self._covered_end : columns.size]))
        deleted = covered - (columns.count - added)
        is_misplaced = self._segment is not None and self._is_on_device != bool(device)
        changed = added + deleted + len(self._recentred)
        if not is_misplaced and changed <= max(DELTA_ROWS, DELTA_SHARE * covered):
            return None
        # A segment also covers crops that are set aside, as they may come back.
        slots = np.flatnonzero(columns.valid[: columns.size])
        crops = columns.compared(slots, columns.means)
        if device and columns.count:
            from service.index.gpu import DeviceVectors

            return partial(DeviceVectors, device, columns, crops)
        if columns.count >= CODED_ROWS:
            return partial(ProductCodes, columns, crops)
        self._segment = None
        self._recentred = NO_SLOTS
        return None

    def adopt(self, segment: Segment) -> None:
        """Propose crops by a segment, unless searches centre by other means than when it began."""
        crops = segment.crops
        if crops.means is not self.columns.means:
            return
        # Crops may have been deleted or relabelled while it was built.
        is_living = self.columns.valid[crops.slots]
        segment.remove(crops.slots[~is_living])
        self._segment = segment
        self._recentred = NO_SLOTS
        if crops.means is not None:
            is_recentred = self.columns.cameras[crops.slots] != crops.cameras
            self._leave(segment, crops.slots[is_living & is_recentred])

    def _leave(self, segment: Segment, recentred: Slots) -> None:
        """Remove crops from a segment; searches compare them exactly."""
        covered = recentred[recentred < self._covered_end]
        segment.remove(covered)
        self._recentred = np.union1d(self._recentred, covered)

    def _centre(self, means: CameraMeans, features: Array, slots: Slots) -> Array:
        return centre_features(features, self.columns.cameras[slots], means)

    def _find_nearest_of_sets(
        self, passing: Slots, query: Floats, limit: int, sets: Integers
    ) -> Slots:
        scores = self.columns.cosines(passing, query)
        _, group = np.unique(sets[passing], return_inverse=True)
        best = np.full(group.max(initial=-1) + 1, -np.inf, np.float32)
        lowest, tolerance = self._bound(passing, scores)
        np.maximum.at(best, group, lowest)
        last = np.partition(best, -limit)[-limit] if len(best) > limit else -np.inf
        return passing[scores >= np.maximum(best[group], last) - tolerance]

    def _find_nearest(self, passing: Slots, query: Floats, limit: int, unfiltered: bool) -> Slots:
        if len(passing) <= limit:
            return passing
        segment = self._segment
        if segment:
            proposed, others = self._split_by_cover(passing)
            # A segment knows which of its crops are deleted, but not which are set aside.
            is_filtered = not unfiltered or len(passing) < self.columns.count
            if not isinstance(segment, ProductCodes):
                try:
                    proposed = retry_out_of_memory(
                        segment.nearest, query, limit, proposed, is_filtered
                    )
                except DeviceFull:
                    # Other work on the device may finish; the next search tries again.
                    log.warning("the device has no memory for a search; it is done in the host's")
            elif unfiltered and self._can_use_codes(limit):
                nearest = segment.nearest(query, limit)
                nearest = nearest[self.columns.are_searchable(nearest)]
                nearest = self._without_recentred(nearest)
                # If deletions left too few, compare all crops.
                proposed = nearest if len(nearest) >= limit else proposed
            passing = np.concatenate([proposed, others])
            if len(self._recentred):
                passing.sort()
        scores = self.columns.cosines(passing, query)
        lowest, tolerance = self._bound(passing, scores)
        last = np.partition(lowest, -limit)[-limit]
        return np.asarray(passing[scores >= last - tolerance], np.int64)

    def _bound(self, slots: Slots, scores: Floats) -> tuple[Floats, Floats | float]:
        """Return what the scores are at least, and by how much they may be larger, `(n,)` each.

        Without centring all have the same error, and the sum of two is allowed for at once.
        """
        centring = self.columns.centring
        if centring is None:
            return scores, TOLERANCE
        errors = TOLERANCE * centring.scales[slots]
        return scores - errors, errors

    def _split_by_cover(self, passing: Slots) -> tuple[Slots, Slots]:
        """Split slots, ascending, into those that the segment covers and the others."""
        end = np.searchsorted(passing, self._covered_end)
        covered = passing[:end]
        if not len(self._recentred):
            return covered, passing[end:]
        is_recentred = np.isin(covered, self._recentred)
        others = np.concatenate([covered[is_recentred], passing[end:]])
        return covered[~is_recentred], others

    def _without_recentred(self, slots: Slots) -> Slots:
        return slots[~np.isin(slots, self._recentred)] if len(self._recentred) else slots

    def _can_use_codes(self, limit: int) -> bool:
        segment = self._segment
        if segment is None or segment.recall is None:
            return False
        return limit <= PROPOSED_SHARE * len(segment.slots)

    @property
    def _is_on_device(self) -> bool:
        return self._segment is not None and not isinstance(self._segment, ProductCodes)

    @property
    def _covered_end(self) -> int:
        return int(self._segment.slots[-1]) + 1 if self._segment else 0
