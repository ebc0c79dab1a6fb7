"""Crops as the SQLite file holds them, each held against what it was when it was written."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from service.gallery.records import ArchivedCrop, CropLabel, IndexedCrop, Picture, StoredCrop
from service.gallery.sqlite.checksums import content_checksum, record_checksum
from service.gallery.sqlite.reading import COLUMNS, stored_crop
from service.problems import DamagedRecord

CROP = ", ".join(f"crops.{name}" for name in COLUMNS.split(", "))
# Crops that a damaged page took with it: their checksums are left.
LOST = (
    "SELECT row_id FROM checksums WHERE gallery_id = ? AND NOT EXISTS (SELECT 1 FROM crops "
    "WHERE crops.row_id = checksums.row_id AND crops.gallery_id = checksums.gallery_id)"
)


class Damage(Exception):
    """One crop that cannot be answered: `what` names it and says what is wrong with it."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = what


def indexed_crops(
    connection: sqlite3.Connection,
    gallery_id: int,
    side: str,
    row_ids: Sequence[int] | None = None,
) -> Iterator[IndexedCrop]:
    """Every crop, or those named, that has a vector on a side, by `row_id`.

    Raises:
        DamagedRecord: naming the first that is not what was written.
    """
    named = "" if row_ids is None else "AND row_id IN (SELECT value FROM json_each(?))"
    given = () if row_ids is None else (json.dumps(list(row_ids)),)
    rows = connection.execute(
        f"SELECT {CROP}, vector, record, checksums.{side} "
        f"FROM crops JOIN {side} USING (row_id) LEFT JOIN checksums USING (row_id) "
        f"WHERE crops.gallery_id = ? {named} ORDER BY row_id",
        (gallery_id, *given),
    )
    path = _path(connection)
    for *columns, vector, record, checksum in rows:
        try:
            stored = _checked(gallery_id, columns, record)
            _check_vector(stored.crop_id, vector, checksum)
        except Damage as damage:
            raise DamagedRecord(path, damage.what) from damage
        label = CropLabel(
            stored.row_id, stored.crop_id, stored.identity, stored.camera, stored.captured_at
        )
        yield IndexedCrop(label, np.frombuffer(vector, "<f4"))


def whole_crops(
    path: Path, connection: sqlite3.Connection, gallery_id: int, side: str
) -> Iterator[IndexedCrop]:
    """Every crop of a gallery, by `row_id`, none of them missing.

    Raises:
        DamagedRecord: where one is, or is not what was written.
    """
    held = "SELECT count(*) FROM checksums WHERE gallery_id = ?"
    try:
        before = connection.execute(held, (gallery_id,)).fetchone()
        read = 0
        for crop in indexed_crops(connection, gallery_id, side):
            read += 1
            yield crop
        without = connection.execute(
            f"SELECT crop_id FROM crops WHERE gallery_id = ? AND NOT EXISTS "
            f"(SELECT 1 FROM {side} WHERE {side}.row_id = crops.row_id)",
            (gallery_id,),
        ).fetchall()
        lost = connection.execute(LOST, (gallery_id,)).fetchall()
        after = connection.execute(held, (gallery_id,)).fetchone()
    except sqlite3.DatabaseError as error:
        raise DamagedRecord(path, str(error)) from error
    if without:
        raise DamagedRecord(path, f"the vector of crop {without[0][0]} is gone")
    if lost:
        raise DamagedRecord(path, f"{len(lost)} crops are gone")
    if before == after != (read,):
        raise DamagedRecord(path, f"{read} crops are found where {after[0]} belong")


def archived_crops(
    connection: sqlite3.Connection, gallery_id: int, side: str
) -> Iterator[ArchivedCrop | Damage]:
    """Every crop with all that belongs to it; in the place of one that cannot be read, why."""
    rows = connection.execute(
        f"SELECT {CROP}, vector, content, record, picture, checksums.{side} FROM crops "
        f"LEFT JOIN {side} USING (row_id) LEFT JOIN pictures USING (row_id) "
        "LEFT JOIN checksums USING (row_id) WHERE crops.gallery_id = ? ORDER BY crops.row_id",
        (gallery_id,),
    )
    for *columns, vector, content, record, of_picture, of_vector in rows:
        try:
            stored = _checked(gallery_id, columns, record)
            _check_vector(stored.crop_id, vector, of_vector)
            if content_checksum(content) != of_picture:
                raise Damage(f"the picture of crop {stored.crop_id} is not what was written")
        except Damage as damage:
            yield damage
            continue
        picture = Picture(content, stored.content_type or "") if content is not None else None
        yield ArchivedCrop(stored, np.frombuffer(vector, "<f4"), picture)
    for (row_id,) in connection.execute(LOST, (gallery_id,)):
        yield Damage(f"the crop of row {row_id} is gone")


def required(path: Path, crops: Iterator[ArchivedCrop | Damage]) -> Iterator[ArchivedCrop]:
    """Every crop; raises `DamagedRecord` at the first that cannot be read."""
    try:
        for crop in crops:
            if isinstance(crop, Damage):
                raise DamagedRecord(path, crop.what)
            yield crop
    except sqlite3.DatabaseError as error:
        raise DamagedRecord(path, str(error)) from error


def _checked(gallery_id: int, columns: Sequence[Any], checksum: int | None) -> StoredCrop:
    if record_checksum(gallery_id, *columns) != checksum:
        raise Damage(f"the record of crop {columns[1]} is not what was written")
    return stored_crop(columns)


def _check_vector(crop_id: str, vector: bytes | None, checksum: int | None) -> None:
    if vector is None or content_checksum(vector) != checksum:
        raise Damage(f"the vector of crop {crop_id} is not what was written")


def _path(connection: sqlite3.Connection) -> Path:
    return Path(connection.execute("PRAGMA database_list").fetchone()[2])
