"""Another embedder's vectors, prepared beside those that are searched, and switched to at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from service.ops.failpoints import failpoint
from service.record.calibrations import drop_calibrations
from service.record.crop_entries import Generation, read_contents, read_crops, scan_crops
from service.record.engine import RecordPart, Transaction, transact, transactional
from service.record.gallery_entries import put_entry, read_entry, require_entry
from service.record.garbage import collect_garbage, discard
from service.record.records import IndexedCrop, StoredCrop

CROPS_AT_ONCE = 500


class StagedVectors(RecordPart):
    """Vectors that a reindex prepares."""

    def begin(self, gallery_id: int, embedding_fingerprint: str) -> None:
        """Prepares for an embedder; what was prepared for another one is dropped."""
        transact(self._engine, _prepare_for, gallery_id, embedding_fingerprint)
        collect_garbage(self._engine)

    def drop(self, gallery_id: int) -> None:
        """Removes what was prepared."""
        transact(self._engine, _prepare_for, gallery_id, None)
        collect_garbage(self._engine)

    def missing(self, gallery_id: int, after: int, limit: int) -> list[StoredCrop]:
        """Up to `limit` crops that have no vector yet, with a `row_id` above `after`."""
        missing: list[StoredCrop] = []
        for _, _, crops, staged in self._batches(gallery_id, after):
            missing += [crop for crop, one in zip(crops, staged, strict=True) if one is None]
            if len(missing) >= limit:
                break
        return missing[:limit]

    def count(self, gallery_id: int) -> int:
        """How many crops have one."""
        entry = read_entry(self._reader, gallery_id)
        return entry.staged_crops if entry else 0

    @transactional
    def add(
        self,
        transaction: Transaction,
        gallery_id: int,
        vectors: Sequence[tuple[int, NDArray[np.float32]]],
    ) -> None:
        """Adds vectors `(d,)` by `row_id`; those of crops that are gone are left out."""
        entry = require_entry(transaction, gallery_id)
        side = entry.staged_side
        if side is None:
            return
        at = Generation.searched(entry)
        there = read_crops(transaction, at, [row for row, _ in vectors])
        keys = [at.key("staged", side, row) for row in there]
        entry.staged_crops += sum(one is None for one in transaction.get(keys))
        for own in keys:
            transaction.put_json(own, 1)
        for row, vector in vectors:
            if row in there:
                transaction.put(at.lookup("vector", side, row), np.asarray(vector, "<f4").tobytes())
        put_entry(transaction, entry)

    def vectors(self, gallery_id: int) -> Iterator[IndexedCrop]:
        """Every crop that has one, with it, by `row_id`."""
        for at, side, crops, staged in self._batches(gallery_id, 0):
            there = [crop for crop, one in zip(crops, staged, strict=True) if one is not None]
            yield from (one.indexed for one in read_contents(self._reader, at, side, there))

    def _batches(
        self, gallery_id: int, after: int
    ) -> Iterator[tuple[Generation, int, list[StoredCrop], list[bytes | None]]]:
        """Crops with whether they have a vector, and where it lies."""
        entry = read_entry(self._reader, gallery_id)
        if entry is None or entry.staged_side is None:
            return
        at, side = Generation.searched(entry), entry.staged_side
        while crops := scan_crops(self._reader, at, after, CROPS_AT_ONCE):
            staged = self._reader.get([at.key("staged", side, crop.row_id) for crop in crops])
            yield at, side, crops, staged
            after = crops[-1].row_id

    def switch(self, gallery_id: int) -> int | None:
        """Makes them the gallery's own in one step; None, and no change, where any is missing."""
        version = transact(self._engine, _switch, gallery_id)
        if version is not None:
            failpoint("reindex.switched")
            collect_garbage(self._engine)
        return version


def _prepare_for(transaction: Transaction, gallery_id: int, embedder: str | None) -> None:
    entry = require_entry(transaction, gallery_id)
    if embedder is not None and entry.staged_fingerprint == embedder:
        return
    if entry.staged_side is not None:
        discard(transaction, "side", gallery_id, entry.at, entry.staged_side)
    entry.staged_fingerprint, entry.staged_side, entry.staged_crops = embedder, None, 0
    if embedder is not None:
        entry.staged_side = entry.sides
        entry.sides += 1
    put_entry(transaction, entry)
    transaction.note("gallery_changed", gallery_id, entry.version)


def _switch(transaction: Transaction, gallery_id: int) -> int | None:
    entry = require_entry(transaction, gallery_id)
    embedder, side = entry.staged_fingerprint, entry.staged_side
    if embedder is None or side is None or entry.staged_crops < entry.crops:
        return None
    discard(transaction, "side", gallery_id, entry.at, entry.side)
    entry.embedding_fingerprint, entry.side = embedder, side
    entry.staged_fingerprint, entry.staged_side, entry.staged_crops = None, None, 0
    # What the old embedder's scores taught does not hold for the new one's.
    drop_calibrations(transaction, gallery_id)
    entry.version += 1
    put_entry(transaction, entry)
    transaction.note("replaced", gallery_id, entry.version)
    return entry.version
