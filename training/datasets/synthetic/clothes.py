"""Who a drawn person is, fixed for the identity: proportions, hair, luggage, clothes and cloth."""

from __future__ import annotations

import tomllib
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from training.datasets.synthetic.raster import Plane, soft_step

Colour = NDArray[np.floating[Any]]
"""RGB, 0 to 1, `(3,)`."""

LOOKS = tomllib.loads(Path(__file__).with_name("looks.toml").read_text("utf-8"))
"""Colours, shares of what people wear, and domains."""

Key = TypeVar("Key")


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

    def colours(self, angle: Plane, along: Plane) -> Plane:
        """Its colours `(h, w, 3)` at `angle` (radians from the front) and `along`, `(h, w)`."""
        ground = np.asarray(self.colour, np.float32)
        if self.pattern == "plain":
            return np.broadcast_to(ground, (*along.shape, 3))
        weight = np.asarray(self._mix(angle, along), np.float32)
        return ground + weight[..., None] * (np.asarray(self.second, np.float32) - ground)

    def _mix(self, angle: Plane, along: Plane) -> Plane:
        """Share of the second colour, 0 to 1."""
        turn = 2 * np.pi * self.scale
        if self.pattern == "hoops":
            return soft_step(np.sin(turn * along + self.phase), 1.5)
        if self.pattern == "stripes":
            return soft_step(np.sin(2.2 * self.scale * angle + self.phase), 1.2)
        if self.pattern == "checks":
            hoops = soft_step(np.sin(turn * along + self.phase), 1.5)
            return 0.5 * hoops + 0.5 * soft_step(np.sin(1.8 * self.scale * angle), 1.5)
        if self.pattern == "print":
            wide = 0.35 + 0.7 * self.extent
            high = 0.08 + 0.2 * self.extent
            blob = (angle / wide) ** 4 + ((along - 0.36) / high) ** 4
            texture = 0.75 + 0.25 * np.sin(5 * self.scale * along + 7 * angle + self.phase)
            return soft_step(1.0 - blob, 2.0) * texture
        if self.pattern == "two_tone":
            return soft_step(self.extent - along, 30.0)
        if self.pattern == "motley":
            waves = np.sin(3.1 * angle + turn * along + self.phase)
            return soft_step(waves * np.sin(4.3 * angle - 0.7 * turn * along), 1.5)
        return soft_step(0.18 + 0.2 * self.extent - np.abs(np.abs(angle) - np.pi / 2), 6.0)


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


def pick(rng: np.random.Generator, shares: Mapping[Key, float]) -> Key:
    """Return one key, drawn with a probability in proportion to its share."""
    keys = list(shares)
    sums = list(accumulate(shares.values()))
    return keys[min(bisect_left(sums, rng.random() * sums[-1]), len(keys) - 1)]


def draw_colour(rng: np.random.Generator, name: str, spread: float = 0.05) -> Colour:
    """Return a shade near one of the named colours."""
    colours = {tuple(colour): share for *colour, share in LOOKS["colours"][name]}
    colour = np.asarray(pick(rng, colours))
    lightness = rng.normal(1.0, 2.2 * spread)
    return np.clip(colour * lightness + rng.normal(0.0, 0.4 * spread, 3), 0.03, 0.97)


def cloth_colour(rng: np.random.Generator, vividness: float, muted: str = "muted") -> Colour:
    """Return a garment's colour; `vividness` is the share of saturated ones."""
    return draw_colour(rng, "vivid" if rng.random() < vividness else muted)


