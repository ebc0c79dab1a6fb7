"""Crops of a snapshot in a gallery: in place of its own crops, or beside them if it lacks them.

The rules run by `Database.write_from`, so that their statements see the snapshot as `other`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path

from service.ops.failpoints import failpoint
from service.ops.threads import heartbeat
from service.record.crop_changes import change_embedder, require_people
from service.record.database import Database
from service.record.galleries import (
    count_crops,
    drop_calibrations,
    drop_checksums,
    next_version,
    require_entry,
)
from service.record.schema import TABLES, now_micros
from service.record.staged import end_staging
from service.record.transaction import Transaction, batches
from service.record.values import GalleryRecord
from service.record.vectors import VectorFiles

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


def replace_crops(database: Database, gallery_id: int, snapshot: Path) -> int:
    """Replace a gallery's crops by those of a checked snapshot; return the new version.

    This is one commit. Crops keep their ids, and unchanged crops their slots. Crops removed since
    the snapshot was taken stay removed.

    Raises:
        UnknownGallery: the gallery was deleted.
    """
    return database.write_from(snapshot, _replace_crops, gallery_id, snapshot)


def _replace_crops(transaction: Transaction, gallery_id: int, snapshot: Path) -> int:
    transaction.removes = True
    entry = require_entry(transaction, gallery_id)
    end_staging(transaction, entry)
    embedder = transaction.value("SELECT embedder FROM other.galleries")
    keeps_file = embedder == entry.embedding_fingerprint
    if not keeps_file:
        change_embedder(transaction, entry, embedder)
        entry = require_entry(transaction, gallery_id)
    transaction.change(
        "INSERT OR REPLACE INTO stray_pictures (gallery_id, name, until) "
        "SELECT gallery_id, crop_id, ? FROM crops WHERE gallery_id = ? "
        "AND content_type IS NOT NULL AND NOT inside "
        "AND crop_id NOT IN (SELECT crop_id FROM other.crops)",
        (now_micros(), gallery_id),
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
    require_people(transaction, gallery_id, names)
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
