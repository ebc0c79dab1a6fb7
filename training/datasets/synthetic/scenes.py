"""What stands behind the people: one wide scene per camera, of which a crop sees a window."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from training.datasets.synthetic.fabric import Colour
from training.datasets.synthetic.raster import Plane

Ink = tuple[int, int, int]


def draw_scene(rng: np.random.Generator, kind: str, size: tuple[int, int], steep: float) -> Plane:
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
    SCENES[kind](rng, ImageDraw.Draw(image), width, height, horizon)
    image = image.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.6, 1.6)) * height / 192))
    pixels = np.asarray(image, np.float32) / 255.0
    for cells, strength in ((5, 0.06), (24, 0.04), (96, 0.03)):
        pixels = pixels * _mottle(rng, cells, strength, size)[..., None]
    return np.clip(pixels, 0.02, 0.98).astype(np.float32)


def _mottle(rng: np.random.Generator, cells: int, strength: float, size: tuple[int, int]) -> Plane:
    height, width = size
    grid = rng.normal(1.0, strength, (cells, max(2, cells * width // height))).astype(np.float32)
    smooth = Image.fromarray(grid).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(smooth, np.float32)


def _ink(rng: np.random.Generator, colour: Colour, spread: float = 0.06) -> Ink:
    shade = np.clip(np.asarray(colour) + rng.normal(0, spread) + rng.normal(0, spread / 3, 3), 0, 1)
    red, green, blue = (int(255 * part) for part in shade)
    return (red, green, blue)


def _ground(
    rng: np.random.Generator, draw: ImageDraw.ImageDraw, width: int, height: int, horizon: int,
    colour: Colour, tiles: bool,
) -> None:  # fmt: skip
    """Ground that lightens with distance, with the joints of its slabs in perspective."""
    base = np.asarray(_ink(rng, colour))
    for row in range(horizon, height):
        near = (row - horizon) / max(1, height - horizon)
        red, green, blue = (int(part) for part in np.clip(base * (1.1 - 0.2 * near), 0, 255))
        draw.line((0, row, width, row), fill=(red, green, blue))
    if not tiles:
        return
    joint = _ink(rng, (colour[0] * 0.8, colour[1] * 0.8, colour[2] * 0.8), 0.03)
    vanish, slabs = rng.uniform(0, width), int(rng.integers(8, 26))
    for slab in range(-slabs, 2 * slabs):
        foot = vanish + (slab - slabs / 2) * 2.5 * width / slabs
        draw.line((vanish + (foot - vanish) * 0.2, horizon, foot, height), fill=joint)
    for slab in range(1, slabs):
        row = horizon + (height - horizon) * (slab / slabs) ** 1.7
        draw.line((0, row, width, row), fill=joint)


def _street(
    rng: np.random.Generator, draw: ImageDraw.ImageDraw, width: int, height: int, horizon: int
) -> None:
    draw.rectangle((0, 0, width, horizon), fill=_ink(rng, (0.55, 0.53, 0.5)))
    left = 0.0
    while left < width:
        wide = rng.uniform(0.2, 0.6) * height
        draw.rectangle((left, 0, left + wide, horizon), fill=_ink(rng, (0.5, 0.46, 0.42), 0.14))
        glass = _ink(rng, (0.2, 0.24, 0.28))
        inset, sill = 0.12 * wide, horizon * rng.uniform(0.7, 0.95)
        draw.rectangle((left + inset, 0.1 * horizon, left + wide - inset, sill), fill=glass)
        sign = _ink(rng, (0.5, 0.35, 0.35), 0.25)
        draw.rectangle((left, 0, left + wide, horizon * 0.12), fill=sign)
        left += wide
    _ground(rng, draw, width, height, horizon, (0.47, 0.46, 0.45), bool(rng.random() < 0.5))
    if rng.random() < 0.5:
        kerb = horizon + (height - horizon) * rng.uniform(0.1, 0.4)
        slope = rng.normal(0, 0.15) * height
        draw.polygon(
            ((0, kerb), (width, kerb + slope), (width, height), (0, height)),
            fill=_ink(rng, (0.3, 0.3, 0.31)),
        )
        draw.line((0, kerb, width, kerb + slope), fill=_ink(rng, (0.7, 0.69, 0.66)), width=3)
    for _ in range(int(rng.integers(0, 4))):
        _car(rng, draw, rng.uniform(0, width), horizon + rng.uniform(0, 0.15) * height, height)


def _car(
    rng: np.random.Generator, draw: ImageDraw.ImageDraw, x: float, y: float, height: int
) -> None:
    long, tall = rng.uniform(0.35, 0.5) * height, rng.uniform(0.11, 0.15) * height
    body = _ink(rng, (0.45, 0.45, 0.48), 0.25)
    draw.rounded_rectangle((x, y - tall, x + long, y), tall / 3, fill=body)
    roof = (x + long * 0.2, y - tall * 1.7, x + long * 0.78, y - tall * 0.8)
    draw.rounded_rectangle(roof, tall / 3, fill=_ink(rng, (0.15, 0.17, 0.2)))
    for wheel in (0.2, 0.78):
        at = x + long * wheel
        draw.ellipse(
            (at - tall * 0.3, y - tall * 0.3, at + tall * 0.3, y + tall * 0.3), (25, 25, 25)
        )


def _campus(
    rng: np.random.Generator, draw: ImageDraw.ImageDraw, width: int, height: int, horizon: int
) -> None:
    draw.rectangle((0, 0, width, horizon), fill=_ink(rng, (0.62, 0.68, 0.72)))
    _ground(rng, draw, width, height, horizon, (0.32, 0.41, 0.2), False)
    start, end = rng.uniform(-0.2, 0.6) * width, rng.uniform(-0.2, 0.6) * width
    wide = rng.uniform(0.2, 0.9) * width
    path = (
        (start, horizon),
        (start + 0.6 * wide, horizon),
        (end + 1.6 * wide, height),
        (end, height),
    )
    draw.polygon(path, fill=_ink(rng, (0.62, 0.59, 0.54)))
    for _ in range(int(rng.integers(6, 16))):
        x, radius = rng.uniform(0, width), rng.uniform(0.06, 0.2) * height
        y = horizon - radius * rng.uniform(0.0, 1.2)
        trunk = _ink(rng, (0.25, 0.19, 0.14))
        draw.line((x, y, x, horizon + 0.05 * height), fill=trunk, width=max(1, height // 50))
        for _ in range(8):
            cx, cy = x + rng.normal(0, radius / 2), y + rng.normal(0, radius / 3)
            r = radius * rng.uniform(0.25, 0.6)
            draw.ellipse((cx - r, cy - r, cx + r, cy + r), fill=_ink(rng, (0.17, 0.29, 0.13)))


def _corridor(
    rng: np.random.Generator, draw: ImageDraw.ImageDraw, width: int, height: int, horizon: int
) -> None:
    wall = _ink(rng, (0.72, 0.7, 0.65), 0.08)
    draw.rectangle((0, 0, width, horizon), fill=wall)
    band = horizon * rng.uniform(0.5, 0.8)
    draw.rectangle((0, band, width, horizon), fill=_ink(rng, (0.55, 0.55, 0.56), 0.12))
    left = rng.uniform(0, 0.4) * height
    while left < width:
        wide = rng.uniform(0.2, 0.35) * height
        colour = ((0.4, 0.29, 0.2), (0.3, 0.33, 0.38), (0.82, 0.8, 0.7))[int(rng.integers(3))]
        draw.rectangle((left, 0, left + wide, horizon), fill=_ink(rng, colour))
        draw.rectangle((left, 0, left + 2, horizon), fill=(60, 60, 60))
        left += wide + rng.uniform(0.2, 0.9) * height
    _ground(rng, draw, width, height, horizon, (0.58, 0.57, 0.54), True)
    for _ in range(int(rng.integers(1, 5))):
        x, wide = rng.uniform(0, width), rng.uniform(0.03, 0.12) * height
        gleam = _ink(rng, (0.8, 0.8, 0.77))
        draw.polygon(
            ((x, horizon), (x + wide, horizon), (x + 2 * wide, height), (x - wide, height)), gleam
        )


def _tiles(
    rng: np.random.Generator, draw: ImageDraw.ImageDraw, width: int, height: int, horizon: int
) -> None:
    colour = ((0.75, 0.74, 0.7), (0.5, 0.56, 0.6), (0.62, 0.5, 0.4))[int(rng.integers(3))]
    draw.rectangle((0, 0, width, horizon), fill=_ink(rng, colour))
    side = rng.uniform(0.05, 0.14) * height
    joint = _ink(rng, (colour[0] * 0.75, colour[1] * 0.75, colour[2] * 0.75))
    for column in np.arange(0, width, side).tolist():
        draw.line((column, 0, column, horizon), fill=joint)
    for row in np.arange(horizon % side, horizon, side * 0.6).tolist():
        draw.line((0, row, width, row), fill=joint)
    for _ in range(int(rng.integers(0, 4))):
        x, y = rng.uniform(0, width), rng.uniform(0, 0.6) * horizon
        poster = (x, y, x + rng.uniform(0.1, 0.3) * height, y + rng.uniform(0.1, 0.3) * height)
        draw.rectangle(poster, fill=_ink(rng, (0.5, 0.45, 0.45), 0.25))
    _ground(rng, draw, width, height, horizon, (0.45, 0.44, 0.43), True)


def _stairs(
    rng: np.random.Generator, draw: ImageDraw.ImageDraw, width: int, height: int, horizon: int
) -> None:
    draw.rectangle((0, 0, width, height), fill=_ink(rng, (0.6, 0.58, 0.55)))
    row, step = float(horizon) * 0.4, 0.02 * height
    while row < height:
        draw.rectangle((0, row, width, row + step * 0.45), fill=_ink(rng, (0.7, 0.69, 0.66), 0.02))
        draw.rectangle(
            (0, row + step * 0.45, width, row + step), fill=_ink(rng, (0.4, 0.39, 0.38), 0.02)
        )
        row, step = row + step, step * 1.12
    for _ in range(3):
        x, lean = rng.uniform(0, width), rng.uniform(-0.4, 0.4) * height
        draw.line(
            (x, 0, x + lean, height), fill=_ink(rng, (0.25, 0.25, 0.27)), width=max(2, height // 60)
        )


def _plaza(
    rng: np.random.Generator, draw: ImageDraw.ImageDraw, width: int, height: int, horizon: int
) -> None:
    draw.rectangle((0, 0, width, horizon), fill=_ink(rng, (0.7, 0.7, 0.7)))
    for _ in range(6):
        x = rng.uniform(0, width)
        wall = (x, rng.uniform(0, 0.4) * horizon, x + rng.uniform(0.2, 0.8) * height, horizon)
        draw.rectangle(wall, fill=_ink(rng, (0.55, 0.5, 0.47), 0.12))
    _ground(rng, draw, width, height, horizon, (0.63, 0.6, 0.56), True)
    for _ in range(int(rng.integers(4, 14))):
        x, foot = rng.uniform(0, width), horizon + rng.uniform(0.0, 0.25) * height
        tall = (0.18 + 0.4 * (foot - horizon) / height) * height
        clothes, legs = _ink(rng, (0.35, 0.33, 0.36), 0.2), _ink(rng, (0.18, 0.18, 0.22))
        draw.rectangle((x, foot - 0.5 * tall, x + 0.2 * tall, foot), fill=legs)
        draw.rounded_rectangle(
            (x - 0.04 * tall, foot - 0.87 * tall, x + 0.24 * tall, foot - 0.45 * tall), 3, clothes
        )
        draw.ellipse(
            (x + 0.03 * tall, foot - tall, x + 0.17 * tall, foot - 0.85 * tall), fill=(140, 110, 90)
        )


Painter = Callable[[np.random.Generator, ImageDraw.ImageDraw, int, int, int], None]
SCENES: Mapping[str, Painter] = {
    "street": _street,
    "campus": _campus,
    "corridor": _corridor,
    "tiles": _tiles,
    "stairs": _stairs,
    "plaza": _plaza,
}