def draw_appearance(rng: np.random.Generator, cold: float, vividness: float) -> Appearance:
    """Draws a person dressed for the weather.

    Args:
        cold: 0 summer to 1 winter: decides sleeves, coats, hats.
        vividness: share of saturated colours, 0 to 1.
    """
    feminine = rng.random() < 0.48
    kinds = {
        "t_shirt": 1.25 - 1.2 * cold,
        "shirt": 0.45,
        "jacket": 0.15 + 0.6 * cold,
        "hoodie": 0.15 + 0.3 * cold,
        "coat": 0.8 * cold**2,
        "dress": 0.35 * (1.0 - 0.7 * cold) if feminine else 0.0,
    }
    kind = pick(rng, kinds)
    outer = kind in ("jacket", "coat")
    upper = _upper_fabric(rng, "coat_pattern" if outer else "upper_pattern", vividness)
    skirt, leg, lower = _lower(rng, feminine, cold, vividness)
    if kind == "dress":
        skirt = rng.uniform(0.3, 0.75)
        leg = 0.0
        lower = upper
    hems = {"coat": (0.25, 0.6), "jacket": (0.0, 0.12), "dress": (0.1, 0.12)}
    return Appearance(
        build=float(np.clip(rng.normal(0.96 if feminine else 1.04, 0.11), 0.78, 1.35)),
        shoulders=rng.normal(0.94 if feminine else 1.06, 0.05),
        head=rng.normal(1.0, 0.05),
        skin=draw_colour(rng, "skin", 0.03),
        hair=draw_colour(rng, "hair", 0.04),
        hair_style=pick(rng, LOOKS["shares"]["hair_feminine" if feminine else "hair_masculine"]),
        hat=pick(rng, {"none": 0.86 - 0.12 * cold, "cap": 0.1, "beanie": 0.02 + 0.2 * cold}),
        hat_colour=cloth_colour(rng, 0.35),
        upper=upper,
        inner=_upper_fabric(rng, "upper_pattern", vividness),
        opening=rng.uniform(0.2, 0.75) if outer and rng.random() < 0.6 else 0.0,
        hood=kind == "hoodie" or (kind == "coat" and rng.random() < 0.4),
        sleeve=_sleeve(rng, kind, cold),
        hem=rng.uniform(*hems.get(kind, (-0.02, 0.1))),
        bulk={"coat": 0.016, "jacket": 0.011, "hoodie": 0.009}.get(kind, 0.002),
        lower=lower,
        skirt=skirt,
        leg=leg,
        leg_width=float(rng.choice((0.9, 1.1, 1.35), p=(0.4, 0.4, 0.2))),
        shoes=draw_colour(rng, "shoes"),
        soles=np.asarray((0.85, 0.85, 0.83) if rng.random() < 0.4 else (0.1, 0.1, 0.1)),
        bag=pick(rng, LOOKS["shares"]["bag"]),
        bag_colour=cloth_colour(rng, 0.4),
        umbrella=cloth_colour(rng, 0.5) if rng.random() < 0.03 else None,
    )


def _upper_fabric(rng: np.random.Generator, patterns: str, vividness: float) -> Fabric:
    colour = cloth_colour(rng, vividness)
    second = cloth_colour(rng, 0.4)
    if np.abs(colour - second).sum() < 0.35:
        second = np.asarray((0.9, 0.9, 0.88) if colour.sum() < 1.5 else (0.12, 0.12, 0.14))
    pattern = pick(rng, LOOKS["shares"][patterns])
    scale = rng.uniform(3, 8)
    phase = rng.uniform(0, 6.28)
    extent = rng.uniform(0.15, 0.65)
    return Fabric(colour, second, pattern, scale, phase, extent)


def _sleeve(rng: np.random.Generator, kind: str, cold: float) -> float:
    if kind == "t_shirt" or (kind == "dress" and cold < 0.6):
        return rng.uniform(0.2, 0.45)
    return float(rng.choice((0.55, 0.95), p=(0.2, 0.8))) if kind == "shirt" else 0.96


def _lower(
    rng: np.random.Generator, feminine: bool, cold: float, vividness: float
) -> tuple[float, float, Fabric]:
    """(skirt length, covered share of the leg, fabric)."""
    colour = cloth_colour(rng, 0.35 * vividness, muted="lower")
    kinds = {
        "trousers": 1.0,
        "shorts": 0.7 * max(0.0, 0.75 - cold),
        "skirt": 0.3 * (1.0 - 0.6 * cold) if feminine else 0.0,
    }
    kind = pick(rng, kinds)
    pattern = pick(rng, LOOKS["shares"]["lower_pattern"])
    second = cloth_colour(rng, 0.4)
    scale = rng.uniform(4, 8)
    phase = rng.uniform(0, 6.28)
    extent = rng.uniform(0.1, 0.5)
    fabric = Fabric(colour, second, pattern, scale, phase, extent)
    if kind == "shorts":
        return 0.0, rng.uniform(0.3, 0.5), fabric
    if kind == "skirt":
        return rng.uniform(0.25, 0.8), 1.0 if rng.random() < 0.3 else 0.0, fabric
    return 0.0, float(rng.choice((0.97, 0.82), p=(0.85, 0.15))), fabric
