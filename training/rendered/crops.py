"""Crops: a person in a pose, before a camera, cut out of what it sees."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from training.rendered import scenes
from training.rendered.arrays import Numbers, Random
from training.rendered.body import BodyModel, pose
from training.rendered.cameras import Camera, Light, develop
from training.rendered.cloth import Coordinates
from training.rendered.gait import LEFT, UP, limbs, turn
from training.rendered.garments import point_normals
from training.rendered.people import Figure
from training.rendered.rasteriser import rasterise

OVERSAMPLING = 2
"""How many points of a person are drawn in a pixel, across and down."""
RANK_DEPTH = 0.015
"""How far a layer may lie above one of the next rank without being seen, in metres."""
MIDDLE = 0.9
"""The height at which cameras look, in metres."""
NARROWEST = (0.36, 0.46)
WIDEST = 0.62
"""The ratio of a crop's width to its height."""


@dataclass(frozen=True)
class View:
    """A person's place before a camera at one moment.

    Attributes:
        heading: the direction of the walk in degrees; 0 is towards the camera.
        distance: from the camera's foot in metres.
        phase: of the walk, from 0 to 1.
    """

    heading: float
    distance: float
    phase: float


@dataclass(frozen=True)
class Frame:
    """The edges of a crop.

    Attributes:
        left, top: in the units of `Seen.points`.
        scale: the number of pixels in such a unit.
        height, width: in pixels.
    """

    left: float
    top: float
    scale: float
    height: int
    width: int


@dataclass(frozen=True)
class Seen:
    """A posed figure as a camera sees it.

    Attributes:
        points: `(n, 3)`: x right and y down at a distance of 1, and the distance in metres.
        normals: `(n, 3)`, x right, y up, z to the camera.
    """

    figure: Figure
    points: Numbers
    normals: Numbers

    def beside(self, across: float, down: float) -> Seen:
        """Return the figure at another place."""
        return Seen(self.figure, self.points + np.array([across, down, 0]), self.normals)


def draw_crop(
    random: Random,
    figure: Figure,
    model: BodyModel,
    camera: Camera,
    view: View,
    stranger: Figure | None,
) -> bytes:
    """Draw one crop of a person as a JPEG file; a stranger is seen in it as well."""
    height = int(random.integers(camera.pixels[0], camera.pixels[1] + 1))
    person = _see(figure, model, camera, view)
    frame = _frame(random, person.points, camera, height)
    picture = _background(random, camera, view, frame)
    _cast_shadow(picture, person.points, frame, camera.light)
    if stranger is None:
        _paint(picture, person, frame, camera.light)
    else:
        other_view = View(random.uniform(0, 360), view.distance, random.random())
        is_before = random.random() < 0.4
        across = random.choice([-1, 1]) * random.uniform(*((0.4, 1) if is_before else (0.25, 0.6)))
        other = _see(stranger, model, camera, other_view)
        other = other.beside(across / _distance(camera, view), random.uniform(-0.02, 0.02))
        for figure_seen in (person, other) if is_before else (other, person):
            _paint(picture, figure_seen, frame, camera.light)
    if random.random() < camera.shaded:
        _shade(random, picture)
    if random.random() < camera.occluded:
        picture = scenes.occlude(random, picture)
    return develop(random, camera, picture)


def _distance(camera: Camera, view: View) -> float:
    return float(np.hypot(view.distance, camera.height - MIDDLE))


def _see(figure: Figure, model: BodyModel, camera: Camera, view: View) -> Seen:
    movement = pose(figure.joints, model.parents, limbs(figure.walk, view.phase, figure.joints))
    standing = movement.move(figure.points, figure.weights)
    lowest = standing[:, 1].min()
    tilt = np.degrees(np.arctan2(camera.height - MIDDLE, view.distance))
    turned = turn(LEFT, tilt) @ turn(UP, view.heading)
    points = standing @ turned.T - turn(LEFT, tilt)[:, 1] * (MIDDLE + lowest)
    away = _distance(camera, view) - points[:, 2]
    placed = np.stack([points[:, 0] / away, -points[:, 1] / away, away], axis=1)
    return Seen(figure, placed, point_normals(points, figure.triangles))


def _frame(random: Random, points: Numbers, camera: Camera, height: int) -> Frame:
    """Cut around a person, as detectors do: not quite at the same edges, and never too narrow."""
    (left, top) = points[:, :2].min(0)
    (right, bottom) = points[:, :2].max(0)
    tall = bottom - top
    above, below = random.normal(0.03, camera.slack, 2)
    beside = random.normal(0.02, 0.8 * camera.slack, 2)
    if random.random() < camera.cut_off:
        below = -random.uniform(0.05, 0.35)
    top = top - tall * above
    bottom = bottom + tall * below
    left = left - tall * beside[0]
    right = right + tall * beside[1]
    high = bottom - top
    wide = np.clip(right - left, random.uniform(*NARROWEST) * high, WIDEST * high)
    # A wide crop, of arms or bags that stand out, is cut around the middle of the person.
    middle = (left + right) / 2 if wide >= right - left else points[:, 0].mean()
    scale = height / high
    return Frame(middle - wide / 2, top, scale, height, max(round(wide * scale), 16))


