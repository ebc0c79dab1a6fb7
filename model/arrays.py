"""The types of NumPy arrays that annotations name, and functions of arrays."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]
Array = NDArray[np.float64]
Codes = NDArray[np.int64]
WaitForFeatures = Callable[[], Floats]
"""Waits for a device, and returns the features `(n, d)` of a batch that was begun."""


def unit_rows(features: Floats | Array) -> Floats:
    """Return features `(n, d)` at unit length."""
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    return np.asarray(features / np.maximum(lengths, 1e-12), np.float32)


def in_turns(rows: Codes, codes: NDArray[np.signedinteger]) -> tuple[Codes, Codes]:
    """Sort rows `(n,)` by their codes, and number those of each code from 0, in their order."""
    rows = rows[np.argsort(codes[rows], kind="stable")]
    sorted_codes = codes[rows]
    turn = np.arange(len(rows)) - np.searchsorted(sorted_codes, sorted_codes)
    return rows, turn


def sigmoid(logits: Array) -> Array:
    """Return the logistic function of logits, which are cut off at ±50; same shape."""
    bounded = np.clip(logits, -50.0, 50.0)
    return 1.0 / (1.0 + np.exp(-bounded))


def bounded_probability(logits: Array) -> Array:
    """Return probabilities of logits, which saturate at ±30; same shape, strictly increasing."""
    return sigmoid(30.0 * np.tanh(logits / 30.0))


def continued(
    values: NDArray[np.floating] | float,
    xs: ArrayLike,
    ys: ArrayLike,
) -> Array:
    """Interpolate linearly, and continue the first and the last line beyond the ends.

    Args:
        values: x coordinates at which to interpolate, of any shape.
        xs, ys: coordinates of at least two points, `(n,)` each; `xs` rises.
    """
    x, y = np.array([xs, ys])
    slopes = np.diff(y) / np.diff(x)
    starts = np.searchsorted(x[1:-1], values, side="right")
    return y[starts] + slopes[starts] * (values - x[starts])
