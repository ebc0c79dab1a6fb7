"""Crops for tests of the record store; none of them shows anybody."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import Any

import numpy as np

from service.record.records import NewCrop, Picture

EMBEDDER, OTHER_EMBEDDER = "a" * 64, "b" * 64
NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


def new_crop(
    number: int, identity: str | None = "a", camera: str | None = "east", **said: Any
) -> NewCrop:
    """A crop of which the number can be told from its image, its vector and its metadata."""
    image = b"image %d" % number
    return NewCrop(
        picture=Picture(image, "image/png"),
        sha256=hashlib.sha256(image).hexdigest(),
        vector=np.full(4, number + 0.25, np.float32),
        identity=identity,
        camera=camera,
        **{"captured_at": NOON, "metadata": {"number": number}, **said},
    )
