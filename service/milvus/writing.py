"""Writes a gallery's crops from the record into a collection, and compares the two."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import TYPE_CHECKING

from service.errors import IndexUnavailable
from service.milvus.rows import FORMAT, IDS_PER_PAGE, Codes, LabelRow
from service.ops.health import heartbeat
from service.record.collections import IndexState
from service.record.record import Record
from service.record.values import GalleryRecord

if TYPE_CHECKING:
    from service.milvus.server import MilvusServer

ROWS_PER_WRITE = 1000
LAST_ROW = 2**63 - 1
POLL_SECONDS = 0.1


class Outdated(Exception):
    """The gallery has other vectors or crops than a collection: it has to be built anew."""


def is_current(state: IndexState, entry: GalleryRecord | None) -> bool:
    """Return True if a collection has the vectors of a gallery, in this program's format."""
    if entry is None or (state.collection and not state.collection.endswith(FORMAT)):
        return False
    vectors = (entry.at, entry.side, entry.embedding_fingerprint)
    return vectors == (state.at, state.side, state.embedder)


@dataclass(frozen=True)
class CollectionWriter:
    """Brings collections up to the record."""

    record: Record
    server: MilvusServer
    codes: Codes

    def write(self, state: IndexState, slots: Iterable[int], between: Callable[[], None]) -> None:
        """Write those crops of these slots that are there now, and delete the others.

        Args:
            state: names the collection.
            slots: of crops that changed.
            between: called before every write; an error of it ends this.

        Raises:
            Outdated: the gallery has gone over to other vectors; some may be written.
        """
        changed = sorted(slots)
        for first in range(0, len(changed), ROWS_PER_WRITE):
            heartbeat()
            rows = changed[first : first + ROWS_PER_WRITE]
            crops = self.record.crops.indexed(state.gallery_id, rows)
            # Afterwards: the crops were then read of the same vectors.
            self._require(state)
            between()
            self.server.upsert(state.collection, [self.codes.row(crop) for crop in crops])
            gone = set(rows).difference(crop.label.row_id for crop in crops)
            self.server.delete(state.collection, sorted(gone))
        self._require(state)

    def fill(self, state: IndexState, dimension: int | None, between: Callable[[], None]) -> bool:
        """Make a collection of every crop of a gallery.

        Args:
            state: with the collection's name.
            dimension: of a gallery without crops; None where it is unknown.
            between: called now and then; an error of it ends this.

        Returns:
            False if the dimension is unknown, and nothing was made.

        Raises:
            Outdated: the gallery went over to other vectors meanwhile.
        """
        crops = self.record.crops.vectors(state.gallery_id)
        part = list(islice(crops, ROWS_PER_WRITE))
        size = len(part[0].vector) if part else dimension
        if size is None:
            return False
        # Under this name there may be one of a newer copy of the record.
        self.server.drop(state.collection)
        self.server.create(state.collection, size)
        while part:
            heartbeat()
            between()
            self.server.upsert(state.collection, [self.codes.row(crop) for crop in part])
            part = list(islice(crops, ROWS_PER_WRITE))
        between()
        self._require(state)
        return True

    def differing(self, gallery_id: int, between: Callable[[], None] = lambda: None) -> list[int]:
        """Return rows that differ or are missing in collection or record; changes show as such.

        Args:
            gallery_id: of the gallery.
            between: as of `fill`.
        """
        state = self.record.remote_indexes.state(gallery_id)
        entry = self.record.galleries.get(gallery_id)
        timestamp = self.server.timestamp()
        if entry is None or state is None or not state.collection:
            return []
        # Beyond the record's last row where the record is an older copy.
        bounds = [*range(0, entry.rows + 1 + IDS_PER_PAGE, IDS_PER_PAGE), LAST_ROW]
        found: list[int] = []
        for first, end in pairwise(bounds):
            between()
            heartbeat()
            held = self.server.rows(state.collection, first, end, timestamp)
            here = {row["id"]: _codes(row) for row in held}
            slots = here.keys() | set(range(first, min(end, entry.rows + 1)))
            crops = self.record.crops.by_row(gallery_id, sorted(slots)).values()
            there = {crop.row_id: _codes(self.codes.label(crop.label)) for crop in crops}
            rows = here.keys() | there.keys()
            found += (row for row in sorted(rows) if here.get(row) != there.get(row))
        return found

    def compact(self, gallery_id: int, version: int, seconds: float) -> bool:
        """Wait until a gallery's collection shows a version, and for a compaction of its files.

        Returns:
            False if either takes longer, or Milvus does not answer.
        """
        until = time.monotonic() + seconds
        compaction = None
        with contextlib.suppress(IndexUnavailable):
            while time.monotonic() < until:
                state = self.record.remote_indexes.state(gallery_id)
                # A collection that is being filled may hold crops deleted since that began.
                if state is None or (state.version >= version and not state.unfinished):
                    if state is None or not state.collection:
                        return True
                    if compaction is None:
                        compaction = self.server.compact(state.collection)
                    if self.server.is_compacted(compaction):
                        return True
                time.sleep(POLL_SECONDS)
        return False

    def _require(self, state: IndexState) -> None:
        if not is_current(state, self.record.galleries.get(state.gallery_id)):
            raise Outdated("the gallery has other vectors now")


def _codes(row: LabelRow) -> tuple[float, ...]:
    return row["crop"], row["grp"], row["camera"], row["captured"]
