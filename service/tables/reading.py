"""Crops read from their rows, with the names of their people."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any

from pydantic_core import from_json

from service.record.records import StoredCrop
from service.tables.schema import CROPS, PEOPLE
from service.tables.transaction import VALUES_AT_ONCE, Reader, batches, marks_of
from service.tables.values import as_moment

CROPS_AND_NAMES = (
    f"SELECT {CROPS.checked}, people.name AS identity, "
    f"crops.person_id IS NULL OR {PEOPLE.is_intact} IS 1 AS named "
    "FROM crops LEFT JOIN people ON people.person_id = crops.person_id"
)


def read_crops(reader: Reader, rest: str, values: Sequence[Any] = ()) -> list[StoredCrop]:
    """Read crops, each held against the checksums of its row and of its person's.

    Args:
        rest: what follows the tables in the statement; `gallery_id` needs its table's name.

    Raises:
        DamagedRecord: a row is not what was written.
    """
    rows = reader.execute(f"{CROPS_AND_NAMES} {rest}", values).fetchall()
    for row in rows:
        if not (row["intact"] and row["named"]):
            raise reader.database.damage(f"the row of crop {row['crop_id']} is damaged")
    return [crop_of(row) for row in rows]


def read_crops_in(
    reader: Reader, rest: str, before: Sequence[Any], keys: Iterable[Any]
) -> list[StoredCrop]:
    """Read crops as `read_crops` does whose key is one of many, some hundred at once.

    Args:
        rest: with `{}` in the place of the keys' placeholders: `IN ({})`.
        before: the values of the placeholders that come before the keys.
    """
    found: list[StoredCrop] = []
    for some in batches(dict.fromkeys(keys), VALUES_AT_ONCE):
        found += read_crops(reader, rest.format(marks_of(some)), [*before, *some])
    return found


def crop_of(row: sqlite3.Row) -> StoredCrop:
    """Return a crop from its row."""
    metadata = row["metadata"]
    return StoredCrop(
        row_id=row["slot"],
        crop_id=row["crop_id"],
        identity=row["identity"],
        camera=row["camera"],
        captured_at=as_moment(row["captured_at"]),
        external_id=row["external_id"],
        metadata=None if metadata is None else from_json(metadata),
        sha256=row["sha256"].hex(),
        content_type=row["content_type"],
        image_bytes=row["image_bytes"],
        created_at=as_moment(row["created_at"]),
        inside=bool(row["inside"]),
        quality=row["quality"],
    )
