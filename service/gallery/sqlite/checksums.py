"""What each crop was when it was written, so that a flipped bit on the disk is never answered.

SQLite checks its log but not its pages. A row of `checksums` holds CRC-32s of a crop's record, its
vectors and its picture, in a table of its own: where a damaged page takes a crop with it, its
checksums are left.
"""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Sequence
from typing import Any

from service.gallery.sqlite.reading import COLUMNS

SIDES = ("vectors_a", "vectors_b")
# What a record's checksum is made of: where the crop belongs, and all that is known of it.
RECORD = f"gallery_id, {COLUMNS}"
OF_RECORD = f"record_checksum({RECORD})"


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


def keep_checksums(connection: sqlite3.Connection, row_id: int, side: str) -> None:
    """Notes the checksums of a crop that was just inserted, with its vector on a side."""
    connection.execute(
        f"INSERT INTO checksums (row_id, gallery_id, record, picture, {side}) "
        f"SELECT row_id, gallery_id, {OF_RECORD}, "
        "(SELECT content_checksum(content) FROM pictures WHERE pictures.row_id = crops.row_id), "
        f"(SELECT content_checksum(vector) FROM {side} WHERE {side}.row_id = crops.row_id) "
        "FROM crops WHERE row_id = ?",
        (row_id,),
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
