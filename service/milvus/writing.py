"""Writing of a gallery's crops from the record into a collection, and comparison of both."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING

from service.errors import IndexUnavailable
from service.milvus.rows import FORMAT, IDS_PER_PAGE, Codes
from service.milvus.tables import CollectionState, CollectionStates
from service.ops.threads import heartbeat
from service.record.record import Record
from service.record.values import GalleryRecord

if TYPE_CHECKING:
    from service.milvus.server import MilvusServer

ROWS_PER_WRITE = 1000
LAST_ROW = 2**63 - 1
POLL_SECONDS = 0.1


class CollectionOutdated(Exception):
    """A collection cannot be brought up to date, and has to be filled anew."""


def is_current(state: CollectionState, entry: GalleryRecord | None) -> bool:
    """Return whether a collection has the gallery's vectors, in this program's format."""
    if entry is None or (state.collection and not state.collection.endswith(FORMAT)):
        return False
    return (entry.generation, entry.embedding_fingerprint) == (state.generation, state.embedder)


@dataclass(frozen=True)
class CollectionWriter:
    """Brings collections up to date with the record."""

    record: Record
    server: MilvusServer
    codes: Codes

    @cached_property
    def states(self) -> CollectionStates:
        return CollectionStates(self.record.database)

    def write(
        self, state: CollectionState, slots: Sequence[int], between: Callable[[], None]
    ) -> None:
        """Write the searchable crops at the given slots, and delete the others.

        Args:
            state: names the collection.
            slots: slots of changed crops, in ascending order.
            between: called before every write; its errors are raised.

        Raises:
            CollectionOutdated: the gallery switched to other vectors; some crops may have been
                written.
        """
        for first in range(0, len(slots), ROWS_PER_WRITE):
            heartbeat()
            rows = slots[first : first + ROWS_PER_WRITE]
            stored = self.record.crops.indexed(state.gallery_id, rows)
            crops = [crop for crop in stored if not crop.record.set_aside]
            # Check after reading: only then is it certain that these are vectors of `state`.
            self._require_current(state)
            between()
            self.server.upsert(state.collection, [self.codes.row(crop) for crop in crops])
            deleted = set(rows).difference(crop.record.slot for crop in crops)
            self.server.delete(state.collection, sorted(deleted))
        self._require_current(state)

    def fill(self, state: CollectionState, between: Callable[[], None]) -> bool:
        """Create a collection with every crop of a gallery.

        Args:
            state, between: as in `write`.

        Returns:
            False if the gallery never had a crop; nothing was created.

        Raises:
            CollectionOutdated: the gallery switched to other vectors in the meantime.
        """
        entry = self.record.galleries.get(state.gallery_id)
        if entry is None or entry.dimension is None:
            return False
        # A newer copy of the record may have left a collection with this name.
        self.server.drop(state.collection)
        self.server.create(state.collection, entry.dimension)
        self.write(state, range(1, entry.next_slot), between)
        between()
        return True

    def differing(self, gallery_id: int, between: Callable[[], None] = lambda: None) -> list[int]:
        """Return rows that differ or are missing on either side, including pending changes.

        Args:
            gallery_id: id of the gallery.
            between: as in `write`.
        """
        state = self.states.state(gallery_id)
        entry = self.record.galleries.get(gallery_id)
        timestamp = self.server.timestamp()
        if entry is None or state is None or not state.collection:
            return []
        # Rows may exist beyond the record's last one if the record is an older copy.
        bounds = [*range(0, entry.next_slot + IDS_PER_PAGE, IDS_PER_PAGE), LAST_ROW]
        differing_rows: list[int] = []
        for first, end in pairwise(bounds):
            between()
            heartbeat()
            stored_rows = self.server.rows(state.collection, first, end, timestamp)
            in_collection = {row["id"]: row for row in stored_rows}
            rows = sorted(in_collection.keys() | set(range(first, min(end, entry.next_slot))))
            crops = self.record.crops.by_slot(gallery_id, rows).values()
            in_record = {crop.slot: self.codes.label(crop) for crop in crops if not crop.set_aside}
            differing_rows += (row for row in rows if in_collection.get(row) != in_record.get(row))
        return differing_rows

    def compact(self, gallery_id: int, version: int, seconds: float) -> bool:
        """Wait until a gallery's collection shows a version and its files are compacted.

        Returns:
            False if either takes too long, or Milvus does not answer.
        """
        until = time.monotonic() + seconds
        compaction = None
        with contextlib.suppress(IndexUnavailable):
            while time.monotonic() < until:
                state = self.states.state(gallery_id)
                # A collection being filled may contain crops deleted since that began.
                if state is None or (state.version >= version and not state.unfinished):
                    if state is None or not state.collection:
                        return True
                    if compaction is None:
                        compaction = self.server.compact(state.collection)
                    if self.server.is_compacted(compaction):
                        return True
                time.sleep(POLL_SECONDS)
        return False

    def _require_current(self, state: CollectionState) -> None:
        if not is_current(state, self.record.galleries.get(state.gallery_id)):
            raise CollectionOutdated("the gallery has other vectors now")
