"""A small painter of shaded solids: tapered tubes and ellipsoids, antialiased analytically.

Every pixel of a solid knows where it lies on the surface, so a pattern, a strap or a face turns
with the body instead of being pasted flat onto it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Plane = NDArray[np.floating[Any]]
"""An array over pixels, float32."""
Paint = Callable[[Plane, Plane], Plane]
"""From (sideways, along) of a tube, or a similar pair, to colours `(h, w, 3)`, 0 to 1."""


@dataclass(frozen=True)
class Light:
    """One distant lamp and the sky, in the camera's frame.

    Attributes:
        side, front: direction towards the lamp: image right, and towards the camera.
        above: how much stronger surfaces that look up are lit.
        ambient, diffuse: strengths of sky and lamp.
    """

    side: float
    front: float
    above: float
    ambient: float
    diffuse: float

    def shade(self, right: Plane, near: Plane) -> Plane:
        """How bright a surface is whose unit normal points `right` and `near` (the camera)."""
        lambert = np.maximum(right * self.side + near * self.front, 0.0)
        return self.ambient + self.diffuse * lambert


def soft_step(distance: Plane, sharpness: float) -> Plane:
    """0 below, 1 above, with a ramp of width 1/sharpness about zero."""
    return unit(distance * sharpness + 0.5)


def unit(values: Plane) -> Plane:
    """The values held between 0 and 1; `np.clip` costs three times as much on small planes."""
    held: Plane = np.minimum(np.maximum(values, 0.0), 1.0)
    return held


class Canvas:
    """An RGB image being painted, `(h, w, 3)` float32, 0 to 1."""

    def __init__(self, pixels: Plane, light: Light) -> None:
        self.pixels = pixels
        self.light = light
        height, width = pixels.shape[:2]
        self._rows = np.arange(height, dtype=np.float32)[:, None] + 0.5
        self._columns = np.arange(width, dtype=np.float32)[None, :] + 0.5

    def tube(
        self,
        start: tuple[float, float],
        end: tuple[float, float],
        half_widths: tuple[float, ...],
        paint: Paint,
        *,
        at: tuple[float, ...] = (0.0, 1.0),
        round_ends: bool = True,
    ) -> None:
        """Paints a tube about the axis from `start` to `end`.

        Args:
            start, end: (x, y), pixels.
            half_widths: the tube's half width in pixels at each of `at`, fractions of the axis.
            paint: gives the colour from (sideways, along): -1 to 1 across, 0 to 1 from the start.
            round_ends: whether it ends in a half disc or is cut off straight.
        """
        reach = max(half_widths) + 1.5
        rows, columns = self._window(
            min(start[0], end[0]) - reach,
            min(start[1], end[1]) - reach,
            max(start[0], end[0]) + reach,
            max(start[1], end[1]) + reach,
        )
        if rows.start >= rows.stop or columns.start >= columns.stop:
            return
        across, down = end[0] - start[0], end[1] - start[1]
        length = max(float(np.hypot(across, down)), 1e-3)
        across, down = across / length, down / length
        x, y = self._columns[:, columns] - start[0], self._rows[rows] - start[1]
        position = (x * across + y * down) / length
        along = unit(position)
        if len(half_widths) == 2:
            half = half_widths[0] + (half_widths[1] - half_widths[0]) * along
        else:
            half = np.interp(along, at, half_widths).astype(np.float32)
        offset = x * down - y * across
        beyond = (position - along) * length
        # A tube that runs down the image has its right at the image's right, one that runs up
        # too: "sideways" is always image right, so that light and texture agree.
        sideways = (offset if down >= 0 else -offset) / np.maximum(half, 0.3)
        sideways = np.minimum(np.maximum(sideways, -1.0), 1.0)
        if round_ends:
            coverage = unit(half - np.sqrt(offset * offset + beyond * beyond) + 0.5)
        else:
            coverage = unit(half - np.abs(offset) + 0.5)
            coverage *= unit(1.0 - np.abs(beyond))
        near = np.sqrt(1.0 - sideways * sideways)
        shade = self.light.shade(sideways, near)
        self._blend(rows, columns, paint(sideways, along) * shade[..., None], coverage)

    def ellipsoid(
        self, centre: tuple[float, float], radii: tuple[float, float], paint: Paint
    ) -> None:
        """Paints an ellipsoid; `paint` gets the unit normal's (right, up) components."""
        rows, columns = self._window(
            centre[0] - radii[0] - 1.5,
            centre[1] - radii[1] - 1.5,
            centre[0] + radii[0] + 1.5,
            centre[1] + radii[1] + 1.5,
        )
        if rows.start >= rows.stop or columns.start >= columns.stop:
            return
        right = (self._columns[:, columns] - centre[0]) / radii[0]
        up = (centre[1] - self._rows[rows]) / radii[1]
        distance = np.sqrt(right * right + up * up)
        coverage = unit((1.0 - distance) * min(radii) + 0.5)
        scale = 1.0 / np.maximum(distance, 1.0)
        right, up = right * scale, up * scale
        near = np.sqrt(np.maximum(1.0 - right * right - up * up, 0.0))
        shade = self.light.shade(right, near) + self.light.above * up
        self._blend(rows, columns, paint(right, up) * shade[..., None], coverage)

    def darken(
        self, centre: tuple[float, float], radii: tuple[float, float], strength: float
    ) -> None:
        """Casts a soft elliptical shadow; `strength` 0 to 1 is how dark its middle is."""
        rows, columns = self._window(
            centre[0] - 2 * radii[0],
            centre[1] - 2 * radii[1],
            centre[0] + 2 * radii[0],
            centre[1] + 2 * radii[1],
        )
        right = (self._columns[:, columns] - centre[0]) / radii[0]
        up = (self._rows[rows] - centre[1]) / radii[1]
        self.pixels[rows, columns] *= (1.0 - strength * np.exp(-(right**2) - up**2))[..., None]

    def _window(self, left: float, top: float, right: float, bottom: float) -> tuple[slice, slice]:
        height, width = self.pixels.shape[:2]
        return (
            slice(max(int(top), 0), min(int(bottom) + 1, height)),
            slice(max(int(left), 0), min(int(right) + 1, width)),
        )

    def _blend(self, rows: slice, columns: slice, colours: Plane, coverage: Plane) -> None:
        below = self.pixels[rows, columns]
        below += coverage[..., None] * (colours - below)
