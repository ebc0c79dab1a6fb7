"""Garments: fitted meshes, and others that are cut out of the body's helper meshes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from training.rendered.arrays import Indices, Numbers
from training.rendered.body import BodyModel
from training.rendered.cloth import ARM, LEG, TRUNK, Cloth
from training.rendered.meshes import (
    DECIMETRES,
    HAIR,
    HATS,
    MOVING,
    SHOES,
    SIDES,
    SUITS,
    FittedMesh,
    Meshes,
)

SMALLEST_PART = 300
"""Parts of suits with fewer points are buttons and ties, which are left out."""


@dataclass(frozen=True)
class Layer:
    """Something that a person wears, or the body itself, at rest.

    Attributes:
        points: `(n, 3)` in metres.
        triangles: `(m, 3)`.
        weights: `(n, bones)`, how it moves with the moving bones.
        chart: `(n, 3)`: the coordinates u and v of its cloth in metres, and the limb.
        inside: `(n)`; it is cut away where this is below 0.
        cloth: its material.
        rank: layers of higher rank hide others that are less than 1.5 cm above them.
    """

    points: Numbers
    triangles: Indices
    weights: Numbers
    chart: Numbers
    inside: Numbers
    cloth: Cloth
    rank: int = 0


class Part(NamedTuple):
    """A part of a mesh: the indices of its points there, and triangles as indices of these."""

    points: Indices
    triangles: Indices


@dataclass(frozen=True)
class Garment:
    """A part of a fitted mesh, such as the shirt of a suit.

    Attributes:
        part: its part of the fitted mesh.
        hidden: the body's points below it.
        top, bottom: its height on the base mesh, in metres.
    """

    name: str
    fitted: FittedMesh
    part: Part
    hidden: Indices
    top: float
    bottom: float


class Chart:
    """Coordinates on the base mesh that do not change with the build of a body.

    Attributes:
        limb: of each point `TRUNK`, `ARM` or `LEG`.
        along: how far down its arm or leg a point lies, in metres; 0 on the trunk.
        height: the height of a point in metres.
        uv: `(n, 2)`, coordinates of cloth in metres: around the body or limb, and up.
    """

    def __init__(self, body: BodyModel) -> None:
        points = body.standing(body.base)
        joints = body.joints(points)
        self.points = points
        self.height = points[:, 1]
        self.limb = np.full(body.count, TRUNK)
        self.along = np.zeros(body.count, np.float32)
        u = points[:, 0] + 0.6 * points[:, 2]
        self.uv = np.stack([u, points[:, 1]], axis=1)
        for limb, bones in (
            (ARM, ("upperarm01", "lowerarm01", "wrist")),
            (LEG, ("upperleg01", "lowerleg01", "foot")),
        ):
            for side in SIDES:
                columns = [MOVING.index(f"{bone}.{side}") for bone in bones]
                mine = body.weights[:, columns].sum(1) > 0.5
                start = joints[columns[0]]
                end = joints[columns[2]]
                axis = (end - start) / np.linalg.norm(end - start)
                along = (points[mine] - start) @ axis
                self.limb[mine] = limb
                self.along[mine] = along.clip(0)
                if limb == ARM:
                    across = np.array([axis[1], -axis[0], 0])
                    around = points[mine] @ across * 0.6 + points[mine, 2]
                    self.uv[mine] = np.stack([around, 1.35 - along], axis=1)

    @property
    def table(self) -> Numbers:
        """The columns of a layer's chart, `(n, 3)`."""
        return np.concatenate([self.uv, self.limb[:, None]], axis=1).astype(np.float32)

    def top_inside(self, neck: float, hem: float, sleeve: float, front: float = 0) -> Numbers:
        """Return how far inside a top each point of the body lies, in metres.

        Args:
            neck, hem: heights of its upper and lower end.
            sleeve: the length of its sleeves; below 0 without.
            front: half of the width that is open at the front.
        """
        inside = np.minimum(self.height - hem, neck - self.height)
        if front > 0:
            opening = np.where(self.points[:, 2] > 0.02, abs(self.points[:, 0]) - front, 1)
            inside = np.minimum(inside, opening)
        is_arm = self.limb == ARM
        return np.where(is_arm, sleeve - self.along, inside).astype(np.float32)

    def trousers_inside(self, waist: float, length: float) -> Numbers:
        """Return how far inside trousers each point of the body lies, in metres."""
        inside = np.minimum(waist - self.height, length - self.along)
        return np.where(self.limb == ARM, -1, inside).astype(np.float32)


