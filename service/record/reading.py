"""Crops with their contents, read from a record that is opened read-only."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

from service.errors import RecordUnavailable
from service.ops.threads import heartbeat
from service.record.crop_rows import read_checksums, read_crops
from service.record.database import FILE, STEPS_PER_BEAT, Database
from service.record.schema import EARLIEST_FORMAT, GALLERIES, PICTURES, missing_tables, row_crc
from service.record.transaction import AMONG, Reader, Source, as_json
from service.record.values import ArchivedCrop, StoredCrop
from service.record.vectors import VectorFile, VectorFiles, vector_crc

CROPS_AT_ONCE = 500


class StoredRecord(Database):
    """A record opened read-only over one connection: a copy, or one that others may write."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / FILE
        self._log = folder / f"{FILE}-wal"
        self.vectors = VectorFiles(folder, only_read=True)
        self._connections_lock = threading.Lock()
        self._connections = []
        self._log_has_deleted = False
        self._connection = self._connect()

    def connection(self) -> sqlite3.Connection:
        return self._connection

    def close(self) -> None:
        self._connection.close()
        self.vectors.close()

    def _connect(self) -> sqlite3.Connection:
        _finish_rollback(self.path)
        connection = sqlite3.connect(
            stored_uri(self.path),
            uri=True,
            isolation_level=None,
            check_same_thread=False,
        )
        connection.row_factory = sqlite3.Row
        connection.create_function("row_crc", -1, row_crc, deterministic=True)
        connection.set_progress_handler(heartbeat, STEPS_PER_BEAT)
        # Code that reads the file reports the damage.
        with contextlib.suppress(sqlite3.DatabaseError):
            if connection.execute("PRAGMA user_version").fetchone()[0] >= EARLIEST_FORMAT:
                for table in missing_tables(connection):
                    table.create_stand_in(connection)
        return connection


def _finish_rollback(path: Path) -> None:
    """Roll back a transaction that was interrupted while an archive was closed.

    A read-only connection cannot do that.
    """
    if path.with_name(f"{path.name}-journal").exists() and os.access(path.parent, os.W_OK):
        with contextlib.closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA user_version")


def stored_uri(path: Path) -> str:
    # In a read-only folder SQLite cannot create its log, and the file cannot change.
    option = "" if os.access(path.parent, os.W_OK) else "&immutable=1"
    return f"file:{quote(str(path))}?mode=ro{option}"


def read_contents(reader: Reader, gallery_id: int) -> Iterator[ArchivedCrop]:
    """Yield a gallery's crops with their contents, in a consistent state and by slot.

    Crops removed during the read are omitted. A picture kept outside the record is None.

    Raises:
        RecordUnavailable: the gallery was restored or reindexed in the meantime.
        DamagedRecord: part of a crop is missing or damaged.
    """
    (gallery,) = reader.rows(GALLERIES, "WHERE gallery_id = ?", (gallery_id,))
    if gallery["dimension"] is None:
        return
    side = open_vectors(reader.database, gallery_id, gallery["side"], gallery["dimension"])
    clauses = "WHERE crops.gallery_id = ? AND slot > ? ORDER BY slot LIMIT ?"
    after = 0
    while crops := read_crops(reader, clauses, (gallery_id, after, CROPS_AT_ONCE)):
        slots = [crop.row_id for crop in crops]
        after = slots[-1]
        by_slots = f"WHERE gallery_id = ? AND slot IN {AMONG}"
        rows = reader.rows(PICTURES, by_slots, (gallery_id, as_json(slots)))
        pictures = {row["slot"]: row["content"] for row in rows}
        checksums = read_checksums(reader, gallery_id, gallery["side"], slots)
        for crop, vector in zip(crops, side.read(slots), strict=True):
            picture = pictures.get(crop.row_id)
            if vector_crc(crop.crop_id, vector) != checksums.get(crop.row_id):
                _require_removed(reader.database, gallery_id, crop)
            elif crop.inside and picture is None:
                raise reader.database.damage(f"the picture of crop {crop.crop_id} is gone")
            else:
                yield ArchivedCrop(crop, vector, picture)
        heartbeat()


def open_vectors(database: Source, gallery_id: int, side: int, dimension: int) -> VectorFile:
    """Open a vector file read-only; raises `RecordUnavailable` if it was removed."""
    try:
        return database.vectors.open(gallery_id, side, dimension)
    except FileNotFoundError as error:
        raise RecordUnavailable(
            f"the vectors of gallery {gallery_id} were removed when it was restored or reindexed"
        ) from error


def _require_removed(database: Source, gallery_id: int, crop: StoredCrop) -> None:
    current = StoredRecord(database.folder)
    try:
        clauses = "WHERE crops.gallery_id = ? AND slot = ?"
        if read_crops(Reader(current), clauses, (gallery_id, crop.row_id)):
            raise database.damage(f"the vector of crop {crop.crop_id} is missing or corrupt")
    finally:
        current.close()
