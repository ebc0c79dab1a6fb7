"""Another embedder's vectors, prepared beside those that are searched, and switched to at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from service.ops.failpoints import failpoint
from service.record.calibrations import drop_calibrations
from service.record.crop_entries import Generation, read_contents, read_crops, scan_crops
from service.record.encoding import below, last_number
from service.record.engine import Engine, Reader, Transaction, transact
from service.record.gallery_entries import (
    Entry,
    put_entry,
    raise_version,
    read_entry,
    require_entry,
)
from service.record.garbage import collect_garbage, discard
from service.record.records import IndexedCrop, StoredCrop
from service.record.stored_values import vector_bytes

CROPS_AT_ONCE = 500


class StagedVectors:
    """Vectors that a reindex prepares."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._reader = Reader(engine)

    def begin(self, gallery_id: int, embedding_fingerprint: str) -> None:
        """Prepares for an embedder; what was prepared for another one is dropped."""

        def rule(transaction: Transaction) -> None:
            entry = require_entry(transaction, gallery_id)
            if entry.staged_fingerprint == embedding_fingerprint:
                return
            _drop(transaction, entry)
            entry.sides += 1
            entry.staged_fingerprint = embedding_fingerprint
            entry.staged_side = entry.sides - 1
            put_entry(transaction, entry)
            transaction.note("gallery_changed", gallery_id, entry.version)

        transact(self._engine, rule)
        collect_garbage(self._engine)

    def missing(self, gallery_id: int, after: int, limit: int) -> list[StoredCrop]:
        """Up to `limit` crops that have no vector yet, with a `row_id` above `after`."""
        entry = read_entry(self._reader, gallery_id)
        if entry is None or entry.staged_side is None:
            return []
        at = Generation.searched(entry)
        missing: list[StoredCrop] = []
        while len(missing) < limit:
            crops = scan_crops(self._reader, at, after, CROPS_AT_ONCE)
            if not crops:
                break
            keys = [at.key("staged", entry.staged_side, crop.row_id) for crop in crops]
            there = self._reader.get(keys)
            missing += [crop for crop, one in zip(crops, there, strict=True) if one is None]
            after = crops[-1].row_id
        return missing[:limit]

    def count(self, gallery_id: int) -> int:
        """How many crops have one."""
        entry = read_entry(self._reader, gallery_id)
        return entry.staged_crops if entry else 0

    def add(self, gallery_id: int, vectors: Sequence[tuple[int, NDArray[np.float32]]]) -> None:
        """Adds vectors `(d,)` by `row_id`; those of crops that are gone are left out."""

        def rule(transaction: Transaction) -> None:
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
                    transaction.put(at.vector(side, row), vector_bytes(vector))
            put_entry(transaction, entry)

        transact(self._engine, rule)

    def vectors(self, gallery_id: int) -> Iterator[IndexedCrop]:
        """Every crop that has one, with it, by `row_id`."""
        entry = read_entry(self._reader, gallery_id)
        if entry is None or entry.staged_side is None:
            return
        at, side = Generation.searched(entry), entry.staged_side
        rows: list[int] = []
        for own, _ in self._reader.every(below(at.key("staged", side)), CROPS_AT_ONCE):
            rows.append(last_number(own))
            if len(rows) == CROPS_AT_ONCE:
                yield from self._indexed(at, side, rows)
                rows = []
        yield from self._indexed(at, side, rows)

    def switch(self, gallery_id: int) -> int | None:
        """Makes them the gallery's own in one step; None, and no change, where any is missing."""

        def rule(transaction: Transaction) -> int | None:
            entry = require_entry(transaction, gallery_id)
            embedder, side = entry.staged_fingerprint, entry.staged_side
            if embedder is None or side is None or entry.staged_crops < entry.crops:
                return None
            discard(transaction, "side", gallery_id, entry.at, entry.side)
            entry.embedding_fingerprint, entry.side = embedder, side
            _clear(entry)
            # What the old embedder's scores taught does not hold for the new one's.
            drop_calibrations(transaction, gallery_id)
            version = raise_version(transaction, entry)
            transaction.note("replaced", gallery_id, version)
            return version

        version = transact(self._engine, rule)
        if version is not None:
            failpoint("reindex.switched")
            collect_garbage(self._engine)
        return version

    def drop(self, gallery_id: int) -> None:
        """Removes what was prepared."""

        def rule(transaction: Transaction) -> None:
            entry = require_entry(transaction, gallery_id)
            _drop(transaction, entry)
            put_entry(transaction, entry)
            transaction.note("gallery_changed", gallery_id, entry.version)

        transact(self._engine, rule)
        collect_garbage(self._engine)

    def _indexed(self, at: Generation, side: int, rows: Sequence[int]) -> Iterator[IndexedCrop]:
        crops = list(read_crops(self._reader, at, rows).values())
        for one in read_contents(self._reader, at, side, crops):
            yield one.indexed()


def _drop(transaction: Transaction, entry: Entry) -> None:
    """Discards what was prepared; its caller puts the entry back."""
    if entry.staged_side is not None:
        discard(transaction, "side", entry.gallery_id, entry.at, entry.staged_side)
    _clear(entry)


def _clear(entry: Entry) -> None:
    entry.staged_fingerprint, entry.staged_side, entry.staged_crops = None, None, 0
