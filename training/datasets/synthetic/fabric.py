"""Cloth: a colour, a second colour, and the pattern that mixes them over a body's surface."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from training.datasets.synthetic.raster import Paint, Plane, soft_step

Colour = tuple[float, float, float]
"""RGB, 0 to 1."""


@dataclass(frozen=True)
class Fabric:
    """What a garment is made of.

    Attributes:
        colour, second: ground colour and the pattern's.
        pattern: `plain`, `hoops`, `stripes`, `checks`, `print`, `two_tone`, `motley`, `seam`.
        scale: repeats of the pattern along the garment.
        phase: where the pattern starts, radians.
        extent: how far a print, band or seam reaches, 0 to 1.
    """

    colour: Colour
    second: Colour
    pattern: str = "plain"
    scale: float = 6.0
    phase: float = 0.0
    extent: float = 0.4

    def mix(self, angle: Plane, along: Plane) -> Plane | float:
        """Share of the second colour, 0 to 1, at `angle` (radians from the front) and `along`."""
        turn = 2 * np.pi * self.scale
        if self.pattern == "hoops":
            return soft_step(np.sin(turn * along + self.phase), 1.5)
        if self.pattern == "stripes":
            return soft_step(np.sin(2.2 * self.scale * angle + self.phase), 1.2)
        if self.pattern == "checks":
            hoops = soft_step(np.sin(turn * along + self.phase), 1.5)
            return 0.5 * hoops + 0.5 * soft_step(np.sin(1.8 * self.scale * angle), 1.5)
        if self.pattern == "print":
            wide, high = 0.35 + 0.7 * self.extent, 0.08 + 0.2 * self.extent
            blob = (angle / wide) ** 4 + ((along - 0.36) / high) ** 4
            texture = 0.75 + 0.25 * np.sin(5 * self.scale * along + 7 * angle + self.phase)
            return soft_step(1.0 - blob, 2.0) * texture
        if self.pattern == "two_tone":
            return soft_step(self.extent - along, 30.0)
        if self.pattern == "motley":
            waves = np.sin(3.1 * angle + turn * along + self.phase)
            return soft_step(waves * np.sin(4.3 * angle - 0.7 * turn * along), 1.5)
        if self.pattern == "seam":
            return soft_step(0.18 + 0.2 * self.extent - np.abs(np.abs(angle) - np.pi / 2), 6.0)
        return 0.0

    def colours(self, angle: Plane, along: Plane) -> Plane:
        """Its colours `(h, w, 3)` at `angle` and `along`, both `(h, w)`."""
        ground = np.asarray(self.colour, np.float32)
        if self.pattern == "plain":
            return np.broadcast_to(ground, (*along.shape, 3))
        weight = np.asarray(self.mix(angle, along), np.float32)
        return ground + weight[..., None] * (np.asarray(self.second, np.float32) - ground)


@dataclass(frozen=True)
class Folds:
    """Creases of a garment: how deep, and where they lie this time."""

    depth: float
    phase: float

    def shade(self, angle: Plane, along: Plane) -> Plane:
        """A factor about 1."""
        drape = 2.2 * np.sin(5.0 * along + 2.0 * self.phase)
        factor: Plane = 1.0 + self.depth * np.sin(drape + 4.5 * along - 2.5 * angle + self.phase)
        return factor


def surface_angle(sideways: Plane, yaw: float) -> Plane:
    """Where on a body turned by `yaw` a point lies, radians from its front, -pi to pi."""
    angle = np.arcsin(sideways) - yaw
    wrapped: Plane = angle - (2 * np.pi) * np.rint(angle * (0.5 / np.pi))
    return wrapped


def blend(below: Plane, above: Colour, weight: Plane) -> Plane:
    """Lays a colour over `below` with `weight` `(h, w)`."""
    return below + weight[..., None] * (np.asarray(above, np.float32) - below)


def plain(colour: Colour) -> Paint:
    """Paint of one colour."""
    flat = np.asarray(colour, np.float32)
    return lambda _first, _second: flat
