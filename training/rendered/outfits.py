"""Outfits: what people wear, from shoes to coats, and their hair."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from training.rendered.arrays import Indices, Numbers, Random
from training.rendered.bags import Bag
from training.rendered.body import Build
from training.rendered.cloth import LEG, Cloth, Stock
from training.rendered.garments import Garment, Layer, Wardrobe
from training.rendered.palettes import hair_colour

LONG_HAIR = ("afro01", "bob01", "bob02", "braid01", "long01", "ponytail01")
SHORT_HAIR = ("short01", "short02", "short03", "short04")
# Caps and scarves have the form of hair and the colours of cloth.
COVERS = ("bob01", "bob02", "short02", "short04")

# Heights and lengths on the base mesh, in metres.
WAIST = 1.0
HIP = 0.9
NO_SLEEVES = -0.02
LONG_SLEEVES = 0.54
SLEEVES = (NO_SLEEVES, 0.14, 0.2, 0.33, 0.48, LONG_SLEEVES)
SLEEVE_SHARES = (0.1, 0.17, 0.18, 0.1, 0.1, 0.35)
TROUSERS = (0.25, 0.38, 0.45, 0.7, 0.8)
TROUSER_SHARES = (0.04, 0.14, 0.09, 0.15, 0.58)
COVERED = 0.03
"""The body is not drawn where it lies so far inside a garment."""

# The order from the skin outwards.
SKIN, LOWER, UPPER, COAT = range(4)


class Source(NamedTuple):
    """From what a person is drawn.

    Attributes:
        person: decides what others do not share: build, skin, hair, shoes, bag and walk.
        clothes: decides the sex and all other clothes, which two people may share.
        stock: the cloths of the person's site.
    """

    person: Random
    clothes: Random
    stock: Stock


class Outfit:
    """The clothes of one person, put on one by one.

    Attributes:
        layers: the garments.
    """

    def __init__(self, wardrobe: Wardrobe, body: Numbers) -> None:
        self._wardrobe = wardrobe
        self._chart = wardrobe.chart
        self._body = body
        self._hidden: list[Indices] = []
        self.layers: list[Layer] = []

    @property
    def hidden(self) -> Indices:
        """The points of the body below garments."""
        return np.concatenate(self._hidden)

    def wear(self, garment: Garment, cloth: Cloth, rank: int) -> None:
        self.layers.append(self._wardrobe.wear(garment, self._body, cloth, rank))
        self._hidden.append(garment.hidden)

    def top(
        self,
        cloth: Cloth,
        rank: int,
        looseness: float,
        neck: float,
        hem: float,
        sleeve: float,
        front: float = 0,
    ) -> None:
        """Wear a shirt, pullover or coat; see `Chart.top_inside` and `Wardrobe.cut`."""
        inside = self._chart.top_inside(neck, hem, sleeve, front)
        self._cut(inside, looseness, cloth, rank)

    def trousers(self, cloth: Cloth, rank: int, looseness: float, length: float) -> None:
        self._cut(self._chart.trousers_inside(WAIST, length), looseness, cloth, rank)

    def boots(self, cloth: Cloth, rank: int, looseness: float, height: float) -> None:
        """Wear boots or socks that end at a height."""
        inside = np.where(self._chart.limb == LEG, height - self._chart.height, -1)
        self._cut(inside, looseness, cloth, rank)

    def skirt(self, cloth: Cloth, rank: int, length: float, width: float) -> None:
        """Wear a skirt; `width` is how much wider it becomes in a metre."""
        helper = self._wardrobe.skirt
        down = WAIST - self._chart.height
        looseness = width * down[helper.points].clip(0)
        inside = np.minimum(down, length - down)
        layer = self._wardrobe.cut(helper, self._body, inside, looseness, cloth, rank)
        self.layers.append(layer)

    def _cut(self, inside: Numbers, looseness: float, cloth: Cloth, rank: int) -> None:
        helper = self._wardrobe.tights
        layer = self._wardrobe.cut(helper, self._body, inside, looseness, cloth, rank)
        self.layers.append(layer)
        self._hidden.append(np.flatnonzero(inside > COVERED))


def draw_outfit(
    source: Source, build: Build, bag: Bag | None, wardrobe: Wardrobe, body: Numbers
) -> Outfit:
    """Dress a body.

    Args:
        bag: whose straps lie over the clothes.
        body: the points of the body at rest.
    """
    outfit = Outfit(wardrobe, body)
    random = source.clothes
    stock = source.stock
    upper = stock.draw(random, "upper")
    coat = stock.draw(random, "outer")
    lower = stock.draw(random, "lower")
    if bag is not None:
        upper = bag.strap(upper)
        coat = bag.strap(coat)
    wears_coat = random.random() < 0.42
    _draw_shoes(source, outfit, wardrobe)
    if build.is_female and random.random() < 0.14:
        _draw_dress(random, outfit, upper, lower)
    else:
        _draw_lower(source, outfit, wardrobe, lower, build.is_female)
        _draw_upper(random, outfit, wardrobe, upper, wears_coat)
    if wears_coat:
        _draw_coat(random, outfit, coat)
    _draw_hair(source, outfit, wardrobe, build)
    return outfit


def _pick(random: Random, garments: Sequence[Garment]) -> Garment:
    return garments[int(random.integers(len(garments)))]


def _draw_shoes(source: Source, outfit: Outfit, wardrobe: Wardrobe) -> None:
    random = source.person
    shoes = source.stock.draw(random, "shoes")
    outfit.wear(_pick(random, wardrobe.shoes), shoes, UPPER)
    way = random.random()
    if way < 0.12:
        outfit.boots(shoes, COAT, 0.012, random.uniform(0.12, 0.38))
    elif way < 0.25:
        outfit.boots(source.stock.draw(random, "shoes"), SKIN, 0.004, random.uniform(0.08, 0.2))


def _draw_dress(random: Random, outfit: Outfit, cloth: Cloth, lower: Cloth) -> None:
    neck = random.uniform(1.34, 1.43)
    sleeve = random.choice(SLEEVES, p=SLEEVE_SHARES)
    outfit.top(cloth, UPPER, 0.008, neck, HIP, sleeve)
    outfit.skirt(cloth, UPPER, random.uniform(0.35, 0.95), random.uniform(0, 0.2))
    if random.random() < 0.5:
        outfit.trousers(lower, SKIN, 0.004, random.choice([0.4, 0.78]))


def _draw_lower(
    source: Source, outfit: Outfit, wardrobe: Wardrobe, cloth: Cloth, is_female: bool
) -> None:
    random = source.clothes
    way = random.random()
    if is_female and way < 0.2:
        outfit.skirt(cloth, LOWER, random.uniform(0.3, 0.9), random.uniform(0, 0.2))
        if random.random() < 0.5:
            outfit.trousers(source.stock.draw(random, "lower"), SKIN, 0.003, 0.8)
    elif way < 0.55:
        outfit.wear(_pick(random, wardrobe.bottoms), cloth, LOWER)
    else:
        length = random.choice(TROUSERS, p=TROUSER_SHARES)
        outfit.trousers(cloth, LOWER, random.choice([0.004, 0.012, 0.022]), length)


def _draw_upper(
    random: Random, outfit: Outfit, wardrobe: Wardrobe, cloth: Cloth, below_coat: bool
) -> None:
    # Fitted tops may be wider than a coat.
    if not below_coat and random.random() < 0.45:
        outfit.wear(_pick(random, wardrobe.tops), cloth, UPPER)
        return
    sleeve = random.choice(SLEEVES, p=SLEEVE_SHARES)
    neck = random.uniform(1.34, 1.43)
    hem = random.uniform(0.8, 0.97)
    outfit.top(cloth, UPPER, random.uniform(0.006, 0.02), neck, hem, sleeve)


def _draw_coat(random: Random, outfit: Outfit, cloth: Cloth) -> None:
    """Wear a jacket, a waistcoat or a coat, which may be open."""
    is_open = random.random() < 0.5
    front = random.uniform(0.02, 0.09) if is_open else 0
    sleeve = NO_SLEEVES if random.random() < 0.2 else LONG_SLEEVES
    hem = random.choice([HIP, 0.82])
    outfit.top(cloth, COAT, random.uniform(0.022, 0.04), 1.45, hem, sleeve, front)
    if random.random() < 0.3:
        outfit.skirt(cloth, COAT, random.uniform(0.2, 0.6), 0.06)


def _draw_hair(source: Source, outfit: Outfit, wardrobe: Wardrobe, build: Build) -> None:
    random = source.person
    way = random.random()
    if way < 0.06 and not build.is_female:
        return
    if way > 0.93:
        hat = source.stock.draw(random, "outer")
        outfit.wear(_pick(random, wardrobe.hats), hat, COAT)
    if 0.84 < way <= 0.93:
        cover = source.stock.draw(random, "upper")
        outfit.wear(wardrobe.hair[random.choice(COVERS)], cover, LOWER)
        return
    is_long = random.random() < (0.8 if build.is_female else 0.12)
    is_grey = build.age > 0.8 and random.random() < 0.7
    hair = Cloth(hair_colour(random, is_grey), heather=0.15, folds=0.25)
    outfit.wear(wardrobe.hair[random.choice(LONG_HAIR if is_long else SHORT_HAIR)], hair, LOWER)
