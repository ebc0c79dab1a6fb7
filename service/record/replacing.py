"""Replacement of a gallery's vectors by a reindex."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import replace

from service.ops.data_directory import failpoint
from service.record.crop_rows import read_after
from service.record.database import RecordPart, transactional
from service.record.galleries import (
    drop_calibrations,
    drop_vectors,
    next_version,
    read_entry,
    require_entry,
)
from service.record.transaction import Transaction
from service.record.values import GalleryRecord, StoredCrop
from service.record.vectors import Vector


class StagedVectors(RecordPart):
    """Vectors prepared by a reindex, in the file of a new generation."""

    @transactional
    def begin(
        self, transaction: Transaction, gallery_id: int, embedding_fingerprint: str | None
    ) -> None:
        """Start preparing for an embedder, or for none; drops vectors prepared for another one."""
        entry = require_entry(transaction, gallery_id)
        if embedding_fingerprint is not None and embedding_fingerprint == entry.staged_embedder:
            return
        end_staging(transaction, entry)
        if embedding_fingerprint is not None:
            transaction.change(
                "UPDATE galleries SET staged_embedder = ?, staged_generation = next_generation, "
                "next_generation = next_generation + 1 WHERE gallery_id = ?",
                (embedding_fingerprint, gallery_id),
            )

    def missing(self, gallery_id: int, after: int, limit: int) -> list[StoredCrop]:
        entry = read_entry(self._reader, gallery_id)
        if entry is None or entry.staged_generation is None:
            return []
        return read_after(self._reader, gallery_id, max(after, entry.staged_slot), limit)

    @transactional
    def add(
        self,
        transaction: Transaction,
        gallery_id: int,
        vectors: Mapping[int, Vector],
    ) -> None:
        """Add vectors `(d,)` by slot, in slot order, stopping at the first crop without one."""
        entry = require_entry(transaction, gallery_id)
        generation = entry.staged_generation
        if generation is None or not vectors:
            return
        unstaged = read_after(transaction, gallery_id, entry.staged_slot, len(vectors))
        crops = list(itertools.takewhile(lambda crop: crop.slot in vectors, unstaged))
        vectors_with_ids = {crop.slot: (crop.crop_id, vectors[crop.slot]) for crop in crops}
        transaction.write_vectors(gallery_id, generation, vectors_with_ids)
        if crops:
            newest = crops[-1].slot
            transaction.change(
                "UPDATE galleries SET staged_slot = ?, staged_crops = staged_crops + ?, "
                "staged_dimension = ? WHERE gallery_id = ?",
                (newest, len(crops), len(vectors[newest]), gallery_id),
                is_private=False,
            )

    def switch(self, gallery_id: int) -> int | None:
        """Switch the gallery to the staged vectors; return None, unchanged, if any is missing."""
        version = self._switch(gallery_id)
        if version is not None:
            failpoint("reindex.switched")
        return version

    @transactional
    def _switch(self, transaction: Transaction, gallery_id: int) -> int | None:
        entry = require_entry(transaction, gallery_id)
        if entry.staged_generation is None or entry.staged_crops < entry.crops:
            return None
        transaction.change(
            "UPDATE galleries SET embedder = staged_embedder, generation = staged_generation, "
            "staged_generation = generation, dimension = staged_dimension WHERE gallery_id = ?",
            (gallery_id,),
        )
        end_staging(transaction, replace(entry, staged_generation=entry.generation))
        # The calibrations were fitted to scores of the old embedder.
        drop_calibrations(transaction, gallery_id)
        return next_version(transaction, gallery_id)


def end_staging(transaction: Transaction, entry: GalleryRecord) -> None:
    if entry.staged_generation is not None:
        drop_vectors(transaction, entry.gallery_id, entry.staged_generation)
    transaction.change(
        "UPDATE galleries SET staged_embedder = NULL, staged_generation = NULL, "
        "staged_dimension = NULL, staged_slot = 0, staged_crops = 0 WHERE gallery_id = ?",
        (entry.gallery_id,),
    )
