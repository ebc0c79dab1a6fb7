"""Cloths: their colours, and patterns such as stripes, checks and prints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import numpy as np

from training.rendered.arrays import Numbers, Random
from training.rendered.difficulty import Difficulty
from training.rendered.noise import COARSE, FINE
from training.rendered.palettes import clothes_colour, quiet_colour

TRUNK = 0
ARM = 1
LEG = 2
FOLD_PERIOD = 0.8
THREAD_PERIOD = 0.35

PATTERNED = {"upper": 0.45, "outer": 0.25, "lower": 0.14, "shoes": 0.15, "bag": 0.25}
"""The chance of a pattern on the other cloths of each use."""
FADED = 0.06
"""How far two pieces of the same cloth may differ in lightness."""


class Coordinates(NamedTuple):
    """Where on cloth points lie.

    Attributes:
        u, v: `(n)` in metres: around the body or limb, and up. v is the height above the ground of
            a person of 1.6 m; on arms it is as if they hung down from the shoulders.
        limb: `(n)`: `TRUNK`, `ARM` or `LEG`.
    """

    u: Numbers
    v: Numbers
    limb: Numbers


class Pattern(Protocol):
    """A function that returns how much of its colour a pattern has at points, `(n)` from 0 to 1."""

    def __call__(self, at: Coordinates) -> Numbers: ...


class Overlay(NamedTuple):
    """A colour `(3)` that lies on a cloth, and where."""

    colour: Numbers
    pattern: Pattern


@dataclass(frozen=True)
class Stripes:
    """Stripes of a period in metres; `duty` is the share of the period that is covered."""

    period: float
    duty: float
    start: float
    upright: bool

    def __call__(self, at: Coordinates) -> Numbers:
        phase = ((at.u if self.upright else at.v) / self.period + self.start) % 1
        return (phase < self.duty).astype(np.float32)


@dataclass(frozen=True)
class Checks:
    """Stripes in both directions, through which the ground is seen."""

    across: Stripes
    upright: Stripes

    def __call__(self, at: Coordinates) -> Numbers:
        return (self.across(at) + self.upright(at)) / 2


@dataclass(frozen=True)
class Dots:
    """Dots in shifted rows; the radius is a share of the period."""

    period: float
    radius: float

    def __call__(self, at: Coordinates) -> Numbers:
        row = np.floor(at.v / self.period)
        across = (at.u / self.period + row / 2) % 1 - 0.5
        up = at.v / self.period - row - 0.5
        return (np.hypot(across, up) < self.radius).astype(np.float32)


@dataclass(frozen=True)
class Blotches:
    """Blotches as camouflage, flowers and batik have them."""

    period: float
    shift: float
    level: float

    def __call__(self, at: Coordinates) -> Numbers:
        texture = COARSE.at(at.u + self.shift, at.v + self.shift, self.period)
        return (texture > self.level).astype(np.float32)


@dataclass(frozen=True)
class Band:
    """All between two heights, with a gradual lower edge of a width in metres."""

    low: float
    high: float
    edge: float

    def __call__(self, at: Coordinates) -> Numbers:
        return np.where(at.v < self.high, ((at.v - self.low) / self.edge).clip(0, 1), 0)


@dataclass(frozen=True)
class Print:
    """A patch of squares on the chest or back, as letters and pictures have them.

    Attributes:
        squares: `(rows, columns)` of bool.
        left, top, width, height: its place in metres.
    """

    squares: Numbers
    left: float
    top: float
    width: float
    height: float

    def __call__(self, at: Coordinates) -> Numbers:
        rows, columns = self.squares.shape
        column = np.floor((at.u - self.left) / self.width * columns).astype(np.int64)
        row = np.floor((self.top - at.v) / self.height * rows).astype(np.int64)
        within = (column >= 0) & (column < columns) & (row >= 0) & (row < rows)
        square = self.squares[row.clip(0, rows - 1), column.clip(0, columns - 1)]
        return np.where(within & (at.limb == TRUNK), square, 0)


def sleeves(at: Coordinates) -> Numbers:
    """Cover the arms."""
    return (at.limb == ARM).astype(np.float32)


@dataclass(frozen=True)
class SideStripes:
    """A stripe along each leg."""

    half: float

    def __call__(self, at: Coordinates) -> Numbers:
        beside = abs(abs(at.u) - 0.2) < self.half
        return ((at.limb == LEG) & beside).astype(np.float32)


@dataclass(frozen=True)
class Cloth:
    """A cloth: the colour of its ground `(3)`, and what lies on it from the lowest up.

    Attributes:
        heather: how far the threads differ in lightness.
        folds: how far its folds do.
    """

    colour: Numbers
    overlays: tuple[Overlay, ...] = ()
    heather: float = 0.03
    folds: float = 0.15

    def colours(self, at: Coordinates) -> Numbers:
        """Return the colours at coordinates, `(n, 3)` from 0 to 1."""
        result = np.repeat(self.colour[None], len(at.u), axis=0).astype(np.float32)
        for overlay in self.overlays:
            result += overlay.pattern(at)[:, None] * (overlay.colour - result)
        threads = 1 + self.heather * FINE.at(at.u, at.v, THREAD_PERIOD)
        folds = 1 + self.folds * COARSE.at(at.u, at.v, FOLD_PERIOD)
        return result * (threads * folds)[:, None]


class Stock:
    """The cloths of which the clothes of a site's people are made."""

    def __init__(self, random: Random, difficulty: Difficulty) -> None:
        self._cloths = {
            use: [_draw_cloth(random, use, difficulty.quiet) for _ in range(count)]
            for use, count in difficulty.cloths.items()
        }

    def draw(self, random: Random, use: str) -> Cloth:
        """Draw a piece of cloth; `use` is a key of `palettes.CLOTHES`."""
        cloths = self._cloths[use]
        cloth = cloths[int(random.integers(len(cloths)))]
        return replace(cloth, colour=cloth.colour * random.uniform(1 - FADED, 1 + FADED))


