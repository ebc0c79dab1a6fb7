"""Rows of the SQLite file as plain data."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from service.gallery.records import StoredCrop
from service.gallery.stored_values import as_time

COLUMNS = (
    "row_id, crop_id, identity, camera, captured_at, external_id, metadata, sha256, content_type, "
    "image_bytes, created_at"
)


def stored_crop(row: Sequence[Any]) -> StoredCrop:
    """One crop from its `COLUMNS`."""
    named = dict(zip(COLUMNS.split(", "), row, strict=True))
    named["captured_at"] = as_time(named["captured_at"])
    named["created_at"] = as_time(named["created_at"])
    named["metadata"] = json.loads(named["metadata"]) if named["metadata"] else None
    named["content_type"] = named["content_type"] or None
    return StoredCrop(**named)