class Wardrobe:
    """The garments and the hair that fit the base mesh.

    Attributes:
        tops, bottoms, shoes, hats: fitted garments.
        hair: fitted hair by its name.
        tights, skirt: the helper meshes that further garments are cut out of.
    """

    def __init__(self, meshes: Meshes) -> None:
        self.body = BodyModel(meshes)
        self.chart = Chart(self.body)
        parts = [part for suit in SUITS for part in self._parts(suit, meshes.fitted[suit])]
        large = [part for part in parts if len(part.part.points) >= SMALLEST_PART]
        self.tops = [part for part in large if part.bottom > 0.75 and part.top > 1.15]
        self.bottoms = [part for part in large if part.top < 1.1]
        whole = {
            name: self._garment(name, meshes.fitted[name], meshes.fitted[name].triangles)
            for name in (*SHOES, *HATS, *HAIR)
        }
        self.shoes = [whole[name] for name in SHOES]
        self.hats = [whole[name] for name in HATS]
        self.hair = {name: whole[name] for name in HAIR}
        self.tights = _part_of(meshes.tights)
        self.skirt = _part_of(meshes.skirt)

    def wear(self, garment: Garment, body: Numbers, cloth: Cloth, rank: int) -> Layer:
        """Return a fitted garment on a body of points `(b, 3)`."""
        fitted = garment.fitted
        points = fitted.fit(body / DECIMETRES) * DECIMETRES
        chart = fitted.at(self.chart.table)
        chart[:, 2] = chart[:, 2].round()
        return Layer(
            points=points[garment.part.points].astype(np.float32),
            triangles=garment.part.triangles,
            weights=fitted.at(self.body.weights)[garment.part.points],
            chart=chart[garment.part.points],
            inside=np.ones(len(garment.part.points), np.float32),
            cloth=cloth,
            rank=rank,
        )

    def cut(
        self,
        helper: Part,
        body: Numbers,
        inside: Numbers,
        looseness: Numbers | float,
        cloth: Cloth,
        rank: int,
    ) -> Layer:
        """Cut a garment out of a helper mesh.

        Args:
            helper: `tights` or `skirt`.
            body: the points of the body at rest.
            inside: of each point of the body, how far inside the garment it is.
            looseness: how far the cloth lies above the body, in metres.
        """
        points, triangles = helper
        used = inside[points]
        outline = triangles[(used[triangles] > 0).any(1)]
        normals = point_normals(body[points], triangles)
        away = np.broadcast_to(looseness, len(points))[:, None]
        return Layer(
            points=(body[points] + away * normals).astype(np.float32),
            triangles=outline,
            weights=self.body.weights[points],
            chart=self.chart.table[points],
            inside=used,
            cloth=cloth,
            rank=rank,
        )

    def _garment(self, name: str, fitted: FittedMesh, triangles: Indices) -> Garment:
        part = _part_of(triangles)
        lowest = self.body.base[self.body.skin, 1].min()
        heights = (fitted.fit(self.body.base)[part.points, 1] - lowest) * DECIMETRES
        return Garment(
            name, fitted, part, fitted.hidden, float(heights.max()), float(heights.min())
        )

    def _parts(self, name: str, fitted: FittedMesh) -> Sequence[Garment]:
        """Return the parts of a suit, each of which hides what lies within its height."""
        garments = []
        for number in np.unique(fitted.parts):
            triangles = fitted.triangles[fitted.parts == number]
            part = self._garment(f"{name}-{number}", fitted, triangles)
            between = self.chart.height[part.hidden]
            below = part.hidden[(between > part.bottom + 0.04) & (between < part.top - 0.04)]
            garments.append(replace(part, hidden=below))
        return garments


def point_normals(points: Numbers, triangles: Indices) -> Numbers:
    """Return the unit normals of a mesh at its points, `(n, 3)`."""
    corners = points[triangles]
    faces = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals = np.stack(
        [
            np.bincount(triangles.ravel(), np.repeat(faces[:, axis], 3), len(points))
            for axis in range(3)
        ],
        axis=1,
    )
    lengths = np.linalg.norm(normals, axis=1, keepdims=True)
    return (normals / np.maximum(lengths, 1e-12)).astype(np.float32)


def _part_of(triangles: Indices) -> Part:
    points, corners = np.unique(triangles, return_inverse=True)
    return Part(points, corners.reshape(triangles.shape))
