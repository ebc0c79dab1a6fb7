"""Vectors that requests have in place of images."""

from __future__ import annotations

import base64
import json

import numpy as np
from numpy.typing import NDArray

from service.errors import InvalidField


def read_vector(text: str) -> NDArray[np.float32]:
    try:
        if text.lstrip().startswith("["):
            # A number beyond float32 becomes infinite.
            with np.errstate(over="ignore"):
                vector = np.array(json.loads(text), np.float32)
        else:
            vector = np.frombuffer(base64.b64decode(text, validate=True), "<f4")
    except (ValueError, TypeError, OverflowError, RecursionError):
        vector = np.zeros(0, np.float32)
    if vector.ndim != 1 or not np.isfinite(vector).all() or not vector.any():
        raise InvalidField(
            f"vector: {text[:40]!r} is no vector; send a JSON array of finite numbers that are not "
            "all 0, or their float32 bytes, little-endian, in base64"
        )
    return vector.astype(np.float32)
