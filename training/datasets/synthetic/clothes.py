"""Who a drawn person is, fixed for the identity: proportions, hair, luggage, clothes and cloth."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import TypeVar

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


T = TypeVar("T")

SKINS: Mapping[Colour, float] = {
    (0.94, 0.79, 0.69): 0.26,
    (0.89, 0.71, 0.58): 0.28,
    (0.82, 0.62, 0.48): 0.2,
    (0.68, 0.48, 0.35): 0.1,
    (0.50, 0.34, 0.25): 0.09,
    (0.36, 0.25, 0.19): 0.07,
}
HAIRS: Mapping[Colour, float] = {
    (0.07, 0.06, 0.06): 0.45,
    (0.17, 0.11, 0.08): 0.25,
    (0.34, 0.22, 0.13): 0.12,
    (0.66, 0.50, 0.28): 0.08,
    (0.60, 0.59, 0.58): 0.06,
    (0.45, 0.17, 0.09): 0.04,
}
# Most people wear dark or muted clothes, so colour alone must not tell drawn people apart either.
MUTED: Mapping[Colour, float] = {
    (0.08, 0.08, 0.09): 0.22,
    (0.88, 0.88, 0.87): 0.13,
    (0.33, 0.34, 0.35): 0.11,
    (0.58, 0.58, 0.58): 0.08,
    (0.10, 0.13, 0.24): 0.12,
    (0.26, 0.36, 0.52): 0.08,
    (0.55, 0.47, 0.37): 0.08,
    (0.33, 0.23, 0.17): 0.06,
    (0.26, 0.29, 0.19): 0.05,
    (0.37, 0.10, 0.13): 0.07,
}
VIVID: Mapping[Colour, float] = {
    (0.75, 0.12, 0.14): 0.2,
    (0.15, 0.35, 0.72): 0.16,
    (0.93, 0.77, 0.18): 0.1,
    (0.16, 0.50, 0.28): 0.12,
    (0.87, 0.52, 0.62): 0.12,
    (0.91, 0.45, 0.14): 0.08,
    (0.42, 0.24, 0.55): 0.08,
    (0.20, 0.60, 0.62): 0.08,
    (0.55, 0.74, 0.90): 0.06,
}
LOWER: Mapping[Colour, float] = {
    (0.07, 0.07, 0.08): 0.28,
    (0.13, 0.17, 0.28): 0.22,
    (0.30, 0.40, 0.55): 0.13,
    (0.35, 0.35, 0.36): 0.12,
    (0.60, 0.53, 0.42): 0.09,
    (0.28, 0.23, 0.19): 0.06,
    (0.82, 0.81, 0.78): 0.05,
    (0.25, 0.27, 0.19): 0.05,
}
UPPER_PATTERNS = {
    "plain": 0.52, "print": 0.15, "hoops": 0.09, "checks": 0.08, "two_tone": 0.08, "stripes": 0.05,
    "motley": 0.03,
}  # fmt: skip

BAGS = {"none": 0.42, "backpack": 0.24, "shoulder": 0.15, "hand": 0.1, "tote": 0.09}
SHOES: Mapping[Colour, float] = {
    (0.08, 0.08, 0.08): 0.5,
    (0.85, 0.85, 0.84): 0.25,
    (0.35, 0.22, 0.14): 0.15,
    (0.55, 0.55, 0.57): 0.06,
    (0.7, 0.15, 0.18): 0.04,
}


@dataclass(frozen=True)
class Appearance:
    """Everything about a drawn person that no camera and no pose changes.

    Lengths are fractions of the body height; `sleeve` and `leg` are fractions of the limb that
    the garment covers, `hem` is how far down the leg the upper garment or a skirt reaches (0 hip,
    1 ankle).
    """

    build: float
    shoulders: float
    head: float
    skin: Colour
    hair: Colour
    hair_style: str
    hat: str
    hat_colour: Colour
    upper: Fabric
    inner: Fabric
    opening: float
    hood: bool
    sleeve: float
    hem: float
    bulk: float
    lower: Fabric
    skirt: float
    leg: float
    leg_width: float
    shoes: Colour
    soles: Colour
    bag: str
    bag_colour: Colour
    umbrella: Colour | None


def pick(rng: np.random.Generator, table: Mapping[T, float]) -> T:
    """One key, with the table's weights."""
    keys = list(table)
    sums = list(accumulate(table.values()))
    return keys[min(bisect_left(sums, rng.random() * sums[-1]), len(keys) - 1)]


def tint(rng: np.random.Generator, colour: Colour, spread: float = 0.05) -> Colour:
    """A shade near `colour`."""
    lightness = rng.normal(1.0, 2.2 * spread)
    varied = np.clip(np.asarray(colour) * lightness + rng.normal(0.0, 0.4 * spread, 3), 0.03, 0.97)
    return (float(varied[0]), float(varied[1]), float(varied[2]))


def cloth_colour(rng: np.random.Generator, vividness: float) -> Colour:
    """A garment's colour; `vividness` is the share of saturated ones."""
    return tint(rng, pick(rng, VIVID if rng.random() < vividness else MUTED))


