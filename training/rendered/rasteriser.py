"""A rasteriser of triangles: which one is nearest in each pixel, and where in it the pixel lies."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from training.rendered.arrays import Indices, Numbers

SMALLEST_AREA = 1e-6
"""Triangles with a smaller area, in half pixels, are seen from the edge."""


@dataclass(frozen=True)
class Fragments:
    """The visible points of triangles, one for each covered pixel.

    Attributes:
        pixels: `(n)` indices into the flattened picture, ascending.
        triangles: `(n)` indices of triangles.
        weights: `(n, 3)`, the share of each corner, corrected for perspective; their sum is 1.
    """

    pixels: Indices
    triangles: Indices
    weights: Numbers

    def interpolate(self, values: Numbers, triangles: Indices) -> Numbers:
        """Return values of points `(p, ...)` at the fragments `(n, ...)`.

        Args:
            triangles: `(m, 3)`, the triangles that were drawn.
        """
        corners = values[triangles[self.triangles]]
        return np.einsum("nc,nc...->n...", self.weights, corners)


def rasterise(
    points: Numbers,
    triangles: Indices,
    height: int,
    width: int,
    inside: Numbers | None = None,
) -> Fragments:
    """Find the nearest triangle of each pixel; both sides of a triangle are seen.

    Args:
        points: `(p, 3)`: x and y in pixels from the upper left corner, and the distance from the
            camera, above 0.
        triangles: `(m, 3)` indices of points.
        inside: `(p)`; where the interpolated value is below 0, a triangle is cut away.
    """
    x, y, distance = (axis[triangles.T] for axis in points.T.astype(np.float32))
    # The centres of pixels lie at halves.
    left, right = _span(x, width)
    top, bottom = _span(y, height)
    area = (x[1] - x[0]) * (y[2] - y[0]) - (x[2] - x[0]) * (y[1] - y[0])
    seen = (left <= right) & (top <= bottom) & (abs(area) > SMALLEST_AREA)
    drawn = np.flatnonzero(seen & (distance > 0).all(axis=0))
    x = x[:, drawn]
    y = y[:, drawn]
    distance = distance[:, drawn]
    area = area[drawn]

    # Every pixel of every triangle's box is a candidate.
    columns = (right - left + 1)[drawn]
    counts = columns * (bottom - top + 1)[drawn]
    which = np.repeat(np.arange(len(drawn)), counts)
    row, column = np.divmod(
        np.arange(len(which)) - np.repeat(np.cumsum(counts) - counts, counts), columns[which]
    )
    row += top[drawn][which]
    column += left[drawn][which]
    across = column + np.float32(0.5) - x[0, which]
    down = row + np.float32(0.5) - y[0, which]
    second = (across * (y[2] - y[0])[which] - down * (x[2] - x[0])[which]) / area[which]
    third = (down * (x[1] - x[0])[which] - across * (y[1] - y[0])[which]) / area[which]
    covered = np.flatnonzero((second >= 0) & (third >= 0) & (second + third <= 1))
    which = which[covered]
    second = second[covered]
    third = third[covered]
    pixels = row[covered] * width + column[covered]

    # Shares of corners are linear in the picture after division by the distance.
    shares = np.stack([1 - second - third, second, third]) / distance[:, which]
    nearness = shares.sum(axis=0)
    weights = (shares / nearness).T
    ids = drawn[which]
    if inside is not None:
        kept = np.einsum("nc,nc->n", weights, inside[triangles[ids]]) >= 0
        ids = ids[kept]
        pixels = pixels[kept]
        nearness = nearness[kept]
        weights = weights[kept]

    order = np.lexsort((nearness, pixels))
    is_nearest = np.diff(pixels[order], append=-1) != 0
    nearest = order[is_nearest]
    return Fragments(pixels[nearest], ids[nearest], weights[nearest])


def _span(corners: Numbers, size: int) -> tuple[Indices, Indices]:
    """Return the first and the last pixel whose centre lies between corners `(3, m)`."""
    low = np.minimum(np.minimum(corners[0], corners[1]), corners[2])
    high = np.maximum(np.maximum(corners[0], corners[1]), corners[2])
    first = np.ceil(low.clip(0, size) - 0.5).astype(np.int64)
    last = np.floor(high.clip(0, size) - 0.5).astype(np.int64)
    return first, last
