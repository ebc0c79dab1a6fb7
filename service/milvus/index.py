"""Searches of galleries in Milvus: Milvus proposes crops, and the record decides.

A search reads the watermark, asks Milvus for near crops, and looks up every hit in the record.
Deleted crops are dropped, filters and groups use the record's current labels, and cosines are
computed from the returned vectors. If hits were dropped, Milvus is asked again without them until
none is missing: a search is exact or refused.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from service.errors import CollectionUnavailable, IndexUnavailable, InvalidField, UnknownGallery
from service.index.candidates import Candidates, best_candidates, mean_direction
from service.index.filters import EVERY_CROP, GroupBy, SearchFilter
from service.index.interface import IdentityCount
from service.index.moments import Moments
from service.milvus.rows import LARGEST_LIMIT, TOO_SLOW, Codes, Hit
from service.milvus.tables import CollectionState
from service.milvus.writing import CollectionWriter, is_current
from service.ops.threads import MonitoredThreadPool
from service.record.record import Record

if TYPE_CHECKING:
    from service.milvus.indexer import Indexer

log = logging.getLogger(__name__)
SEARCH_THREADS = 8
SEARCH_SECONDS = 1.0
# A server that did not answer is not asked again for this long.
PAUSE_SECONDS = 1.0
# Number of extra hits requested, because Milvus's float32 sums may swap neighbours.
MARGIN = 16
# Factor on the number of requested hits if some were dropped or came from too few groups.
DEEPER = 4
LACKS_ROWS = "the gallery's index has lost crops, which are being written again"
Result = TypeVar("Result")


def open_indexes(record: Record, url: str) -> MilvusIndexes:
    """Connect to a Milvus server, and begin to bring its collections up to date."""
    # The client of Milvus takes 0.5 s and 140 MB.
    from service.milvus.indexer import Indexer
    from service.milvus.server import MilvusServer

    server = MilvusServer(url)
    codes = Codes(record.galleries.group_secret())
    indexer = Indexer(CollectionWriter(record, server, codes))
    indexer.start()
    return MilvusIndexes(indexer)


class MilvusIndexes:
    """The indexes of all galleries on one server, and the indexer that writes them."""

    def __init__(self, indexer: Indexer) -> None:
        self._indexer = indexer
        self._writer = indexer.writer
        self._searches = MonitoredThreadPool(SEARCH_THREADS, "index searches")
        self._why_unsearchable = ""
        self._retry_at = 0.0

    @property
    def why_down(self) -> str:
        return self._why_unsearchable or self._indexer.why_down

    @property
    def threads(self) -> list[MonitoredThreadPool]:
        return [self._searches, *self._indexer.threads]

    def of(self, gallery_id: int, embedder: str) -> MilvusIndex:
        return MilvusIndex(self._writer, gallery_id, embedder)

    async def run(self, call: Callable[..., Result], *args: object) -> Result:
        if time.monotonic() < self._retry_at:
            raise IndexUnavailable(self._why_unsearchable)
        submitted = self._searches.submit(call, *args)
        search = asyncio.wrap_future(submitted)
        search.add_done_callback(self._note_end)
        await asyncio.wait({search}, timeout=SEARCH_SECONDS)
        if not search.done():
            submitted.cancel()
            raise CollectionUnavailable(TOO_SLOW)
        return search.result()

    def compact(self, gallery_id: int, version: int, seconds: float) -> bool:
        return self._writer.compact(gallery_id, version, seconds)

    def close(self) -> None:
        self._indexer.close()
        self._searches.shutdown(wait=False, cancel_futures=True)
        self._writer.server.close()

    def _note_end(self, search: asyncio.Future[Any]) -> None:
        if search.cancelled():
            return
        error = search.exception()
        if error is None:
            self._note_down("")
        elif isinstance(error, IndexUnavailable) and not isinstance(error, CollectionUnavailable):
            self._note_down(error.why)

    def _note_down(self, why: str) -> None:
        if bool(why) != bool(self._why_unsearchable):
            log.warning("Milvus %s", f"cannot be searched: {why}" if why else "answers again")
        self._why_unsearchable = why
        self._retry_at = time.monotonic() + PAUSE_SECONDS if why else 0.0


@dataclass(frozen=True)
class MilvusIndex:
    """The vectors of one gallery and embedder in Milvus, written only by the indexer.

    Its methods block.
    """

    writer: CollectionWriter
    gallery_id: int
    embedder: str

    kind = "milvus"
    dtype = "float32"
    recall = None
    bytes = 0
    counts_filtered = False

    def search(
        self,
        queries: NDArray[np.float32],
        _: Sequence[str | None],
        limit: int,
        wanted: SearchFilter = EVERY_CROP,
        grouped: bool = False,
        by: GroupBy = "crop",
    ) -> Candidates:
        if by == "track":
            raise InvalidField(
                "group_by: this service searches in Milvus, which holds no tracks; group by "
                "identity, or serve the gallery without GMN_INDEX_URL"
            )
        if wanted.metadata:
            raise InvalidField(
                "metadata: this service searches in Milvus, which holds no metadata; leave the "
                "field out and filter by cameras, identities or time, or serve the gallery "
                "without GMN_INDEX_URL"
            )
        state, crops = self._read_watermark()
        direction = mean_direction(queries)
        unit = (direction / max(float(np.linalg.norm(direction)), 1e-12)).astype(np.float32)
        # Group code and vector of each crop, by slot.
        confirmed: dict[int, tuple[int, NDArray[np.float32]]] = {}
        requested = limit + MARGIN
        is_full = False
        without = wanted.without
        deadline = time.monotonic() + SEARCH_SECONDS
        while crops:
            hits = self.writer.server.search(
                state.collection,
                unit,
                requested,
                replace(wanted, without=without),
                self.writer.codes,
                state.timestamp,
                grouped,
            )
            outdated = self._confirm(hits, wanted, grouped, confirmed)
            is_full = len(hits) == min(requested, LARGEST_LIMIT)
            people = {group for group, _ in confirmed.values()}
            needs_people = grouped and is_full and len(people) < limit and requested < LARGEST_LIMIT
            if not needs_people and not (outdated and (is_full or grouped)):
                break
            if time.monotonic() > deadline:
                raise CollectionUnavailable("it still has many crops that were deleted or changed")
            without = without | outdated
            requested = DEEPER * requested
        is_cut = is_full or grouped
        if not is_cut and replace(wanted, without=frozenset()) == EVERY_CROP:
            self._require_whole(state, crops - len(wanted.without), len(confirmed))
        slots = np.array(list(confirmed), np.int64)
        groups = np.array([group for group, _ in confirmed.values()], np.int64)
        vectors = np.array([vector for _, vector in confirmed.values()], np.float32)
        vectors = vectors.reshape(len(confirmed), queries.shape[1])
        searched = crops if is_cut else len(confirmed)
        rows = np.arange(len(confirmed))
        best = best_candidates(
            slots, groups, groups, vectors, rows, direction, limit, searched, grouped, None
        )
        return replace(best, version=state.version)

    def identities(self, _: SearchFilter = EVERY_CROP) -> IdentityCount:
        """Count the identities of the whole gallery; the record cannot count by filter."""
        entry = self.writer.record.galleries.get(self.gallery_id)
        if entry is None:
            return IdentityCount(0, 0)
        return IdentityCount(named=entry.identities, unnamed=entry.unnamed)

    def moments(self, slots: NDArray[np.int64]) -> Moments:
        crops = self.writer.record.crops.by_slot(self.gallery_id, slots.tolist())
        found = [crops.get(slot) for slot in slots.tolist()]
        cameras = [(crop and crop.camera) or "" for crop in found]
        captured = [
            crop.captured_at.timestamp() if crop and crop.captured_at else np.nan for crop in found
        ]
        return Moments(np.array(cameras, np.str_), np.array(captured, np.float64))

    def version(self) -> int:
        """Return the gallery version that searches show; 0 while the collection is built."""
        try:
            return self._read_watermark()[0].version
        except CollectionUnavailable:
            return 0

    def _confirm(
        self,
        hits: Sequence[Hit],
        wanted: SearchFilter,
        grouped: bool,
        confirmed: dict[int, tuple[int, NDArray[np.float32]]],
    ) -> set[int]:
        """Add hits that the record confirms to `confirmed`.

        Returns:
            Slots of crops that were deleted, now fail the filter, or hide others of their former
            group.
        """
        crops = self.writer.record.crops.by_slot(self.gallery_id, [hit["id"] for hit in hits])
        outdated: set[int] = set()
        for hit in hits:
            slot = hit["id"]
            label = crops.get(slot)
            # If the record is an older copy, it may have assigned the slot again.
            if label and self.writer.codes.crop(label) == hit["crop"] and wanted.passes(label):
                group = self.writer.codes.group(label)
                confirmed[slot] = group, hit["v"]
                if not grouped or group == hit["grp"]:
                    continue
            outdated.add(slot)
        return outdated

    def _require_whole(self, state: CollectionState, expected: int, found: int) -> None:
        entry = self.writer.record.galleries.get(self.gallery_id)
        # Crops enrolled or deleted since the watermark may be missing.
        if entry and entry.version == state.version and found < expected:
            self.writer.states.change(self.gallery_id, lacks_rows=True)
            raise CollectionUnavailable(LACKS_ROWS)

    def _read_watermark(self) -> tuple[CollectionState, int]:
        """Return the collection's state, and the number of crops that searches may find.

        Raises:
            CollectionUnavailable: it has other vectors than the gallery, or too few rows.
        """
        state = self.writer.states.state(self.gallery_id)
        entry = self.writer.record.galleries.get(self.gallery_id)
        if entry is None:
            raise UnknownGallery(str(self.gallery_id))
        if not entry.crops:
            return replace(state or CollectionState(self.gallery_id), version=entry.version), 0
        if entry.embedding_fingerprint != self.embedder or not state or not state.collection:
            raise CollectionUnavailable("the gallery's index is being built")
        if not is_current(state, entry):
            raise CollectionUnavailable("the gallery's index is being rebuilt")
        if state.lacks_rows:
            raise CollectionUnavailable(LACKS_ROWS)
        return state, entry.searchable_crops