def draw_appearance(rng: np.random.Generator, cold: float, vividness: float) -> Appearance:
    """Draws a person dressed for the weather.

    Args:
        cold: 0 summer to 1 winter: decides sleeves, coats, hats.
        vividness: share of saturated colours, 0 to 1.
    """
    feminine = rng.random() < 0.48
    kind = pick(
        rng,
        {
            "t_shirt": 1.25 - 1.2 * cold,
            "shirt": 0.45,
            "jacket": 0.15 + 0.6 * cold,
            "hoodie": 0.15 + 0.3 * cold,
            "coat": 0.8 * cold**2,
            "dress": 0.35 * (1.0 - 0.7 * cold) if feminine else 0.0,
        },
    )
    outer = kind in ("jacket", "coat")
    upper = _upper_fabric(rng, kind, vividness)
    skirt, leg, lower = _lower(rng, feminine, cold, vividness)
    if kind == "dress":
        skirt, leg, lower = float(rng.uniform(0.3, 0.75)), 0.0, upper
    hems = {"coat": (0.25, 0.6), "jacket": (0.0, 0.12), "dress": (0.1, 0.12)}
    return Appearance(
        build=float(np.clip(rng.normal(0.96 if feminine else 1.04, 0.11), 0.78, 1.35)),
        shoulders=float(rng.normal(0.94 if feminine else 1.06, 0.05)),
        head=float(rng.normal(1.0, 0.05)),
        skin=tint(rng, pick(rng, SKINS), 0.03),
        hair=tint(rng, pick(rng, HAIRS), 0.04),
        hair_style=pick(
            rng,
            {"long": 0.42, "tail": 0.22, "bob": 0.2, "bun": 0.08, "short": 0.08}
            if feminine
            else {"short": 0.68, "crop": 0.18, "bald": 0.07, "bob": 0.07},
        ),
        hat=pick(rng, {"none": 0.86 - 0.12 * cold, "cap": 0.1, "beanie": 0.02 + 0.2 * cold}),
        hat_colour=cloth_colour(rng, 0.35),
        upper=upper,
        inner=_upper_fabric(rng, "t_shirt", vividness),
        opening=float(rng.uniform(0.2, 0.75)) if outer and rng.random() < 0.6 else 0.0,
        hood=kind == "hoodie" or (kind == "coat" and rng.random() < 0.4),
        sleeve=float(rng.uniform(0.2, 0.45))
        if kind == "t_shirt" or (kind == "dress" and cold < 0.6)
        else float(rng.choice((0.55, 0.95), p=(0.2, 0.8)))
        if kind == "shirt"
        else 0.96,
        hem=float(rng.uniform(*hems.get(kind, (-0.02, 0.1)))),
        bulk={"coat": 0.016, "jacket": 0.011, "hoodie": 0.009}.get(kind, 0.002),
        lower=lower,
        skirt=skirt,
        leg=leg,
        leg_width=float(rng.choice((0.9, 1.1, 1.35), p=(0.4, 0.4, 0.2))),
        shoes=tint(rng, pick(rng, SHOES)),
        soles=(0.85, 0.85, 0.83) if rng.random() < 0.4 else (0.1, 0.1, 0.1),
        bag=pick(rng, BAGS),
        bag_colour=cloth_colour(rng, 0.4),
        umbrella=cloth_colour(rng, 0.5) if rng.random() < 0.03 else None,
    )


def _upper_fabric(rng: np.random.Generator, kind: str, vividness: float) -> Fabric:
    patterns = dict(UPPER_PATTERNS)
    if kind in ("coat", "jacket"):
        patterns = {"plain": 0.8, "two_tone": 0.1, "checks": 0.1}
    colour, second = cloth_colour(rng, vividness), cloth_colour(rng, 0.4)
    if sum(abs(a - b) for a, b in zip(colour, second, strict=True)) < 0.35:
        second = (0.9, 0.9, 0.88) if sum(colour) < 1.5 else (0.12, 0.12, 0.14)
    return Fabric(
        colour,
        second,
        pick(rng, patterns),
        scale=float(rng.uniform(3.0, 8.0)),
        phase=float(rng.uniform(0, 6.28)),
        extent=float(rng.uniform(0.15, 0.65)),
    )


def _lower(
    rng: np.random.Generator, feminine: bool, cold: float, vividness: float
) -> tuple[float, float, Fabric]:
    """(skirt length, covered share of the leg, fabric)."""
    vivid = rng.random() < 0.35 * vividness
    colour = tint(rng, pick(rng, VIVID if vivid else LOWER))
    kind = pick(
        rng,
        {
            "trousers": 1.0,
            "shorts": 0.7 * max(0.0, 0.75 - cold),
            "skirt": 0.3 * (1.0 - 0.6 * cold) if feminine else 0.0,
        },
    )
    pattern = pick(rng, {"plain": 0.84, "seam": 0.08, "checks": 0.04, "motley": 0.04})
    fabric = Fabric(
        colour, cloth_colour(rng, 0.4), pattern, scale=float(rng.uniform(4, 8)),
        phase=float(rng.uniform(0, 6.28)), extent=float(rng.uniform(0.1, 0.5)),
    )  # fmt: skip
    if kind == "shorts":
        return 0.0, float(rng.uniform(0.3, 0.5)), fabric
    if kind == "skirt":
        return float(rng.uniform(0.25, 0.8)), 1.0 if rng.random() < 0.3 else 0.0, fabric
    return 0.0, float(rng.choice((0.97, 0.82), p=(0.85, 0.15))), fabric
