"""Storing one crop in SQLite: the same bytes under the same identity and camera are stored once."""

from __future__ import annotations

import sqlite3

from service.gallery.crop_ids import new_crop_id
from service.gallery.records import CropLabel, IndexedCrop, LandedCrop, NewCrop
from service.gallery.sqlite.checksums import keep_checksums
from service.gallery.stored_values import (
    as_text,
    kept_already,
    now,
    said_of,
    same_image,
    vector_bytes,
)

NAMED_IN_WARNINGS = 3


def store_crop(
    connection: sqlite3.Connection, gallery_id: int, side: str, crop: NewCrop
) -> tuple[LandedCrop, IndexedCrop | None]:
    """Stores a crop inside a transaction.

    Args:
        connection: with a transaction open.
        gallery_id: where to store it.
        side: the table for its vector.
        crop: what to store.

    Returns:
        What became of it, and what the index has to learn: nothing where it was there already.
    """
    said = said_of(crop)
    same_bytes = connection.execute(
        f"SELECT crop_id, identity, camera, {', '.join(said)} FROM crops "
        "WHERE gallery_id = ? AND sha256 = ? ORDER BY row_id",
        (gallery_id, crop.sha256),
    ).fetchall()
    for crop_id, identity, camera, *known in same_bytes:
        if (identity, camera) == (crop.identity, crop.camera):
            warnings = kept_already(
                [
                    name
                    for name, old in zip(said, known, strict=True)
                    if said[name] not in (None, old)
                ]
            )
            return LandedCrop(crop_id, identity, camera, duplicate=True, warnings=warnings), None
    crop_id, row_id = insert_crop(connection, gallery_id, side, crop)
    warnings = tuple(same_image(other) for other, *_ in same_bytes[:NAMED_IN_WARNINGS])
    label = CropLabel(row_id, crop_id, crop.identity, crop.camera, crop.captured_at)
    landed = LandedCrop(crop_id, crop.identity, crop.camera, duplicate=False, warnings=warnings)
    return landed, IndexedCrop(label, crop.vector)


def insert_crop(
    connection: sqlite3.Connection, gallery_id: int, side: str, crop: NewCrop
) -> tuple[str, int]:
    """Inserts a crop with its vector and picture; answers its id and row id."""
    crop_id = crop.crop_id or new_crop_id()
    picture = crop.picture
    values = (
        crop_id,
        crop.identity,
        crop.camera,
        *said_of(crop).values(),
        crop.sha256,
        picture.content_type if picture else "",
        len(picture.content) if picture else 0,
        as_text(crop.created_at) if crop.created_at else now(),
    )
    inserted = connection.execute(
        "INSERT INTO crops (gallery_id, crop_id, identity, camera, captured_at, external_id, "
        "metadata, sha256, content_type, image_bytes, created_at) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (gallery_id, *values),
    )
    row_id = inserted.lastrowid or 0
    vector = vector_bytes(crop.vector)
    connection.execute(f"INSERT INTO {side} VALUES (?, ?)", (row_id, vector))
    held = picture.content if picture and not crop.picture_elsewhere else None
    keep_checksums(connection, side, (gallery_id, row_id, *values), vector, held)
    if crop.picture_elsewhere:
        connection.execute("DELETE FROM stray_pictures WHERE crop_id = ?", (crop_id,))
    elif picture:
        connection.execute(
            "INSERT INTO pictures (row_id, content) VALUES (?, ?)", (row_id, picture.content)
        )
    return crop_id, row_id
