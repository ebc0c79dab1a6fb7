"""Areas and overlaps of boxes."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Boxes: TypeAlias = NDArray[np.float64]
"""`(n, 4)`: left, top, right and bottom."""
Scores: TypeAlias = NDArray[np.float64]
"""`(n,)`: between 0 and 1."""


def areas_of(boxes: Boxes) -> NDArray[np.float64]:
    """Return the area of each box `(n,)`."""
    sides = boxes[:, 2:] - boxes[:, :2]
    return np.asarray(sides.prod(axis=1))


def shared_areas(first: Boxes, second: Boxes) -> NDArray[np.float64]:
    """Return the intersection areas of boxes `(n, 4)` and `(m, 4)` as `(n, m)`."""
    lower = np.maximum(first[:, None, :2], second[None, :, :2])
    upper = np.minimum(first[:, None, 2:], second[None, :, 2:])
    return np.asarray(np.clip(upper - lower, 0.0, None).prod(axis=2))


def overlaps(first: Boxes, second: Boxes) -> NDArray[np.float64]:
    """Return intersection over union of boxes `(n, 4)` and `(m, 4)` as `(n, m)`."""
    shared = shared_areas(first, second)
    unions = areas_of(first)[:, None] + areas_of(second)[None, :] - shared
    return np.asarray(shared / np.maximum(unions, 1e-12))


def free_shares(boxes: Boxes) -> NDArray[np.float64]:
    """Return the share of each box `(n,)` that stays free of the box which covers it most."""
    shared = shared_areas(boxes, boxes)
    np.fill_diagonal(shared, 0.0)
    covered = shared.max(axis=1, initial=0.0) / np.maximum(areas_of(boxes), 1e-12)
    return np.asarray(1.0 - covered)