def _draw_cloth(random: Random, use: str, quiet: float) -> Cloth:
    heather = random.choice([0.01, 0.03, 0.08])
    folds = random.uniform(0.05, 0.28)
    if random.random() < quiet:
        return Cloth(quiet_colour(random), heather=heather, folds=folds)
    colour = clothes_colour(random, use)
    patterns: list[Pattern] = []
    if random.random() < PATTERNED[use]:
        patterns += _draw_patterns(random, use)
    if use != "lower" and random.random() < 0.25:
        patterns.append(_draw_print(random))
    if random.random() < 0.12:
        patterns.append(SideStripes(random.uniform(0.01, 0.03)) if use == "lower" else sleeves)
    return Cloth(
        colour,
        tuple(Overlay(_contrast(random, colour, use), pattern) for pattern in patterns),
        heather=heather,
        folds=folds,
    )


def _contrast(random: Random, colour: Numbers, use: str) -> Numbers:
    """Return another colour of clothes that stands out, if eight attempts find one."""
    colours = [clothes_colour(random, use) for _ in range(8)]
    return next((other for other in colours if abs(other - colour).sum() > 0.5), colours[-1])


def _draw_patterns(random: Random, use: str) -> Sequence[Pattern]:
    def stripes(smallest: float, upright: bool) -> Stripes:
        period = np.exp(random.uniform(np.log(smallest), np.log(0.16)))
        return Stripes(float(period), random.uniform(0.15, 0.6), random.random(), upright)

    kind = random.choice(["stripes", "checks", "dots", "blotches", "block", "fade"])
    several = range(random.integers(1, 4))
    low = random.uniform(0.3, 0.8) if use == "lower" else random.uniform(0.85, 1.35)
    if kind == "stripes":
        return [stripes(0.02, random.random() < 0.3)]
    if kind == "checks":
        return [Checks(stripes(0.03, False), stripes(0.03, True)) for _ in several]
    if kind == "dots":
        return [Dots(random.uniform(0.03, 0.1), random.uniform(0.2, 0.42))]
    if kind == "blotches":
        period = random.uniform(0.4, 2.2)
        return [Blotches(period, 9 * random.random(), random.uniform(0.1, 0.6)) for _ in several]
    if kind == "block":
        return [Band(low, low + random.choice([random.uniform(0.05, 0.3), 9]), 0.002)]
    return [Band(low - 0.5, 9, random.uniform(0.3, 0.8))]


def _draw_print(random: Random) -> Print:
    squares = random.random(random.integers(3, 12, 2)) < random.uniform(0.35, 0.9)
    width = random.uniform(0.06, 0.3)
    return Print(
        squares.astype(np.float32),
        left=random.choice([-width / 2, 0.02]),
        top=random.uniform(1.2, 1.4),
        width=width,
        height=random.uniform(0.04, 0.3),
    )
