"""A small painter of shaded solids: tapered tubes and ellipsoids, antialiased analytically.

Every pixel of a solid knows where it lies on the surface, so a pattern, a strap or a face turns
with the body instead of being pasted flat onto it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Plane = NDArray[np.floating[Any]]
"""An array over pixels, float32."""
Paint = Callable[[Plane, Plane], Plane]
"""From (sideways, along) of a tube, or a similar pair, to colours `(h, w, 3)`, 0 to 1."""
Pixel = tuple[float, float]
"""(x, y) in an image."""


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


def unit(values: Plane) -> Plane:
    """The values held between 0 and 1; `np.clip` costs three times as much on small planes."""
    held: Plane = np.minimum(np.maximum(values, 0.0), 1.0)
    return held


def soft_step(distance: Plane, sharpness: float) -> Plane:
    """0 below, 1 above, with a ramp of width 1/sharpness about zero."""
    return unit(distance * sharpness + 0.5)


def plain(colour: ArrayLike) -> Paint:
    """Paint of one colour."""
    flat = np.asarray(colour, np.float32)
    return lambda _first, _second: flat


def blend(below: Plane, above: ArrayLike, weight: Plane) -> Plane:
    """Lays a colour over `below` with `weight` `(h, w)`."""
    return below + weight[..., None] * (np.asarray(above, np.float32) - below)


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
        start: Pixel,
        end: Pixel,
        half_widths: tuple[float, ...],
        paint: Paint,
        *,
        at: tuple[float, ...] = (0.0, 1.0),
        round_ends: bool = True,
    ) -> None:
        """Paints a tube about the axis from `start` to `end`.

        Args:
            start, end: the axis, pixels.
            half_widths: the tube's half width in pixels at each of `at`, fractions of the axis.
            paint: gives the colour from (sideways, along): -1 to 1 across, 0 to 1 from the start.
            round_ends: whether it ends in a half disc or is cut off straight.
        """
        reach = max(half_widths) + 1.5
        window = self._window((start, end), (reach, reach))
        across = end[0] - start[0]
        down = end[1] - start[1]
        length = max(float(np.hypot(across, down)), 1e-3)
        across = across / length
        down = down / length
        x, y = self._relative(window, start)
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
            coverage = unit(half - np.abs(offset) + 0.5) * unit(1.0 - np.abs(beyond))
        shade = self.light.shade(sideways, np.sqrt(1.0 - sideways * sideways))
        self._blend(window, paint(sideways, along) * shade[..., None], coverage)

    def ellipsoid(self, centre: Pixel, radii: tuple[float, float], paint: Paint) -> None:
        """Paints an ellipsoid; `paint` gets the unit normal's (right, up) components."""
        window = self._window((centre,), (radii[0] + 1.5, radii[1] + 1.5))
        x, y = self._relative(window, centre)
        right = x / radii[0]
        up = -y / radii[1]
        distance = np.sqrt(right * right + up * up)
        coverage = unit((1.0 - distance) * min(radii) + 0.5)
        scale = 1.0 / np.maximum(distance, 1.0)
        right = right * scale
        up = up * scale
        near = np.sqrt(np.maximum(1.0 - right * right - up * up, 0.0))
        shade = self.light.shade(right, near) + self.light.above * up
        self._blend(window, paint(right, up) * shade[..., None], coverage)

    def darken(self, centre: Pixel, radii: tuple[float, float], strength: float) -> None:
        """Casts a soft elliptical shadow; `strength` 0 to 1 is how dark its middle is."""
        window = self._window((centre,), (2 * radii[0], 2 * radii[1]))
        x, y = self._relative(window, centre)
        right = x / radii[0]
        down = y / radii[1]
        self.pixels[window] *= (1.0 - strength * np.exp(-(right**2) - down**2))[..., None]

    def _window(self, points: tuple[Pixel, ...], reach: tuple[float, float]) -> tuple[slice, slice]:
        """The rows and columns of the image that are as near to the points as `reach`, (x, y)."""
        columns, rows = (
            slice(max(int(min(own) - far), 0), max(min(int(max(own) + far) + 1, size), 0))
            for own, far, size in zip(
                zip(*points, strict=True), reach, self.pixels.shape[1::-1], strict=True
            )
        )
        return rows, columns

    def _relative(self, window: tuple[slice, slice], origin: Pixel) -> tuple[Plane, Plane]:
        rows, columns = window
        return self._columns[:, columns] - origin[0], self._rows[rows] - origin[1]

    def _blend(self, window: tuple[slice, slice], colours: Plane, coverage: Plane) -> None:
        below = self.pixels[window]
        below += coverage[..., None] * (colours - below)
