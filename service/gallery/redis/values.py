"""Crops and times between Python and Redis."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from service.gallery.crop_ids import new_crop_id
from service.gallery.records import (
    CropLabel,
    IndexedCrop,
    NewCrop,
    StoredCrop,
)
from service.gallery.stored_values import as_text, as_time, now, said_of, vector_bytes

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
# As the scripts' TEXTS name them.
COLUMNS = (
    "crop_id",
    "sha256",
    "identity",
    "camera",
    "captured_at",
    "external_id",
    "metadata",
    "content_type",
    "image_bytes",
    "created_at",
)


def microseconds(moment: datetime) -> int:
    """A time as a score: microseconds since 1970."""
    return (moment - EPOCH) // MICROSECOND


def now_microseconds() -> int:
    """This moment as a score."""
    return microseconds(datetime.now(UTC))


def sent_crop(crop: NewCrop) -> tuple[bytes, bytes, bytes]:
    """A crop as the scripts take it: what is known of it as JSON, its vector and its picture."""
    created_at = as_text(crop.created_at) if crop.created_at else now()
    age = crop.captured_at or datetime.fromisoformat(created_at)
    picture = crop.picture
    known = {
        "crop_id": crop.crop_id or new_crop_id(),
        "sha256": crop.sha256,
        "identity": crop.identity,
        "camera": crop.camera,
        **said_of(crop),
        "content_type": picture.content_type if picture else "",
        "image_bytes": str(len(picture.content) if picture else 0),
        "created_at": created_at,
        "age": str(microseconds(age)),
        "elsewhere": True if crop.picture_elsewhere else None,
    }
    given = {name: value for name, value in known.items() if value is not None}
    content = picture.content if picture and not crop.picture_elsewhere else b""
    return json.dumps(given, ensure_ascii=False).encode(), vector_bytes(crop.vector), content


def stored_crop(row_id: bytes, values: Sequence[bytes | None]) -> StoredCrop:
    """One crop from what its `COLUMNS` hold."""
    texts = (value.decode() if value is not None else None for value in values)
    named: dict[str, Any] = dict(zip(COLUMNS, texts, strict=True))
    named["captured_at"] = as_time(named["captured_at"])
    named["created_at"] = as_time(named["created_at"])
    named["metadata"] = json.loads(named["metadata"]) if named["metadata"] else None
    named["content_type"] = named["content_type"] or None
    named["image_bytes"] = int(named["image_bytes"])
    return StoredCrop(row_id=int(row_id), **named)


def indexed_crop(row_id: bytes, values: Sequence[bytes | None]) -> IndexedCrop | None:
    """One crop as an index needs it, from a label's fields and a vector; None without a vector."""
    *label, vector = values
    if vector is None:
        return None
    crop_id, identity, camera, captured_at = (
        value.decode() if value is not None else None for value in label
    )
    named = CropLabel(int(row_id), crop_id or "", identity, camera, as_time(captured_at))
    return IndexedCrop(named, np.frombuffer(vector, "<f4"))
