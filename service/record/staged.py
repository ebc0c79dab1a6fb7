"""Vectors of another embedder, prepared beside those that are searched, and switched to at once."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from service.ops.failpoints import failpoint
from service.record.engine import RecordPart, Transaction, transact, transactional
from service.record.entries import (
    Generation,
    put_entry,
    read_entry,
    require_entry,
    scan_crops,
    vector_name,
)
from service.record.galleries import drop_calibrations
from service.record.garbage import collect_garbage, discard, forget_strays
from service.record.records import StoredCrop

RowVectors = Sequence[tuple[int, NDArray[np.float32]]]


class StagedVectors(RecordPart):
    """Vectors that a reindex prepares."""

    def begin(self, gallery_id: int, embedding_fingerprint: str | None) -> None:
        """Prepares for an embedder, or none; what was prepared for another one is dropped."""
        transact(self._engine, _prepare_for, gallery_id, embedding_fingerprint)
        collect_garbage(self._engine)

    def missing(self, gallery_id: int, after: int, limit: int) -> list[StoredCrop]:
        """Up to `limit` crops that have no vector yet, with a `row_id` above `after`."""
        entry = read_entry(self._reader, gallery_id)
        if entry is None or entry.staged_side is None:
            return []
        at = Generation.searched(entry)
        return scan_crops(self._reader, at, max(after, entry.staged_row), limit)

    @transactional
    def add(
        self,
        transaction: Transaction,
        gallery_id: int,
        vectors: RowVectors,
        outside: int | None = None,
    ) -> None:
        """Adds vectors `(d,)` by `row_id`, in the order of rows, up to one that is left out.

        Args:
            outside: the side under which they were kept outside the record; None for inside.
        """
        entry = require_entry(transaction, gallery_id)
        side = entry.staged_side
        if side is None:
            return
        at = Generation.searched(entry)
        of = dict(vectors)
        waiting = scan_crops(transaction, at, entry.staged_row, len(of))
        for crop in itertools.takewhile(lambda one: one.row_id in of, waiting):
            entry.staged_row = row = crop.row_id
            entry.staged_crops += 1
            if outside == side:
                entry.outside = True
                forget_strays(transaction, gallery_id, [vector_name(crop.crop_id, side)])
            else:
                vector = np.asarray(of[row], "<f4").tobytes()
                transaction.put(at.lookup("vector", side, row), vector)
        put_entry(transaction, entry)

    def switch(self, gallery_id: int) -> int | None:
        """Makes them the gallery's own in one step; None, and no change, where any is missing."""
        version = transact(self._engine, _switch_side, gallery_id)
        if version is not None:
            failpoint("reindex.switched")
            collect_garbage(self._engine)
        return version


def _prepare_for(transaction: Transaction, gallery_id: int, embedder: str | None) -> None:
    entry = require_entry(transaction, gallery_id)
    if embedder is not None and entry.staged_fingerprint == embedder:
        return
    if entry.staged_side is not None:
        outside = int(entry.outside)
        discard(transaction, "side", gallery_id, entry.at, entry.staged_side, outside)
    entry.staged_fingerprint = embedder
    entry.staged_side = None
    entry.staged_crops = entry.staged_row = 0
    if embedder is not None:
        entry.staged_side = entry.sides
        entry.sides += 1
    put_entry(transaction, entry)
    transaction.note("gallery_changed", gallery_id, entry.version)


def _switch_side(transaction: Transaction, gallery_id: int) -> int | None:
    entry = require_entry(transaction, gallery_id)
    embedder = entry.staged_fingerprint
    side = entry.staged_side
    if embedder is None or side is None or entry.staged_crops < entry.crops:
        return None
    discard(transaction, "side", gallery_id, entry.at, entry.side, int(entry.outside))
    entry.embedding_fingerprint = embedder
    entry.side = side
    entry.staged_fingerprint = entry.staged_side = None
    entry.staged_crops = entry.staged_row = 0
    # What the old embedder's scores taught does not hold for the new one's.
    drop_calibrations(transaction, gallery_id)
    entry.version += 1
    put_entry(transaction, entry)
    transaction.note("replaced", gallery_id, entry.version)
    return entry.version
