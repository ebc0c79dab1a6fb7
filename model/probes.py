"""Drawn crops that show whether a model is alive and a runtime agrees with another."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from model.preprocessing import Preprocessing

PATTERNS = 12


def drawn_patterns(preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """Draw the same crops of coloured stripes every time, `(n, height, width, 3)` uint8 RGB."""
    random = np.random.default_rng(0)
    rows = np.arange(preprocessing.height)[:, None] / preprocessing.height
    columns = np.arange(preprocessing.width)[None, :] / preprocessing.width
    patterns = []
    for _ in range(PATTERNS):
        turns = random.uniform(0.5, 4, 2)
        wave = np.sin(2 * np.pi * (turns[0] * rows + turns[1] * columns + random.random()))
        low, high = random.uniform(0, 255, (2, 3))
        patterns.append(low + (high - low) * (wave[..., None] + 1) / 2)
    return np.stack(patterns).astype(np.uint8)
