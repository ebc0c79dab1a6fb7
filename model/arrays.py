"""The types of NumPy arrays that annotations name, and unit vectors."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]
Array = NDArray[np.float64]
Codes = NDArray[np.int64]


def unit_rows(features: Floats) -> Floats:
    """Return features `(n, d)` at unit length."""
    lengths = np.linalg.norm(
        features,
        axis=1,
        keepdims=True,
    )
    return np.asarray(features / np.maximum(lengths, 1e-12), np.float32)
