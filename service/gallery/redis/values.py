"""Crops and times between Python and Redis."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.gallery.crop_ids import new_crop_id
from service.gallery.records import (
    CropLabel,
    IndexedCrop,
    NewCrop,
    StoredCrop,
)
from service.gallery.redis.sums import check_content, check_record, content_sum, not_found
from service.gallery.stored_values import as_text, as_time, now, said_of, vector_bytes
from service.problems import DamagedRedisRecord

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
    content = picture.content if picture and not crop.picture_elsewhere else b""
    vector = vector_bytes(crop.vector)
    known |= {"vector_sum": content_sum(vector), "picture_sum": content_sum(content)}
    given = {name: value for name, value in known.items() if value is not None}
    return json.dumps(given, ensure_ascii=False).encode(), vector, content


def stored_crop(row_id: bytes, values: Sequence[bytes | None]) -> StoredCrop:
    """One crop from what its `COLUMNS` hold, and its sum.

    Raises:
        DamagedRedisRecord: that is not what was written.
    """
    *known, kept = values
    check_record(row_id, known, kept)
    texts = (value.decode() if value is not None else None for value in known)
    named: dict[str, Any] = dict(zip(COLUMNS, texts, strict=True))
    named["captured_at"] = as_time(named["captured_at"])
    named["created_at"] = as_time(named["created_at"])
    named["metadata"] = json.loads(named["metadata"]) if named["metadata"] else None
    named["content_type"] = named["content_type"] or None
    named["image_bytes"] = int(named["image_bytes"])
    return StoredCrop(row_id=int(row_id), **named)


def indexed_crop(
    row_id: bytes,
    values: Sequence[bytes | None],
    vector: Sequence[bytes | None],
    not_found_by: bytes = b"",
) -> IndexedCrop:
    """One crop as an index needs it.

    Args:
        row_id: its number.
        values: what its `COLUMNS` hold, and its sum.
        vector: its bytes, and their sum.
        not_found_by: what it ought to be found by and is not.

    Raises:
        DamagedRedisRecord: something of it is not what was written.
    """
    crop = stored_crop(row_id, values)
    if not_found_by:
        raise not_found(crop.crop_id, not_found_by)
    label = CropLabel(crop.row_id, crop.crop_id, crop.identity, crop.camera, crop.captured_at)
    return IndexedCrop(label, read_vector(crop.crop_id, *vector))


def read_vector(crop_id: str, content: bytes | None, kept: bytes | None) -> NDArray[np.float32]:
    """A crop's feature `(d,)`.

    Raises:
        DamagedRedisRecord: it is not what was written.
    """
    check_content("vector", crop_id, content, kept)
    if content is None or len(content) % 4:
        raise DamagedRedisRecord(f"the vector of crop {crop_id} is gone")
    return np.frombuffer(content, "<f4")
