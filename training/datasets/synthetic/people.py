"""Draws a whole data set of people, and reads its spec."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from math import cos

import numpy as np

from training.datasets.kind import DatasetKind
from training.datasets.record import CropRecord, Dataset, DatasetProblem
from training.datasets.synthetic.cameras import Camera, draw_camera, expose
from training.datasets.synthetic.clothes import LOOKS, Appearance, draw_appearance
from training.datasets.synthetic.figure import paint_figure
from training.datasets.synthetic.pose import Body, View, draw_pose
from training.datasets.synthetic.raster import Canvas, Plane, plain

TERMS = "Drawn by this project; no person is shown."
OVERSAMPLING = 1.25
_PERSON, _CAMERA, _PASSER_BY, _CROP = range(4)
_NUMBERS = {
    "the seed": ("seed", 0, 2**63 - 1),
    "identities": ("identities_per_domain", 1, 100_000),
    "domains": ("domains", 1, 1_000),
    "cameras": ("cameras_per_domain", 1, 1_000),
    "crops": ("crops_per_camera", 1, 1_000),
}
"""What a spec states: the argument of `draw_people`, its least and its largest value."""


def draw_people(
    seed: int,
    domains: int = 4,
    identities_per_domain: int = 150,
    cameras_per_domain: int = 3,
    crops_per_camera: int = 2,
    height: int = 128,
    width: int = 64,
) -> Dataset:
    """Draws people; the same arguments give the same bytes.

    What a person, a camera or a crop looks like depends on the seed and its own numbers only: a
    larger set holds the smaller one's crops unchanged.

    Args:
        seed: 0 or more.
        domains: how many drawn data sets, each with its own style, cameras and people.
        height, width: crop size, pixels.

    Returns:
        A data set named `synthetic`, every crop in `pixels`.

    Raises:
        DatasetProblem: if the seed is negative or a count is less than 1.
    """
    counts = (domains, identities_per_domain, cameras_per_domain, crops_per_camera, height, width)
    if seed < 0 or min(counts) < 1:
        raise DatasetProblem(
            f"synthetic: seed {seed} and counts {counts} cannot be drawn; "
            "use a seed of 0 or more and counts of at least 1"
        )
    records = tuple(
        record for domain in range(domains) for record in _draw_domain(seed, domain, *counts[1:])
    )
    spec = (
        f"synthetic:{seed},identities={identities_per_domain},domains={domains},"
        f"cameras={cameras_per_domain},crops={crops_per_camera}"
    )
    return Dataset("synthetic", spec, TERMS, records)


def _draw_domain(
    seed: int, domain: int, identities: int, cameras: int, crops: int, height: int, width: int
) -> Iterator[CropRecord]:
    """Yield the crops of one domain, person by person; beyond the styles there are they repeat."""

    def generator(*place: int) -> np.random.Generator:
        return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=place)))

    style = LOOKS["domains"][domain % len(LOOKS["domains"])]
    canvas = (round(height * OVERSAMPLING), round(width * OVERSAMPLING))
    views = [
        draw_camera(generator(_CAMERA, domain, camera), style, canvas) for camera in range(cameras)
    ]
    for number in range(identities):
        person, passer_by = (
            draw_appearance(generator(role, domain, number), style["cold"], style["vividness"])
            for role in (_PERSON, _PASSER_BY)
        )
        for camera, view in enumerate(views):
            for crop in range(crops):
                rng = generator(_CROP, domain, number, camera, crop)
                painted = _paint_crop(rng, person, passer_by, view)
                yield CropRecord(
                    source=f"synthetic:{seed}/d{domain}/{number:04d}/c{camera}/{crop}",
                    dataset="synthetic",
                    identity=f"d{domain}-{number:04d}",
                    camera=f"d{domain}-c{camera}",
                    domain=f"synthetic/domain{domain}",
                    pixels=expose(rng, painted, view, height, width),
                )


def _paint_crop(
    rng: np.random.Generator, person: Appearance, passer_by: Appearance, camera: Camera
) -> Plane:
    """Return the person at a moment before the camera; the passer-by is in some of the pictures."""
    rows = camera.scene.shape[0]
    columns = camera.scene.shape[1] // 4
    start = int(rng.integers(0, camera.scene.shape[1] - columns + 1))
    window = camera.scene[:, start : start + columns]
    if rng.random() < 0.5:
        window = window[:, ::-1]
    canvas = Canvas(window * np.float32(rng.normal(1.0, 0.04)), camera.light)
    scale = rows * rng.uniform(*camera.style["fill"]) / cos(0.5 * camera.pitch)
    # The walking direction: mostly the camera's usual one, often the opposite.
    heading = camera.yaw + (np.pi if rng.random() < 0.3 else 0.0)
    slack = camera.style["slack"]
    view = View(
        yaw=heading + rng.normal(0.0, 0.3),
        pitch=camera.pitch,
        feet=(
            columns * (0.5 + rng.normal(0.0, slack)),
            rows * (0.5 + rng.normal(0.0, 0.6 * slack)) + 0.49 * scale,
        ),
        scale=scale,
        stretch=camera.stretch * columns / rows * 2.0,
    )
    if rng.random() < 0.15:
        _paint_person(rng, canvas, passer_by, _aside(rng, canvas, view, behind=True))
    _paint_person(rng, canvas, person, view)
    if rng.random() < 0.14:
        _obstruct(rng, canvas, passer_by, view)
    return canvas.pixels


def _paint_person(rng: np.random.Generator, canvas: Canvas, person: Appearance, view: View) -> None:
    light = canvas.light
    (x, y) = view.feet
    reach = (0.13 + 0.1 * abs(light.side)) * view.scale * view.stretch
    shadow = (x - 0.08 * light.side * view.scale, y - 0.01 * view.scale)
    canvas.darken(shadow, (reach, 0.035 * view.scale), 0.25 + 0.4 * light.diffuse)
    folds = rng.uniform(0.08, 0.24), rng.uniform(0, 6.28)
    skeleton = draw_pose(rng, person.shoulders, person.build)
    paint_figure(Body(canvas, person, skeleton, view, folds))


def _aside(rng: np.random.Generator, canvas: Canvas, view: View, behind: bool) -> View:
    """Return a view of a person at the crop's edge."""
    side = 1.0 if rng.random() < 0.5 else -1.0
    scale = view.scale * (rng.uniform(0.75, 0.98) if behind else rng.uniform(1.0, 1.15))
    away = rng.uniform(0.3, 0.55) if behind else rng.uniform(0.45, 0.62)
    lower = (0.12 if behind else 0.5) * (scale - view.scale)
    feet = (view.feet[0] + side * away * canvas.pixels.shape[1], view.feet[1] + lower)
    return replace(view, yaw=rng.uniform(-np.pi, np.pi), feet=feet, scale=scale)