def _background(random: Random, camera: Camera, view: View, frame: Frame) -> Numbers:
    """Return a part of the camera's scene, `(height, width, 3)` from 0 to 1."""
    share = (view.distance - camera.near) / (camera.far - camera.near)
    rows = int(scenes.HEIGHT * (0.72 - 0.3 * share))
    foot = camera.horizon + (1 - camera.horizon) * (0.9 - 0.55 * share)
    bottom = int(np.clip(scenes.HEIGHT * foot + 0.04 * rows, rows, scenes.HEIGHT))
    columns = round(rows * frame.width / frame.height)
    left = random.integers(scenes.WIDTH - columns + 1)
    window = Image.fromarray(camera.scene[bottom - rows : bottom, left : left + columns])
    resized = window.resize((frame.width, frame.height), Image.Resampling.BILINEAR)
    return np.asarray(resized, np.float32) / 255


def _cast_shadow(picture: Numbers, points: Numbers, frame: Frame, light: Light) -> None:
    """Darken the ground below a person, and where the light does not come from."""
    unit = frame.height / 256
    foot = (points[:, 1].max() - frame.top) * frame.scale
    middle = (points[:, 0].mean() - frame.left) * frame.scale
    image = Image.new("L", (frame.width, frame.height), 0)
    draw = ImageDraw.Draw(image)
    below = (middle - 38 * unit, foot - 12 * unit, middle + 38 * unit, foot + 6 * unit)
    draw.ellipse(below, fill=130)
    sun = float(light.sun.mean())
    if sun > 0.25:
        across = -0.6 * frame.height * sun * light.direction[0]
        end = (middle + across, foot - 30 * unit * light.direction[2])
        draw.line((middle, foot - 4 * unit, *end), fill=120, width=round(22 * unit))
    dark = np.asarray(image.filter(ImageFilter.GaussianBlur(5 * unit)), np.float32) / 255
    picture *= 1 - 0.8 * dark[..., None]


def _shade(random: Random, picture: Numbers) -> None:
    """Darken one side of a line across the picture, as trees and roofs do."""
    height, width = picture.shape[:2]
    row, column = np.mgrid[:height, :width] / height
    angle = random.uniform(0, 2 * np.pi)
    beyond = np.cos(angle) * (column - 0.2) + np.sin(angle) * (row - random.uniform(0.2, 0.8))
    share = (beyond / random.uniform(0.02, 0.4) + 0.5).clip(0, 1)
    picture *= 1 - random.uniform(0.2, 0.5) * share[..., None]


def _paint(picture: Numbers, seen: Seen, frame: Frame, light: Light) -> None:
    """Paint a figure over a picture."""
    figure = seen.figure
    height = OVERSAMPLING * frame.height
    width = OVERSAMPLING * frame.width
    placed = seen.points - (frame.left, frame.top, 0)
    placed[:, :2] *= OVERSAMPLING * frame.scale
    placed[:, 2] -= RANK_DEPTH * figure.ranks
    fragments = rasterise(placed, figure.triangles, height, width, figure.inside)
    normals = fragments.interpolate(seen.normals, figure.triangles)
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-6)
    # The inner side of cloth is seen as well.
    normals *= np.where(normals[:, 2:] < 0, -1, 1)
    charts = fragments.interpolate(figure.chart, figure.triangles)
    layers = figure.layer_of[fragments.triangles]
    colours = np.empty((len(layers), 3), np.float32)
    for layer, cloth in enumerate(figure.cloths):
        u, v, limb = charts[layers == layer].T
        colours[layers == layer] = cloth.colours(Coordinates(u, v, limb.round()))
    sunlit = (normals @ light.direction).clip(0)[:, None]
    colours *= light.sky * (0.75 + 0.25 * normals[:, 1:2]) + light.sun * sunlit
    canvas = np.zeros((height * width, 4), np.float32)
    canvas[fragments.pixels, :3] = colours
    canvas[fragments.pixels, 3] = 1
    blocks = canvas.reshape(frame.height, OVERSAMPLING, frame.width, OVERSAMPLING, 4)
    painted = blocks.mean(axis=(1, 3))
    picture *= 1 - painted[..., 3:]
    picture += painted[..., :3]
