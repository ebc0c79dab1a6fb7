"""Crops for tests of the record store; none of them shows anybody."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np

from service.record.values import ArchivedCrop, StoredCrop, new_crop_id

EMBEDDER = "a" * 64
OTHER_EMBEDDER = "b" * 64
NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


def new_crop(
    number: int, identity: str | None = "a", camera: str | None = "east", **said: Any
) -> ArchivedCrop:
    """Return a crop of which the number can be told from its image, its vector and its metadata."""
    image = b"image %d" % number
    known = {"identity": identity, "camera": camera, "captured_at": NOON}
    known |= {"metadata": {"number": number}, "crop_id": new_crop_id()}
    known |= {"created_at": datetime.now(UTC), "content_type": "image/png"}
    known |= {"sha256": hashlib.sha256(image).hexdigest(), "image_bytes": len(image)}
    record = StoredCrop(row_id=0, **(known | said))
    return ArchivedCrop(record, np.full(4, number + 0.25, np.float32), image)


def without_picture(number: int, **said: Any) -> ArchivedCrop:
    """Return a crop of whose image nothing is kept."""
    return replace(new_crop(number, content_type=None, image_bytes=0, **said), picture=None)
