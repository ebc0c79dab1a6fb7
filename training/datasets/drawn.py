"""Drawn people: a data set without real people, for tests, demonstrations and first runs.

A person is a figure of rounded limbs in the colours of clothes, skin and hair. Each camera has its
own scene, tint, light, sharpness and noise; the cameras of a domain have similar tints.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from model.arrays import Array, Pixels
from training.datasets.kind import DatasetKind
from training.datasets.record import CropRecord, Dataset, DatasetProblem
from training.rendered.palettes import palette

DRAWN = ("synthetic", "rendered")
"""The names of the data sets that are drawn from a seed."""
TERMS = "Drawn by this project; no person is shown."

Plane = NDArray[np.floating[Any]]
Place = Sequence[float] | Array
Random = np.random.Generator

LIMITS = {
    "the seed": ("seed", 0, 2**63 - 1),
    "identities": ("identities_per_domain", 1, 100_000),
    "domains": ("domains", 1, 1_000),
    "cameras": ("cameras_per_domain", 1, 1_000),
    "crops": ("crops_per_camera", 1, 1_000),
}
"""The parts of a spec: the argument of `draw_people`, its smallest and its largest value."""


CLOTHES = palette(
    "14141a 404047 8c8c8f d9d9d4 1a295c 33599e 801a1f bf3329 "
    "295233 738040 6b4d33 b8996b d9b333 73407a cc808c 338085"
)
SKIN = palette("edc7ad c79473 805740")
HAIR = palette("120f0f 472e1c 997a4d b0b0ad")
EXPOSURES = (0.85, 1.1, 0.95, 1.2)


@dataclass(frozen=True)
class Cloth:
    """A cloth of two colours; `stripes` is their number per body height along x and y."""

    first: Plane
    second: Plane
    stripes: Plane

    def colours(
        self,
        x: Plane,
        y: Plane,
    ) -> Plane:
        across, down = self.stripes
        phase = 2 * np.pi * (x * across + y * down)
        striped = np.sin(phase) > 0.3
        return np.where(striped[..., None], self.second, self.first)


@dataclass(frozen=True)
class Person:
    """The appearance of a person; widths are in body heights, sleeves a share of the arm."""

    upper: Cloth
    lower: Cloth
    hair: Plane
    skin: Plane
    shoes: Plane
    bag: Plane | None
    has_skirt: bool
    sleeves: float
    shoulders: float
    belly: float


@dataclass(frozen=True)
class Camera:
    """A camera.

    Attributes:
        scene: the background, `(48, 96, 3)` RGB from 0 to 1; a crop shows a third of its width.
        tint: a factor for each channel.
        gamma: the exponent of the exposure.
        blur: the radius in pixels.
        noise: the standard deviation, as a share of white.
        light: the side that is lit, from -1 (left) to 1 (right).
        fill: a person's height, as a share of the crop's.
        slack: the standard deviation of a person's position, as a share of the crop's height.
    """

    scene: Plane
    tint: Plane
    gamma: float
    blur: float
    noise: float
    light: float
    fill: float
    slack: float


class Canvas:
    """A crop to paint on; positions are (x, y) in body heights from the top of the head.

    Attributes:
        pixels: `(height, width, 3)` RGB from 0 to 1.
        x, y: the positions of the pixels, `(width)` and `(height, 1)`.
        scale: the number of pixels in a body height.
        light: a factor on all painted colours, `(height, width, 1)`.
    """

    def __init__(
        self,
        random: Random,
        camera: Camera,
        height: int,
        width: int,
    ) -> None:
        start = random.integers(65)
        window = _image(camera.scene[:, start : start + 32])
        self.pixels = np.asarray(window.resize((width, height)), np.float32) / 255
        self.scale = height * camera.fill * random.uniform(0.93, 1.04)
        left, top = random.normal(0, camera.slack, 2)
        self.x = _centred(width) / self.scale - left
        self.y = 0.5 + _centred(height)[:, None] / self.scale - top
        creases = np.sin(40 * self.y + 8 * self.x + random.uniform(0, 6))
        creases *= random.uniform(0.03, 0.1)
        lit = 0.25 * camera.light * np.clip(self.x / 0.1, -1, 1)
        self.light = (1 + lit + creases)[..., None]

    def limb(
        self,
        start: Place,
        end: Place,
        radius: float,
        colours: Plane,
    ) -> None:
        """Paint all pixels within a radius of the line between two positions.

        Args:
            colours: `(3)`, or of each pixel `(height, width, 3)`.
        """
        start_x, start_y = start
        end_x, end_y = end
        across = end_x - start_x
        down = end_y - start_y
        # A limb covers a small part of the crop.
        reach = radius + 1 / self.scale
        columns = _between(self.x, start_x, end_x, reach)
        rows = _between(self.y[:, 0], start_y, end_y, reach)
        pixels = self.pixels[rows, columns]
        if colours.ndim > 1:
            colours = colours[rows, columns]
        x = self.x[columns] - start_x
        y = self.y[rows] - start_y
        share = (x * across + y * down) / (across**2 + down**2)
        share = np.clip(share, 0, 1)
        distance = np.hypot(x - share * across, y - share * down)
        covered = 0.5 + (radius - distance) * self.scale
        weight = np.clip(covered, 0, 1)[..., None]
        pixels += weight * (colours * self.light[rows, columns] - pixels)


def _image(pixels: Plane) -> Image.Image:
    return Image.fromarray((255 * pixels).astype(np.uint8))


def _between(
    positions: Plane,
    start: float,
    end: float,
    reach: float,
) -> slice:
    """Return the part of ascending positions that lies between two of them, or within reach."""
    low = min(start, end) - reach
    high = max(start, end) + reach
    return slice(*np.searchsorted(positions, (low, high)))


def _centred(count: int) -> Plane:
    return np.arange(count, dtype=np.float32) + 0.5 - count / 2


def draw_people(
    seed: int,
    domains: int = 4,
    identities_per_domain: int = 150,
    cameras_per_domain: int = 3,
    crops_per_camera: int = 2,
    height: int = 128,
    width: int = 64,
) -> Dataset:
    """Draw people into the `pixels` of a data set named `synthetic`.

    The same arguments give the same bytes. A person, a camera or a crop depends only on the seed
    and its own numbers, so that a larger set contains the crops of a smaller one unchanged.

    Args:
        seed: 0 or more.
        domains: the number of domains, each with its own tint, cameras and people.
        height, width: the size of a crop in pixels.

    Raises:
        DatasetProblem: the seed is negative, or a count is less than 1.
    """
    counts = (identities_per_domain, cameras_per_domain, crops_per_camera)
    if seed < 0 or min(domains, *counts, height, width) < 1:
        raise DatasetProblem(
            f"synthetic: seed {seed}, {domains} domains of {counts} and crops of {height} by "
            f"{width} cannot be drawn; use a seed of 0 or more and counts of at least 1"
        )
    spec = (
        f"synthetic:{seed},identities={identities_per_domain},domains={domains},"
        f"cameras={cameras_per_domain},crops={crops_per_camera}"
    )
    records = [
        record
        for domain in range(domains)
        for record in _draw_domain(seed, domain, counts, (height, width))
    ]
    return Dataset("synthetic", spec, TERMS, tuple(records))


def _draw_domain(
    seed: int,
    domain: int,
    counts: tuple[int, int, int],
    size: tuple[int, int],
) -> Iterator[CropRecord]:
    def random(*numbers: int) -> Random:
        sequence = np.random.SeedSequence(seed, spawn_key=(domain, *numbers))
        return np.random.default_rng(sequence)

    identities, cameras, crops = counts
    views = [_draw_camera(random(camera), domain) for camera in range(cameras)]
    for number in range(identities):
        person = _draw_person(random(number, 0))
        for camera, crop in product(range(cameras), range(crops)):
            moment = random(number, camera, crop)
            yield CropRecord(
                source=f"synthetic:{seed}/d{domain}/{number:04d}/c{camera}/{crop}",
                dataset="synthetic",
                identity=f"d{domain}-{number:04d}",
                camera=f"d{domain}-c{camera}",
                domain=f"synthetic/domain{domain}",
                pixels=_draw_crop(moment, person, views[camera], size),
            )


def _draw_person(random: Random) -> Person:
    def shade(palette: Plane) -> Plane:
        colour: Plane = random.choice(palette) * random.uniform(0.8, 1.2)
        colour = colour + random.normal(0, 0.03, 3)
        return colour.clip(0.02, 0.98)

    def cloth(patterned: float) -> Cloth:
        directions = random.random(2) < patterned
        stripes = directions * random.uniform(8, 30)
        return Cloth(shade(CLOTHES), shade(CLOTHES), stripes)

    return Person(
        upper=cloth(0.4),
        lower=cloth(0.12),
        hair=shade(HAIR),
        skin=shade(SKIN),
        shoes=shade(CLOTHES),
        bag=shade(CLOTHES) if random.random() < 0.5 else None,
        has_skirt=random.random() < 0.15,
        sleeves=random.choice([0.4, 0.9]),
        shoulders=random.uniform(0.1, 0.135),
        belly=random.uniform(0.08, 0.13),
    )


def _draw_camera(random: Random, domain: int) -> Camera:
    rows = np.linspace(0, 1, 48)[:, None, None]
    columns = np.linspace(0, 1, 96)[:, None]
    wall = random.uniform(0.2, 0.75) + random.normal(0, 0.05, 3)
    ground = random.uniform(0.2, 0.75) + random.normal(0, 0.05, 3)
    above = rows < random.uniform(0.3, 0.6)
    scene = np.where(above, wall, ground * (0.8 + 0.3 * rows))
    for _ in range(random.integers(4, 12)):
        left, top = random.random(2)
        beside = abs(columns - left) < random.uniform(0.02, 0.1)
        inside = beside & (abs(rows - 0.6 * top) < 0.3)
        colour = random.uniform(0.1, 0.9) + random.normal(0, 0.05, 3)
        scene = np.where(inside, colour, scene)
    # The tints of consecutive domains differ as much as those of two photographed sets.
    warmth = (0.16 if domain % 2 else -0.16) + random.normal(0, 0.06)
    exposure = EXPOSURES[domain % 4] * random.uniform(0.9, 1.1)
    tint = np.array([1 + warmth, 1 + random.normal(0, 0.03), 1 - warmth])
    return Camera(
        scene=np.clip(scene, 0, 1),
        tint=exposure * tint,
        gamma=random.uniform(0.8, 1.25),
        blur=random.uniform(0.3, 0.9),
        noise=random.uniform(0.008, 0.03),
        light=random.uniform(-1, 1),
        fill=random.uniform(0.86, 0.96),
        slack=random.uniform(0.01, 0.05),
    )


def _draw_crop(
    random: Random,
    person: Person,
    camera: Camera,
    size: tuple[int, int],
) -> Pixels:
    """Draw one crop of a person, `(height, width, 3)` uint8 RGB."""
    canvas = Canvas(random, camera, *size)
    turn = random.uniform(-1, 1)
    _paint_person(random, canvas, person, turn)
    if random.random() < 0.1:
        x = random.uniform(-0.2, 0.2)
        top = random.uniform(0, 0.8)
        colour = random.uniform(0.2, 0.6) + random.normal(0, 0.06, 3)
        canvas.limb((x, top), (x, 2), 0.04 + top / 8, colour)
    exposed = canvas.pixels * camera.tint * random.uniform(0.92, 1.08)
    developed = _image(exposed.clip(0, 1) ** camera.gamma)
    blurred = np.asarray(developed.filter(ImageFilter.GaussianBlur(camera.blur)))
    noisy = blurred + random.normal(0, 255 * camera.noise, blurred.shape)
    return noisy.round().clip(0, 255).astype(np.uint8)


def _paint_person(
    random: Random,
    canvas: Canvas,
    person: Person,
    turn: float,
) -> None:
    """Paint a person whose `turn` is -1 with the back to the camera and 1 with the face to it."""
    # Seen from the side, a person is narrower and takes longer steps.
    sideways = 1 - abs(turn)
    shoulders = person.shoulders * (1 - 0.25 * sideways)
    belly = person.belly * (1 - 0.2 * sideways)
    stride = random.uniform(0, 0.04 + 0.1 * sideways)
    swing = random.uniform(-0.05, 0.12)
    slant = random.normal(0, 0.015)
    upper = person.upper.colours(canvas.x + 0.03 * turn, canvas.y)
    lower = person.lower.colours(canvas.x, canvas.y)
    for side in (-1, 1):
        hip = (0.035 * side, 0.52)
        foot = (side * (0.035 + stride), 0.95)
        canvas.limb(hip, foot, 0.04, person.skin if person.has_skirt else lower)
        toes = (foot[0] + 0.03 * sideways, 0.97)
        canvas.limb(foot, toes, 0.024, person.shoes)
        shoulder = np.array([slant + side * (shoulders - 0.02), 0.21])
        hand = np.array([side * (shoulders + swing), 0.52])
        canvas.limb(shoulder, hand, 0.025, person.skin)
        cuff = shoulder + person.sleeves * (hand - shoulder)
        canvas.limb(shoulder, cuff, 0.034, upper)
    for side in (-1, 0, 1):
        if person.has_skirt:
            canvas.limb((0.05 * side, 0.5), (0.08 * side, 0.68), 0.05, lower)
    for side in (-1, 0, 1):
        chest = (slant + side * (shoulders - 0.05), 0.2)
        waist = (side * (belly - 0.05), 0.48)
        canvas.limb(chest, waist, 0.05, upper)
    if person.bag is not None:
        canvas.limb((0.1, 0.36), (0.11, 0.46), 0.045, person.bag)
    canvas.limb((slant, 0.1), (slant, 0.15), 0.028, person.skin)
    canvas.limb((slant, 0.055), (slant, 0.085), 0.052, person.hair)
    if turn > -0.4:
        canvas.limb((slant, 0.08), (slant, 0.1), 0.04, person.skin)


def _read_drawn(kind: DatasetKind, text: str) -> Dataset:
    """Draw the people of `SEED[,identities=60][,domains=4][,cameras=3][,crops=2]`.

    Identities and cameras are counted per domain, crops per camera.

    Raises:
        DatasetProblem: the text has another form.
    """
    numbers = read_numbers(kind, text)
    return replace(draw_people(**numbers), spec=f"{kind.name}:{text}")


def read_numbers(kind: DatasetKind, text: str) -> dict[str, int]:
    """Read a seed and counts, of `LIMITS`; the counts that are left out are missing.

    Raises:
        DatasetProblem: the text has another form.
    """
    numbers: dict[str, int] = {}
    for part in f"the seed={text}".split(","):
        name, _, written = (word.strip() for word in part.partition("="))
        argument, least, most = LIMITS.get(name, ("", 0, 0))
        number = int(written) if re.fullmatch(r"[0-9]{1,19}", written) else -1
        if not argument:
            fault = f"{part.strip()!r} is not one of identities, domains, cameras, crops"
        elif argument in numbers:
            fault = f"{name} is given twice"
        elif not least <= number <= most:
            fault = f"{name} is {written!r}, not a whole number {least} to {most}"
        else:
            numbers[argument] = number
            continue
        raise DatasetProblem(
            f"{kind.name}:{text}: {fault}; write a seed and, if wanted, counts, such as "
            f"{kind.name}:7 or {kind.name}:7,identities=60,domains=4,cameras=3,crops=2"
        )
    return numbers


SYNTHETIC = DatasetKind(
    name="synthetic",
    path="a seed such as 7, with options such as 7,identities=60,domains=4",
    terms=TERMS,
    obtain="drawn on the spot",
    read=_read_drawn,
    is_path=False,
)
