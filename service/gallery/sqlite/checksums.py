"""What each crop was when it was written, so that a flipped bit on the disk is never answered.

SQLite checks its log but not its pages. A row of `checksums` holds CRC-32s of a crop's record, its
vectors and its picture, in a table of its own: where a damaged page takes a crop with it, its
checksums are left.
"""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

from service.gallery.sqlite.reading import COLUMNS

SIDES = ("vectors_a", "vectors_b")
# What a record's checksum is made of: where the crop belongs, and all that is known of it.
RECORD = f"gallery_id, {COLUMNS}"
OF_RECORD = f"record_checksum({RECORD})"
# Small tables, by their keys, of which triggers keep a checksum of every row. A migration that
# changes these columns, or those of RECORD, has to compute all checksums anew.
Watched = Mapping[str, tuple[str, str]]
WATCHED: Watched = {
    "galleries": (
        "gallery_id",
        "name, embedding_fingerprint, version, created_at, side, staged_fingerprint, "
        "retention_days, calibration, retention_from",
    ),
    "tombstones": ("crop_id", "gallery_id, removed_at"),
    "api_keys": (
        "key_id",
        "secret_sha256, scopes, gallery, note, created_at, learn, expires_at",
    ),
    "snapshots": (
        "snapshot_id",
        "gallery_id, version, embedding_fingerprint, crops, bytes, sha256, created_at",
    ),
}


def watching(watched: Watched) -> str:
    """SQL that computes the checksums of these tables, and the triggers that keep them."""
    return "".join(_watching(table, *named) for table, named in watched.items())


def _watching(table: str, key: str, columns: str) -> str:
    new = ", ".join(f"NEW.{name}" for name in (key, *columns.split(", ")))
    noted = (
        f"BEGIN INSERT OR REPLACE INTO row_checksums VALUES ('{table}', NEW.{key}, "
        f"record_checksum({new})); END;\n"
    )
    return (
        f"INSERT INTO row_checksums SELECT '{table}', {key}, record_checksum({key}, {columns}) "
        f"FROM {table};\n"
        f"CREATE TRIGGER {table}_added AFTER INSERT ON {table} {noted}"
        f"CREATE TRIGGER {table}_changed AFTER UPDATE ON {table} {noted}"
        f"CREATE TRIGGER {table}_removed AFTER DELETE ON {table} BEGIN "
        f"DELETE FROM row_checksums WHERE kind = '{table}' AND key = OLD.{key}; END;\n"
    )


def differing(table: str, key: str, columns: str) -> str:
    """SQL that follows SELECT: the rows of a watched table that are not what was written."""
    return (
        f"FROM {table} LEFT JOIN row_checksums "
        f"ON kind = '{table}' AND row_checksums.key = {table}.{key} "
        f"WHERE checksum IS NOT record_checksum({table}.{key}, "
        f"{', '.join(f'{table}.{name}' for name in columns.split(', '))})"
    )


def changed_rows(connection: sqlite3.Connection, watched: Watched = WATCHED) -> list[str]:
    """Rows of the watched tables that are not what was written, or are gone; a line for each."""
    found = []
    for table, (key, columns) in watched.items():
        rows = connection.execute(f"SELECT {table}.{key} {differing(table, key, columns)}")
        found += [f"row {row[0]} of {table} is not what was written" for row in rows]
        rows = connection.execute(
            f"SELECT key FROM row_checksums WHERE kind = '{table}' "
            f"AND NOT EXISTS (SELECT 1 FROM {table} WHERE {table}.{key} = row_checksums.key)"
        )
        found += [f"row {row[0]} of {table} is gone" for row in rows]
    return found


def broken_indexes(connection: sqlite3.Connection) -> list[str]:
    """What the indexes say of rows that they do not hold, or pages of them that cannot be read.

    Vectors and pictures, which are nearly all of a file, have none and are not read.
    """
    found = []
    for table in ("crops", "checksums", "row_checksums", *WATCHED):
        rows = connection.execute(f"PRAGMA integrity_check('{table}')").fetchall()
        found += [row[0] for row in rows if row[0] != "ok"]
    return found


def register(connection: sqlite3.Connection) -> None:
    """Lets a connection's SQL compute checksums: `record_checksum(…)` and `content_checksum(…)`."""
    connection.create_function("record_checksum", -1, record_checksum, deterministic=True)
    connection.create_function("content_checksum", 1, content_checksum, deterministic=True)


def record_checksum(*values: Any) -> int:
    """Of the texts and numbers of a record, in the order of `RECORD`."""
    return zlib.crc32(ascii(values).encode())


def content_checksum(content: bytes | None) -> int | None:
    """Of a vector's or picture's bytes; None where there is none."""
    return zlib.crc32(content) if isinstance(content, bytes) else None


def keep_checksums(
    connection: sqlite3.Connection,
    side: str,
    record: tuple[Any, ...],
    vector: bytes,
    picture: bytes | None,
) -> None:
    """Notes the checksums of a crop that is being inserted.

    Args:
        connection: with a transaction open.
        side: where its vector is.
        record: as `RECORD` names it.
        vector: its bytes.
        picture: what is kept of it in the database; None for nothing.
    """
    gallery_id, row_id, *_ = record
    connection.execute(
        f"INSERT INTO checksums (row_id, gallery_id, record, picture, {side}) "
        "VALUES (?, ?, ?, ?, ?)",
        (
            row_id,
            gallery_id,
            record_checksum(*record),
            content_checksum(picture),
            content_checksum(vector),
        ),
    )


def keep_record_checksums(connection: sqlite3.Connection, row_ids: Sequence[int]) -> None:
    """Notes them anew for crops whose records have just changed."""
    connection.executemany(
        f"UPDATE checksums SET record = (SELECT {OF_RECORD} FROM crops "
        "WHERE crops.row_id = checksums.row_id) WHERE row_id = ?",
        [(row_id,) for row_id in row_ids],
    )


def keep_vector_checksums(
    connection: sqlite3.Connection, side: str, row_ids: Sequence[int]
) -> None:
    """Notes them for crops whose vectors on a side were just written."""
    connection.executemany(
        f"UPDATE checksums SET {side} = (SELECT content_checksum(vector) FROM {side} "
        f"WHERE {side}.row_id = checksums.row_id) WHERE row_id = ?",
        [(row_id,) for row_id in row_ids],
    )
