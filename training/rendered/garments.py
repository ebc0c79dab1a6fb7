"""Garments: fitted meshes, and others that are cut out of the body's helper meshes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from training.rendered.arrays import Indices, Numbers
from training.rendered.assets import Assets
from training.rendered.body import DECIMETRES, MOVING, SIDES, BodyModel
from training.rendered.cloth import ARM, LEG, TRUNK, Cloth
from training.rendered.formats import FittedMesh, parse_fitted_mesh, parse_mesh

CLOTHES = "base/clothes"
SHOES = ("shoes01", "shoes02", "shoes03")
SUITS = (
    *(f"male_casualsuit0{number}" for number in range(1, 7)),
    *("male_elegantsuit01", "male_worksuit01"),
    *("female_casualsuit01", "female_casualsuit02", "female_elegantsuit01", "female_sportsuit01"),
)
HAIR = (
    *("afro01", "bob01", "bob02", "braid01", "long01", "ponytail01"),
    *("short01", "short02", "short03", "short04"),
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
    weights: csr_array
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
        lowest = body.mesh.points[body.skin, 1].min()
        points = (body.mesh.points - (0, lowest, 0)) * DECIMETRES
        joints = body.joints(points)
        self.points = points
        self.height = points[:, 1]
        self.limb = np.full(body.count, TRUNK)
        self.along = np.zeros(body.count, np.float32)
        u = points[:, 0] + 0.6 * points[:, 2]
        self.uv = np.stack([u, points[:, 1]], axis=1)
        shares = body.weights.toarray()
        for limb, bones in (
            (ARM, ("upperarm01", "lowerarm01", "wrist")),
            (LEG, ("upperleg01", "lowerleg01", "foot")),
        ):
            for side in SIDES:
                columns = [MOVING.index(f"{bone}.{side}") for bone in bones]
                mine = shares[:, columns].sum(1) > 0.5
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

    def of(self, fitted: FittedMesh, values: Numbers) -> Numbers:
        """Return values of the body's points at the points of a fitted mesh."""
        return np.einsum("na,na...->n...", fitted.weights, values[fitted.anchors])

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

    def __init__(self, assets: Assets, body: BodyModel) -> None:
        self.body = body
        self.chart = Chart(body)
        parts = [
            part for suit in SUITS for part in _parts(assets, f"{CLOTHES}/{suit}/{suit}", body)
        ]
        large = [part for part in parts if len(part.part.points) >= SMALLEST_PART]
        self.tops = [part for part in large if part.bottom > 0.75 and part.top > 1.15]
        self.bottoms = [part for part in large if part.top < 1.1]
        self.shoes = [_whole(assets, f"{CLOTHES}/{name}/{name}", body) for name in SHOES]
        self.hair = {name: _whole(assets, f"base/hair/{name}/{name}", body) for name in HAIR}
        self.hats = [
            _whole(assets, f"{CLOTHES}/fedora01/{name}", body)
            for name in ("fedora", "fedora_cocked")
        ]
        self.tights = _part_of(body.mesh.group("helper-tights"))
        self.skirt = _part_of(body.mesh.group("helper-skirt"))

    def wear(self, garment: Garment, body: Numbers, cloth: Cloth, rank: int) -> Layer:
        """Return a fitted garment on a body of points `(b, 3)`."""
        fitted = garment.fitted
        points = fitted.fit(body / DECIMETRES) * DECIMETRES
        chart = self.chart.of(fitted, self.chart.table)
        chart[:, 2] = chart[:, 2].round()
        blend = _blend(fitted, self.body.count)
        return Layer(
            points=points[garment.part.points].astype(np.float32),
            triangles=garment.part.triangles,
            weights=(blend @ self.body.weights)[garment.part.points],
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


def _blend(fitted: FittedMesh, count: int) -> csr_array:
    rows = np.repeat(np.arange(len(fitted.anchors)), 3)
    entries = (fitted.weights.ravel(), (rows, fitted.anchors.ravel()))
    return csr_array(entries, shape=(len(fitted.anchors), count))


def _read(assets: Assets, path: str, body: BodyModel) -> tuple[FittedMesh, Indices]:
    fitted = parse_fitted_mesh(assets.read(f"{path}.mhclo"), f"{path}.mhclo", body.count)
    mesh_path = f"{path.rsplit('/', 1)[0]}/{fitted.mesh_file}"
    mesh = parse_mesh(assets.read(mesh_path), mesh_path)
    return fitted, mesh.triangles


def _garment(name: str, fitted: FittedMesh, triangles: Indices, body: BodyModel) -> Garment:
    part = _part_of(triangles)
    lowest = body.mesh.points[body.skin, 1].min()
    heights = (fitted.fit(body.mesh.points)[part.points, 1] - lowest) * DECIMETRES
    return Garment(name, fitted, part, fitted.hidden, float(heights.max()), float(heights.min()))


def _whole(assets: Assets, path: str, body: BodyModel) -> Garment:
    fitted, triangles = _read(assets, path, body)
    return _garment(path.rsplit("/", 1)[1], fitted, triangles, body)


def _parts(assets: Assets, path: str, body: BodyModel) -> Sequence[Garment]:
    """Return the connected parts of a suit, each of which hides what lies within its height."""
    fitted, triangles = _read(assets, path, body)
    count = len(fitted.anchors)
    edges = np.concatenate([triangles[:, :2], triangles[:, 1:]])
    linked = csr_array((np.ones(len(edges)), (edges[:, 0], edges[:, 1])), shape=(count, count))
    _, labels = connected_components(linked, directed=False)
    lowest = body.mesh.points[body.skin, 1].min()
    heights = (body.mesh.points[:, 1] - lowest) * DECIMETRES
    garments = []
    for label in np.unique(labels[triangles[:, 0]]):
        part = _garment(
            f"{path.rsplit('/', 1)[1]}-{label}",
            fitted,
            triangles[labels[triangles[:, 0]] == label],
            body,
        )
        between = heights[part.hidden]
        below = part.hidden[(between > part.bottom + 0.04) & (between < part.top - 0.04)]
        garments.append(replace(part, hidden=below))
    return garments
