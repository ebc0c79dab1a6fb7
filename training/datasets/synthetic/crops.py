"""One crop: a person at a moment before a camera, with what stands in the way."""

from __future__ import annotations

from math import cos

import numpy as np
from numpy.typing import NDArray

from training.datasets.synthetic.cameras import Camera, expose
from training.datasets.synthetic.clothes import Appearance, Folds, plain
from training.datasets.synthetic.figure import paint_figure
from training.datasets.synthetic.pose import Body, View, draw_pose
from training.datasets.synthetic.raster import Canvas

OVERSAMPLING = 1.25


def canvas_size(height: int, width: int) -> tuple[int, int]:
    """(height, width) of the canvas for a crop of that size, pixels."""
    return (round(height * OVERSAMPLING), round(width * OVERSAMPLING))


def draw_crop(
    rng: np.random.Generator,
    person: Appearance,
    passer_by: Appearance,
    camera: Camera,
    height: int,
    width: int,
) -> NDArray[np.uint8]:
    """Draws `person` before `camera` as `(height, width, 3)` uint8 RGB.

    `passer_by` is another person, who is in some of the pictures.
    """
    rows, columns = canvas_size(height, width)
    start = int(rng.integers(0, camera.scene.shape[1] - columns + 1))
    window = camera.scene[:, start : start + columns]
    if rng.random() < 0.5:
        window = window[:, ::-1]
    canvas = Canvas(window * np.float32(rng.normal(1.0, 0.04)), camera.light)
    scale = rows * float(rng.uniform(*camera.fill)) / cos(0.5 * camera.pitch)
    # The walking direction: mostly the camera's usual one, often the opposite.
    heading = camera.yaw + (np.pi if rng.random() < 0.3 else 0.0)
    view = View(
        yaw=float(heading + rng.normal(0.0, 0.3)),
        pitch=camera.pitch,
        feet=(
            columns * (0.5 + float(rng.normal(0.0, camera.slack))),
            rows * (0.5 + float(rng.normal(0.0, 0.6 * camera.slack))) + 0.49 * scale,
        ),
        scale=scale,
        stretch=camera.stretch * columns / rows * 2.0,
    )
    if rng.random() < 0.15:
        _paint_person(rng, canvas, passer_by, _aside(rng, view, columns, behind=True))
    _paint_person(rng, canvas, person, view)
    if rng.random() < 0.14:
        _obstruct(rng, canvas, passer_by, view, rows, columns)
    return expose(rng, canvas.pixels, camera, height, width)


def _paint_person(rng: np.random.Generator, canvas: Canvas, person: Appearance, view: View) -> None:
    light = canvas.light
    shadow = (
        view.feet[0] - 0.08 * light.side * view.scale,
        view.feet[1] - 0.01 * view.scale,
    )
    reach = (0.13 + 0.1 * abs(light.side)) * view.scale * view.stretch
    canvas.darken(shadow, (reach, 0.035 * view.scale), 0.25 + 0.4 * light.diffuse)
    folds = Folds(float(rng.uniform(0.08, 0.24)), float(rng.uniform(0, 6.28)))
    skeleton = draw_pose(rng, person.shoulders, person.build)
    paint_figure(Body(canvas, person, skeleton, view, folds))


def _aside(rng: np.random.Generator, view: View, columns: int, behind: bool) -> View:
    """A view of a person at the crop's edge."""
    side = 1.0 if rng.random() < 0.5 else -1.0
    scale = view.scale * float(rng.uniform(0.75, 0.98) if behind else rng.uniform(1.0, 1.15))
    away = float(rng.uniform(0.3, 0.55) if behind else rng.uniform(0.45, 0.62))
    lower = 0.12 * (scale - view.scale) if behind else 0.5 * (scale - view.scale)
    return View(
        yaw=float(rng.uniform(-np.pi, np.pi)),
        pitch=view.pitch,
        feet=(view.feet[0] + side * away * columns, view.feet[1] + lower),
        scale=scale,
        stretch=view.stretch,
    )


def _obstruct(
    rng: np.random.Generator, canvas: Canvas, passer_by: Appearance, view: View, rows: int,
    columns: int,
) -> None:  # fmt: skip
    """Puts a pole, a box, a car's side or another person before the person."""
    kind = int(rng.integers(4))
    shade = float(rng.uniform(0.15, 0.7))
    red, green, blue = (float(part) for part in np.clip(shade + rng.normal(0, 0.06, 3), 0.05, 0.95))
    paint = plain((red, green, blue))
    if kind == 0:
        x, half = float(rng.uniform(0.1, 0.9)) * columns, float(rng.uniform(0.03, 0.07)) * columns
        canvas.tube((x, -9.0), (x, rows + 9.0), (half, half), paint)
    elif kind == 1:
        x, top = float(rng.uniform(-0.1, 1.1)) * columns, float(rng.uniform(0.62, 0.82)) * rows
        half = float(rng.uniform(0.2, 0.45)) * columns
        canvas.tube((x, top), (x, rows + 9.0), (half, half), paint, round_ends=False)
    elif kind == 2:
        y, half = float(rng.uniform(0.8, 0.95)) * rows, float(rng.uniform(0.1, 0.16)) * rows
        canvas.tube((-9.0, y + half), (columns + 9.0, y + half), (half, half), paint)
    else:
        _paint_person(rng, canvas, passer_by, _aside(rng, view, columns, behind=False))