def _obstruct(rng: np.random.Generator, canvas: Canvas, passer_by: Appearance, view: View) -> None:
    """Puts a pole, a box, a car's side or another person before the person."""
    rows, columns = canvas.pixels.shape[:2]
    kind = int(rng.integers(4))
    shade = rng.uniform(0.15, 0.7)
    paint = plain(np.clip(shade + rng.normal(0, 0.06, 3), 0.05, 0.95))
    if kind == 0:
        x = rng.uniform(0.1, 0.9) * columns
        half = rng.uniform(0.03, 0.07) * columns
        canvas.tube((x, -9.0), (x, rows + 9.0), (half, half), paint)
    elif kind == 1:
        x = rng.uniform(-0.1, 1.1) * columns
        top = rng.uniform(0.62, 0.82) * rows
        half = rng.uniform(0.2, 0.45) * columns
        canvas.tube((x, top), (x, rows + 9.0), (half, half), paint, round_ends=False)
    elif kind == 2:
        y = rng.uniform(0.8, 0.95) * rows
        half = rng.uniform(0.1, 0.16) * rows
        canvas.tube((-9.0, y + half), (columns + 9.0, y + half), (half, half), paint)
    else:
        _paint_person(rng, canvas, passer_by, _aside(rng, canvas, view, behind=False))


def read_synthetic(spec_path: str) -> Dataset:
    """Draws the people that `synthetic:` and this text name.

    Args:
        spec_path: `SEED[,identities=60][,domains=4][,cameras=3][,crops=2]`: identities per
            domain, cameras per domain, crops of each identity by each camera.

    Raises:
        DatasetProblem: if the text is anything else.
    """
    numbers: dict[str, int] = {}
    for part in f"the seed={spec_path}".split(","):
        name, _, text = (word.strip() for word in part.partition("="))
        argument, least, most = _NUMBERS.get(name, ("", 0, 0))
        number = int(text) if text.isascii() and text.isdecimal() and len(text) < 20 else -1
        if not argument:
            fault = f"{part.strip()!r} is not one of {', '.join(list(_NUMBERS)[1:])}"
        elif argument in numbers:
            fault = f"{name} is given twice"
        elif not least <= number <= most:
            fault = f"{name} is {text!r}, not a whole number {least} to {most}"
        else:
            numbers[argument] = number
            continue
        raise DatasetProblem(
            f"synthetic:{spec_path}: {fault}; write a seed and, if wanted, counts, such as "
            "synthetic:7 or synthetic:7,identities=60,domains=4,cameras=3,crops=2"
        )
    return replace(draw_people(**numbers), spec=f"synthetic:{spec_path}")


SYNTHETIC = DatasetKind(
    name="synthetic",
    path="a seed such as 7, with options such as 7,identities=60,domains=4",
    terms=TERMS,
    obtain="drawn on the spot",
    read=lambda _, spec_path: read_synthetic(spec_path),
    is_path=False,
)
