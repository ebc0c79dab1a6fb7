"""Replacement of a gallery's vectors by a reindex, and of its crops by those of a snapshot.

Rules with a snapshot run by `Database.write_from`, so that their statements see it as `other`.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from service.ops.data_directory import failpoint
from service.ops.threads import heartbeat
from service.record.crop_changes import add_people, attribute_alerts, change_embedder
from service.record.crop_rows import read_after
from service.record.database import RecordPart, transactional
from service.record.galleries import (
    STRAYS_OF,
    count_crops,
    drop_calibrations,
    drop_checksums,
    drop_vectors,
    next_version,
    read_entry,
    require_entry,
)
from service.record.schema import TABLES, now_micros
from service.record.transaction import Transaction, batches
from service.record.values import GalleryRecord, StoredCrop
from service.record.vectors import Vector, VectorFiles

VECTORS_AT_ONCE = 4096
LABELS = ("camera", "captured_at", "seen_at", "external_id", "quality", "metadata")
CONTENTS = ("crop_id", "created_at", "sha256", "content_type", "image_bytes", "inside")
ARCHIVED = (
    "FROM other.crops AS archived "
    "LEFT JOIN other.people AS named ON named.person_id = archived.person_id "
    "LEFT JOIN people ON people.gallery_id = ?1 AND people.name = named.name"
)
# Slots of intact crops that have the same vector in the snapshot; their labels may differ.
UNCHANGED = (
    "SELECT crops.slot FROM other.crops AS archived "
    "JOIN other.checksums AS sums USING (gallery_id, slot) "
    "JOIN crops ON crops.gallery_id = ?1 AND crops.crop_id = archived.crop_id "
    "JOIN checksums ON checksums.gallery_id = ?1 AND checksums.slot = crops.slot "
    "AND checksums.side = ?2 AND checksums.checksum = sums.checksum "
    f"WHERE {TABLES['crops'].is_intact}"
)


def replace_crops(transaction: Transaction, gallery_id: int, snapshot: Path) -> int:
    """Replace a gallery's crops by those of a checked snapshot; return the new version.

    Crops keep their ids, and unchanged crops their slots. Crops removed since the snapshot was
    taken stay removed.

    Raises:
        UnknownGallery: the gallery was deleted.
    """
    entry = require_entry(transaction, gallery_id)
    end_staging(transaction, entry)
    embedder = transaction.value("SELECT embedder FROM other.galleries")
    keeps_file = embedder == entry.embedding_fingerprint
    if not keeps_file:
        change_embedder(transaction, entry, embedder)
        entry = require_entry(transaction, gallery_id)
    transaction.change(
        f"{STRAYS_OF} gallery_id = :gallery_id "
        "AND crop_id NOT IN (SELECT crop_id FROM other.crops)",
        {"now": now_micros(), "gallery_id": gallery_id},
    )
    removed_slots = transaction.column(
        f"DELETE FROM crops WHERE gallery_id = ?1 AND slot NOT IN ({UNCHANGED}) RETURNING slot",
        (gallery_id, entry.side),
    )
    drop_checksums(transaction, gallery_id, removed_slots)
    add_missing_crops(transaction, gallery_id, snapshot)
    columns = ", ".join(["person_id", *LABELS])
    current = ", ".join(f"crops.{name}" for name in ("person_id", *LABELS))
    archived = ", ".join(["people.person_id", *(f"archived.{name}" for name in LABELS)])
    transaction.change(
        f"UPDATE crops SET ({columns}) = ({archived}) {ARCHIVED} WHERE crops.gallery_id = ?1 "
        f"AND crops.crop_id = archived.crop_id AND ({current}) IS NOT ({archived})",
        (gallery_id,),
    )
    transaction.change("DELETE FROM tracks WHERE gallery_id = ?", (gallery_id,))
    _copy_rows(transaction, "tracks", {"track": "track"}, gallery_id, 0)
    alerts = transaction.column("SELECT crop_id FROM alerts WHERE gallery_id = ?", (gallery_id,))
    attribute_alerts(transaction, gallery_id, alerts)
    count_crops(transaction, gallery_id)
    drop_calibrations(transaction, gallery_id)
    failpoint("restore.crops-added")
    # A file of the former embedder is dropped whole, and the new one has only holes to clear.
    cleared = sorted(removed_slots) if keeps_file else []
    return next_version(transaction, gallery_id, "replaced", cleared, restores=1)


def add_missing_crops(transaction: Transaction, gallery_id: int, snapshot: Path) -> None:
    """Add the crops of a snapshot that a gallery lacks and that were not removed for good.

    The caller must count the gallery's crops again.
    """
    entry = require_entry(transaction, gallery_id)
    first_slot = entry.rows + 1
    names = transaction.column("SELECT name FROM other.people")
    # The labels of a snapshot come back as they were stored.
    add_people(transaction, gallery_id, names)
    columns = ", ".join([*LABELS, *CONTENTS])
    archived = ", ".join(f"archived.{name}" for name in (*LABELS, *CONTENTS))
    transaction.change(
        f"INSERT INTO crops (gallery_id, slot, person_id, {columns}) "
        "SELECT ?1, ?2 - 1 + row_number() OVER (ORDER BY archived.slot), people.person_id, "
        f"{archived} {ARCHIVED} WHERE archived.crop_id NOT IN (SELECT crop_id FROM crops "
        "WHERE gallery_id = ?1 UNION ALL SELECT crop_id FROM tombstones WHERE gallery_id = ?1)",
        (gallery_id, first_slot),
    )
    checksums = {"side": str(entry.side), "checksum": "checksum"}
    _copy_rows(transaction, "checksums", checksums, gallery_id, first_slot)
    _copy_rows(transaction, "pictures", {"content": "content"}, gallery_id, first_slot)
    _copy_rows(transaction, "tracks", {"track": "track"}, gallery_id, first_slot)
    transaction.change(
        "DELETE FROM stray_pictures WHERE gallery_id = ?1 AND name IN "
        "(SELECT crop_id FROM crops WHERE gallery_id = ?1 AND slot >= ?2)",
        (gallery_id, first_slot),
    )
    _copy_vectors(transaction, entry, first_slot, snapshot)


def _copy_rows(
    transaction: Transaction,
    table: str,
    columns: Mapping[str, str],
    gallery_id: int,
    first_slot: int,
) -> None:
    """Insert the snapshot's rows of a table for the gallery's crops from a slot on.

    Args:
        columns: the SQL expression for each column.
    """
    # A snapshot of an earlier format may lack the table.
    if transaction.value("SELECT 1 FROM other.sqlite_master WHERE name = ?", (table,)):
        transaction.change(
            f"INSERT INTO {table} (gallery_id, slot, {', '.join(columns)}) "
            f"SELECT crops.gallery_id, crops.slot, {', '.join(columns.values())} "
            "FROM crops JOIN other.crops AS archived USING (crop_id) "
            f"JOIN other.{table} AS source ON source.gallery_id = archived.gallery_id "
            "AND source.slot = archived.slot WHERE crops.gallery_id = ? AND crops.slot >= ?",
            (gallery_id, first_slot),
        )


def _copy_vectors(
    transaction: Transaction, entry: GalleryRecord, first_slot: int, snapshot: Path
) -> None:
    statement = "SELECT gallery_id, side, dimension FROM other.galleries"
    (place,) = transaction.tuples(statement)
    dimension = place[-1]
    transaction.change(
        "UPDATE galleries SET dimension = coalesce(dimension, ?) WHERE gallery_id = ?",
        (dimension, entry.gallery_id),
    )
    slots = transaction.tuples(
        "SELECT archived.slot, crops.slot FROM crops JOIN other.crops AS archived USING (crop_id) "
        "WHERE crops.gallery_id = ? AND crops.slot >= ? ORDER BY crops.slot",
        (entry.gallery_id, first_slot),
    )
    if dimension is None:
        return
    file = transaction.database.vectors.open(entry.gallery_id, entry.side, dimension)
    transaction.unsynced.add(file)
    with contextlib.closing(VectorFiles(snapshot, only_read=True)) as archived_files:
        for batch in batches(slots, VECTORS_AT_ONCE):
            archived_slots = [archived_slot for archived_slot, _ in batch]
            vectors = archived_files.open(*place).read(archived_slots)
            written = {slot: vector for (_, slot), vector in zip(batch, vectors, strict=True)}
            file.write(written)
            heartbeat()


class StagedVectors(RecordPart):
    """Vectors prepared by a reindex, in the file of a new side."""

    @transactional
    def begin(
        self, transaction: Transaction, gallery_id: int, embedding_fingerprint: str | None
    ) -> None:
        """Start preparing for an embedder, or for none; drops vectors prepared for another one."""
        entry = require_entry(transaction, gallery_id)
        if embedding_fingerprint is not None and embedding_fingerprint == entry.staged_fingerprint:
            return
        end_staging(transaction, entry)
        if embedding_fingerprint is not None:
            transaction.change(
                "UPDATE galleries SET staged_embedder = ?, staged_side = next_side, "
                "next_side = next_side + 1 WHERE gallery_id = ?",
                (embedding_fingerprint, gallery_id),
            )
        transaction.note("gallery_changed", gallery_id, entry.version)

    def missing(self, gallery_id: int, after: int, limit: int) -> list[StoredCrop]:
        entry = read_entry(self._reader, gallery_id)
        if entry is None or entry.staged_side is None:
            return []
        return read_after(self._reader, gallery_id, max(after, entry.staged_row), limit)

    @transactional
    def add(
        self,
        transaction: Transaction,
        gallery_id: int,
        vectors: Mapping[int, Vector],
    ) -> None:
        """Add vectors `(d,)` by slot, in slot order, stopping at the first crop without one."""
        entry = require_entry(transaction, gallery_id)
        side = entry.staged_side
        if side is None or not vectors:
            return
        unstaged = read_after(transaction, gallery_id, entry.staged_row, len(vectors))
        crops = list(itertools.takewhile(lambda crop: crop.row_id in vectors, unstaged))
        vectors_with_ids = {crop.row_id: (crop.crop_id, vectors[crop.row_id]) for crop in crops}
        transaction.write_vectors(gallery_id, side, vectors_with_ids)
        if crops:
            newest = crops[-1].row_id
            transaction.change(
                "UPDATE galleries SET staged_slot = ?, staged_crops = staged_crops + ?, "
                "staged_dimension = ? WHERE gallery_id = ?",
                (newest, len(crops), len(vectors[newest]), gallery_id),
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
        if entry.staged_side is None or entry.staged_crops < entry.crops:
            return None
        transaction.change(
            "UPDATE galleries SET embedder = staged_embedder, side = staged_side, "
            "staged_side = side, dimension = staged_dimension WHERE gallery_id = ?",
            (gallery_id,),
        )
        end_staging(transaction, replace(entry, staged_side=entry.side))
        # The calibrations were fitted to scores of the old embedder.
        drop_calibrations(transaction, gallery_id)
        return next_version(transaction, gallery_id, "replaced", ())


def end_staging(transaction: Transaction, entry: GalleryRecord) -> None:
    if entry.staged_side is not None:
        drop_vectors(transaction, entry.gallery_id, entry.staged_side)
    transaction.change(
        "UPDATE galleries SET staged_embedder = NULL, staged_side = NULL, "
        "staged_dimension = NULL, staged_slot = 0, staged_crops = 0 WHERE gallery_id = ?",
        (entry.gallery_id,),
    )
