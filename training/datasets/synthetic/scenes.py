"""What stands behind the people: one wide scene per camera, of which a crop sees a window."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image, ImageDraw, ImageFilter

from training.datasets.synthetic.raster import Plane

Random = np.random.Generator
Ink = tuple[int, ...]
Box = tuple[float, float, float, float]


def draw_scene(rng: Random, kind: str, size: tuple[int, int], steep: float) -> Plane:
    """Draws a scene.

    Args:
        kind: one of `SCENES`.
        size: (height, width), pixels.
        steep: 0 for a camera at eye level to 1 for one that sees little but ground.

    Returns:
        `(height, width, 3)` float32, 0 to 1.
    """
    height, width = size
    image = Image.new("RGB", (width, height))
    horizon = int(height * float(np.clip(0.62 - 0.55 * steep + rng.normal(0, 0.05), 0.05, 0.75)))
    sketch = _Sketch(rng, ImageDraw.Draw(image), width, height, horizon)
    SCENES[kind](sketch, rng, width, height, horizon)
    image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.6, 1.6) * height / 192))
    pixels = np.asarray(image, np.float32) / 255.0
    for cells, strength in ((5, 0.06), (24, 0.04), (96, 0.03)):
        grid = rng.normal(1.0, strength, (cells, max(2, cells * width // height)))
        smooth = Image.fromarray(grid.astype(np.float32)).resize(
            image.size, Image.Resampling.BICUBIC
        )
        pixels = pixels * np.asarray(smooth, np.float32)[..., None]
    return np.clip(pixels, 0.02, 0.98).astype(np.float32)


@dataclass(frozen=True)
class _Sketch:
    """An image being drawn, with the random numbers that decide what is on it."""

    rng: Random
    draw: ImageDraw.ImageDraw
    width: int
    height: int
    horizon: int

    def ink(self, colour: ArrayLike, spread: float = 0.06) -> Ink:
        """Return a shade near `colour`."""
        lighter = self.rng.normal(0, spread)
        shade = np.asarray(colour) + lighter + self.rng.normal(0, spread / 3, 3)
        return tuple((255 * np.clip(shade, 0, 1)).astype(int).tolist())

    def box(self, corners: Box, colour: ArrayLike, spread: float = 0.06) -> None:
        """A rectangle in a shade near `colour`."""
        self.draw.rectangle(corners, fill=self.ink(colour, spread))

    def backdrop(self, colour: ArrayLike, spread: float = 0.06) -> None:
        """Everything above the horizon."""
        self.box((0, 0, self.width, self.horizon), colour, spread)

    def ground(self, colour: ArrayLike, tiles: bool) -> None:
        """Ground that lightens with distance, with the joints of its slabs in perspective."""
        width = self.width
        height = self.height
        horizon = self.horizon
        near = np.arange(height - horizon)[:, None] / max(1, height - horizon)
        shades = np.clip(np.asarray(self.ink(colour)) * (1.1 - 0.2 * near), 0, 255).astype(int)
        for row, shade in enumerate(shades.tolist(), start=horizon):
            self.draw.line((0, row, width, row), fill=tuple(shade))
        if not tiles:
            return
        joint = self.ink(0.8 * np.asarray(colour), 0.03)
        vanish = self.rng.uniform(0, width)
        slabs = int(self.rng.integers(8, 26))
        for slab in range(-slabs, 2 * slabs):
            foot = vanish + (slab - slabs / 2) * 2.5 * width / slabs
            self.draw.line((vanish + (foot - vanish) * 0.2, horizon, foot, height), fill=joint)
        for slab in range(1, slabs):
            row = horizon + (height - horizon) * (slab / slabs) ** 1.7
            self.draw.line((0, row, width, row), fill=joint)


def _street(on: _Sketch, rng: Random, width: int, height: int, horizon: int) -> None:
    on.backdrop((0.55, 0.53, 0.5))
    left = 0.0
    while left < width:
        wide = rng.uniform(0.2, 0.6) * height
        on.box((left, 0, left + wide, horizon), (0.5, 0.46, 0.42), 0.14)
        glass = on.ink((0.2, 0.24, 0.28))
        inset = 0.12 * wide
        sill = horizon * rng.uniform(0.7, 0.95)
        on.draw.rectangle((left + inset, 0.1 * horizon, left + wide - inset, sill), fill=glass)
        on.box((left, 0, left + wide, horizon * 0.12), (0.5, 0.35, 0.35), 0.25)
        left += wide
    on.ground((0.47, 0.46, 0.45), bool(rng.random() < 0.5))
    if rng.random() < 0.5:
        kerb = horizon + (height - horizon) * rng.uniform(0.1, 0.4)
        far = kerb + rng.normal(0, 0.15) * height
        road = ((0, kerb), (width, far), (width, height), (0, height))
        on.draw.polygon(road, fill=on.ink((0.3, 0.3, 0.31)))
        on.draw.line((0, kerb, width, far), fill=on.ink((0.7, 0.69, 0.66)), width=3)
    for _ in range(rng.integers(0, 4)):
        x = rng.uniform(0, width)
        y = horizon + rng.uniform(0, 0.15) * height
        long = rng.uniform(0.35, 0.5) * height
        tall = rng.uniform(0.11, 0.15) * height
        body = (x, y - tall, x + long, y)
        on.draw.rounded_rectangle(body, tall / 3, fill=on.ink((0.45, 0.45, 0.48), 0.25))
        roof = (x + long * 0.2, y - tall * 1.7, x + long * 0.78, y - tall * 0.8)
        on.draw.rounded_rectangle(roof, tall / 3, fill=on.ink((0.15, 0.17, 0.2)))
        for wheel in (x + long * 0.2, x + long * 0.78):
            half = tall * 0.3
            on.draw.ellipse((wheel - half, y - half, wheel + half, y + half), (25, 25, 25))


def _campus(on: _Sketch, rng: Random, width: int, height: int, horizon: int) -> None:
    on.backdrop((0.62, 0.68, 0.72))
    on.ground((0.32, 0.41, 0.2), False)
    start = rng.uniform(-0.2, 0.6) * width
    end = rng.uniform(-0.2, 0.6) * width
    wide = rng.uniform(0.2, 0.9) * width
    top = ((start, horizon), (start + 0.6 * wide, horizon))
    on.draw.polygon(
        (*top, (end + 1.6 * wide, height), (end, height)), fill=on.ink((0.62, 0.59, 0.54))
    )
    for _ in range(rng.integers(6, 16)):
        x = rng.uniform(0, width)
        radius = rng.uniform(0.06, 0.2) * height
        y = horizon - radius * rng.uniform(0.0, 1.2)
        trunk = on.ink((0.25, 0.19, 0.14))
        on.draw.line((x, y, x, horizon + 0.05 * height), fill=trunk, width=max(1, height // 50))
        for _ in range(8):
            cx = x + rng.normal(0, radius / 2)
            cy = y + rng.normal(0, radius / 3)
            r = radius * rng.uniform(0.25, 0.6)
            on.draw.ellipse((cx - r, cy - r, cx + r, cy + r), fill=on.ink((0.17, 0.29, 0.13)))


def _corridor(on: _Sketch, rng: Random, width: int, height: int, horizon: int) -> None:
    on.backdrop((0.72, 0.7, 0.65), 0.08)
    on.box((0, horizon * rng.uniform(0.5, 0.8), width, horizon), (0.55, 0.55, 0.56), 0.12)
    left = rng.uniform(0, 0.4) * height
    while left < width:
        wide = rng.uniform(0.2, 0.35) * height
        door = ((0.4, 0.29, 0.2), (0.3, 0.33, 0.38), (0.82, 0.8, 0.7))[int(rng.integers(3))]
        on.box((left, 0, left + wide, horizon), door)
        on.draw.rectangle((left, 0, left + 2, horizon), fill=(60, 60, 60))
        left += wide + rng.uniform(0.2, 0.9) * height
    on.ground((0.58, 0.57, 0.54), True)
    for _ in range(rng.integers(1, 5)):
        x = rng.uniform(0, width)
        wide = rng.uniform(0.03, 0.12) * height
        gleam = ((x, horizon), (x + wide, horizon), (x + 2 * wide, height), (x - wide, height))
        on.draw.polygon(gleam, on.ink((0.8, 0.8, 0.77)))


def _tiles(on: _Sketch, rng: Random, width: int, height: int, horizon: int) -> None:
    colour = ((0.75, 0.74, 0.7), (0.5, 0.56, 0.6), (0.62, 0.5, 0.4))[int(rng.integers(3))]
    on.backdrop(colour)
    side = rng.uniform(0.05, 0.14) * height
    joint = on.ink(0.75 * np.asarray(colour))
    for column in np.arange(0, width, side).tolist():
        on.draw.line((column, 0, column, horizon), fill=joint)
    for row in np.arange(horizon % side, horizon, side * 0.6).tolist():
        on.draw.line((0, row, width, row), fill=joint)
    for _ in range(rng.integers(0, 4)):
        x = rng.uniform(0, width)
        y = rng.uniform(0, 0.6) * horizon
        right = x + rng.uniform(0.1, 0.3) * height
        bottom = y + rng.uniform(0.1, 0.3) * height
        on.box((x, y, right, bottom), (0.5, 0.45, 0.45), 0.25)
    on.ground((0.45, 0.44, 0.43), True)


def _stairs(on: _Sketch, rng: Random, width: int, height: int, horizon: int) -> None:
    on.box((0, 0, width, height), (0.6, 0.58, 0.55))
    row = float(horizon) * 0.4
    step = 0.02 * height
    while row < height:
        on.box((0, row, width, row + step * 0.45), (0.7, 0.69, 0.66), 0.02)
        on.box((0, row + step * 0.45, width, row + step), (0.4, 0.39, 0.38), 0.02)
        row = row + step
        step = step * 1.12
    for _ in range(3):
        x = rng.uniform(0, width)
        lean = rng.uniform(-0.4, 0.4) * height
        rail = on.ink((0.25, 0.25, 0.27))
        on.draw.line((x, 0, x + lean, height), fill=rail, width=max(2, height // 60))


def _plaza(on: _Sketch, rng: Random, width: int, height: int, horizon: int) -> None:
    on.backdrop((0.7, 0.7, 0.7))
    for _ in range(6):
        x = rng.uniform(0, width)
        top = rng.uniform(0, 0.4) * horizon
        right = x + rng.uniform(0.2, 0.8) * height
        on.box((x, top, right, horizon), (0.55, 0.5, 0.47), 0.12)
    on.ground((0.63, 0.6, 0.56), True)
    for _ in range(rng.integers(4, 14)):
        x = rng.uniform(0, width)
        foot = horizon + rng.uniform(0.0, 0.25) * height
        tall = (0.18 + 0.4 * (foot - horizon) / height) * height
        clothes = on.ink((0.35, 0.33, 0.36), 0.2)
        on.box((x, foot - 0.5 * tall, x + 0.2 * tall, foot), (0.18, 0.18, 0.22))
        body = (x - 0.04 * tall, foot - 0.87 * tall, x + 0.24 * tall, foot - 0.45 * tall)
        on.draw.rounded_rectangle(body, 3, clothes)
        head = (x + 0.03 * tall, foot - tall, x + 0.17 * tall, foot - 0.85 * tall)
        on.draw.ellipse(head, fill=(140, 110, 90))


SCENES: dict[str, Callable[..., None]] = {
    "street": _street,
    "campus": _campus,
    "corridor": _corridor,
    "tiles": _tiles,
    "stairs": _stairs,
    "plaza": _plaza,
}
