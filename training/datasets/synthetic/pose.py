"""How a person stands or walks in one crop, and where the camera sees each joint."""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, hypot, sin
from typing import Any, NamedTuple

import numpy as np

from training.datasets.synthetic.clothes import Appearance
from training.datasets.synthetic.raster import Canvas, Paint, Pixel, Plane

Point = tuple[float, float, float]
"""(left, forward, up) in body heights, the feet's middle at the origin."""

GESTURES = {
    "none": None,
    "phone": (0.4, 2.2, -0.1),
    "carry": (0.1, 1.4, -0.4),
    "pocket": (-0.25, 0.7, -0.2),
}
"""What one arm does: how far it swings, bends at the elbow, and turns inwards, radians."""


def move(point: Point, left: float = 0.0, forward: float = 0.0, up: float = 0.0) -> Point:
    """Return the point so far from another one, body heights."""
    return (point[0] + left, point[1] + forward, point[2] + up)


@dataclass(frozen=True)
class View:
    """From where, and where in the image.

    Attributes:
        yaw: radians; 0 faces the camera, positive turns to the image's right.
        pitch: how far the camera looks down, radians.
        feet: the ground point under the body, pixels.
        scale: pixels per body height.
        stretch: horizontal stretch of the crop.
    """

    yaw: float
    pitch: float
    feet: Pixel
    scale: float
    stretch: float

    def depth(self, point: Point) -> float:
        """Return how much nearer the camera than the body's axis, body heights."""
        return -point[0] * sin(self.yaw) + point[1] * cos(self.yaw)

    def zoom(self, up: float) -> float:
        """Return a camera above is nearer to the head than to the feet."""
        return 1.0 + 0.35 * self.pitch * (up - 0.6)

    def pixel(self, point: Point) -> Pixel:
        """Return where `point` falls."""
        right = point[0] * cos(self.yaw) + point[1] * sin(self.yaw)
        up = point[2] * cos(self.pitch) - self.depth(point) * sin(self.pitch)
        return (
            self.feet[0] + right * self.scale * self.stretch * self.zoom(point[2]),
            self.feet[1] - up * self.scale,
        )

    def half_width(self, wide: float, deep: float, up: float = 0.6) -> float:
        """Half the seen width, pixels, of an elliptical section with these half axes."""
        seen = hypot(wide * cos(self.yaw), deep * sin(self.yaw))
        return seen * self.scale * self.stretch * self.zoom(up)


class Limb(NamedTuple):
    """Three joints: shoulder, elbow, wrist; or hip, knee, ankle."""

    root: Point
    middle: Point
    tip: Point


class Skeleton(NamedTuple):
    """A posed body: `arms`, `legs` and `toes` are (left, right)."""

    head: Point
    neck: Point
    hips: Point
    arms: list[Limb]
    legs: list[Limb]
    toes: list[Point]


@dataclass(frozen=True)
class Body:
    """One person on one canvas.

    Attributes:
        folds: how deep the creases of the clothes are this time, and where they lie, radians.
    """

    canvas: Canvas
    person: Appearance
    skeleton: Skeleton
    view: View
    folds: tuple[float, float]

    def tube(
        self, start: Point, end: Point, half_widths: tuple[float, ...], paint: Paint, **form: Any
    ) -> None:
        """Paints a tube between two points of the body; see `Canvas.tube`."""
        ends = self.view.pixel(start), self.view.pixel(end)
        self.canvas.tube(*ends, half_widths, paint, **form)

    def angle(self, sideways: Plane) -> Plane:
        """Return where on the body a point lies, radians from its front, -pi to pi."""
        angle = np.arcsin(sideways) - self.view.yaw
        wrapped: Plane = angle - (2 * np.pi) * np.rint(angle * (0.5 / np.pi))
        return wrapped

    def creases(self, angle: Plane, along: Plane) -> Plane:
        """How bright the creases leave the cloth, a factor about 1."""
        depth, phase = self.folds
        drape = 2.2 * np.sin(5.0 * along + 2.0 * phase)
        factor: Plane = 1.0 + depth * np.sin(drape + 4.5 * along - 2.5 * angle + phase)
        return factor


def draw_pose(rng: np.random.Generator, shoulders: float, build: float) -> Skeleton:
    """Draws a phase of a walk (or a stand) for a body with these relative widths."""
    walking = rng.random() < 0.78
    stride = rng.uniform(0.25, 0.5) if walking else rng.uniform(0.0, 0.1)
    phase = rng.uniform(0, 2 * np.pi)
    lean = rng.normal(0.01, 0.02)
    tilt = rng.normal(0.0, 0.012)
    gesture = list(GESTURES.values())[int(rng.choice(4, p=(0.66, 0.1, 0.12, 0.12)))]
    busy = int(rng.integers(2))
    sides = ((1.0, phase), (-1.0, phase + np.pi))
    legs = []
    toes = []
    for side, turn in sides:
        swing = stride * sin(turn)
        bend = (0.75 if walking else 0.1) * max(0.0, cos(turn)) * min(1.0, stride * 2.5)
        hip = (side * 0.048 * build**0.5, 0.0, 0.52)
        knee = _reach(hip, 0.245, swing + 0.3 * bend, side * 0.02)
        ankle = _reach(knee, 0.235, swing - bend, -side * 0.01)
        legs.append(Limb(hip, knee, ankle))
        toes.append((ankle[0] + side * 0.015, ankle[1] + 0.085, ankle[2] - 0.02 - 0.03 * bend))
    arms = []
    for index, (side, turn) in enumerate(sides):
        swing = -0.8 * stride * sin(turn)
        inwards = -0.05
        bend = rng.uniform(0.1, 0.45)
        out = rng.uniform(0.08, 0.2)
        if gesture is not None and index == busy:
            swing, bend, inwards = gesture
        root = (side * 0.092 * shoulders * build**0.3 + tilt, lean, 0.797)
        elbow = _reach(root, 0.165, swing, side * out)
        arms.append(Limb(root, elbow, _reach(elbow, 0.15, swing + bend, side * inwards)))
    lift = 0.035 - min(leg.tip[2] for leg in legs)
    return Skeleton(
        head=move((tilt * 1.3, lean * 1.6 + 0.012, 0.928), up=lift),
        neck=move((tilt, lean, 0.85), up=lift),
        hips=move((0.0, 0.0, 0.52), up=lift),
        arms=[Limb(*(move(joint, up=lift) for joint in arm)) for arm in arms],
        legs=[Limb(*(move(joint, up=lift) for joint in leg)) for leg in legs],
        toes=[move(toe, up=lift) for toe in toes],
    )


def _reach(root: Point, length: float, swing: float, out: float) -> Point:
    """Return the end of a bone that hangs down, swung forward and out by these angles."""
    return (
        root[0] + length * sin(out),
        root[1] + length * sin(swing) * cos(out),
        root[2] - length * cos(swing) * cos(out),
    )
