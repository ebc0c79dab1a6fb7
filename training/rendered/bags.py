"""Bags that people carry, and the straps of these over their clothes."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from training.rendered.arrays import Numbers, Random
from training.rendered.body import BodyModel
from training.rendered.cloth import TRUNK, Cloth, Coordinates, Overlay, Stock
from training.rendered.garments import Layer
from training.rendered.meshes import MOVING, SIDES

RANK = 4
ROUND = 17
HIGH = 9


@dataclass(frozen=True)
class Bag:
    """A bag.

    Attributes:
        kind: `rucksack`, `hip` for a bag with a strap over the shoulder, or `hand`.
        side: 1 if it is on the left side, -1 on the right.
        size: half of its width, height and depth in metres.
        cloth: its material, and that of its strap.
    """

    kind: str
    side: int
    size: Numbers
    cloth: Cloth

    @property
    def arm(self) -> int | None:
        """The index in `SIDES` of the arm that carries it, if one does."""
        return self._arm if self.kind == "hand" else None

    @property
    def _arm(self) -> int:
        return 0 if self.side > 0 else 1

    def strap(self, cloth: Cloth) -> Cloth:
        """Return a cloth with the straps of this bag over it."""
        if self.kind == "hand":
            return cloth

        def share(at: Coordinates) -> Numbers:
            if self.kind == "rucksack":
                on_strap = (abs(abs(at.u) - 0.1) < 0.022) & (at.v > 1.08)
            else:
                on_strap = abs(0.45 * self.side * at.u + 0.3 * (1.18 - at.v)) < 0.012
            return (on_strap & (at.limb == TRUNK)).astype(np.float32)

        return replace(cloth, overlays=(*cloth.overlays, Overlay(self.cloth.colour, share)))

    def layer(self, model: BodyModel, joints: Numbers) -> Layer:
        """Return the bag on a body at rest, whose moving bones have their heads at `joints`."""
        wide, high, deep = self.size
        upright = np.eye(3)
        if self.kind == "rucksack":
            centre = joints[model.bone("spine02")] + (0, 0, -0.11 - deep)
            return self._box(centre, upright, model.bone("spine02"))
        if self.kind == "hip":
            centre = joints[model.bone("root")] + (self.side * (0.18 + wide), -0.05, 0)
            return self._box(centre, upright, model.bone("root"))
        wrist = model.bone(f"wrist.{SIDES[self._arm]}")
        down = joints[wrist] - joints[model.bone(f"lowerarm01.{SIDES[self._arm]}")]
        down = down / np.linalg.norm(down)
        across = np.cross((0, 0, 1), down)
        across = across / np.linalg.norm(across)
        axes = np.stack([across, -down, np.cross(across, -down)], axis=1)
        return self._box(joints[wrist] + (0.1 + high) * down, axes, wrist)

    def _box(self, centre: Numbers, axes: Numbers, bone: int) -> Layer:
        """Return a rounded box that moves with a bone."""
        around = np.linspace(0, 2 * np.pi, ROUND)
        up = np.linspace(-np.pi / 2, np.pi / 2, HIGH)
        angle, height = np.meshgrid(around, up, indexing="ij")
        form = np.stack(
            [
                _rounded(np.cos(angle)) * _rounded(np.cos(height)),
                _rounded(np.sin(height)),
                _rounded(np.sin(angle)) * _rounded(np.cos(height)),
            ],
            axis=-1,
        ).reshape(-1, 3)
        points = (centre + (form * self.size) @ axes.T).astype(np.float32)
        starts = np.arange(ROUND - 1)[:, None] * HIGH + np.arange(HIGH - 1)
        corners = np.stack([starts, starts + 1, starts + HIGH + 1, starts + HIGH], axis=-1).reshape(
            -1, 4
        )
        weights = np.zeros((len(points), len(MOVING)), np.float32)
        weights[:, bone] = 1
        across, upward, forward = (form * self.size).T
        chart = np.stack([across + forward, 1.2 + upward, np.full(len(points), TRUNK)], axis=1)
        return Layer(
            points=points,
            triangles=np.concatenate([corners[:, :3], corners[:, [0, 2, 3]]]),
            weights=weights,
            chart=chart.astype(np.float32),
            inside=np.ones(len(points), np.float32),
            cloth=self.cloth,
            rank=RANK,
        )


def draw_bag(random: Random, stock: Stock) -> Bag | None:
    """Draw a bag; None for the people without one."""
    smallest = {
        "rucksack": (0.12, 0.16, 0.06),
        "hip": (0.04, 0.08, 0.1),
        "hand": (0.04, 0.09, 0.08),
    }
    largest = {"rucksack": (0.18, 0.26, 0.13), "hip": (0.09, 0.18, 0.2), "hand": (0.1, 0.2, 0.2)}
    kind = str(random.choice(["rucksack", "hip", "hand", ""], p=[0.24, 0.2, 0.14, 0.42]))
    if not kind:
        return None
    size = random.uniform(smallest[kind], largest[kind])
    return Bag(kind, int(random.choice([-1, 1])), size, stock.draw(random, "bag"))


def _rounded(values: Numbers) -> Numbers:
    return np.sign(values) * np.abs(values) ** 0.4
