"""Bodies: a base mesh that shape targets turn into one person's, and its skeleton that poses it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from training.rendered.arrays import Numbers
from training.rendered.meshes import DECIMETRES, MOVES_UNIT, MOVING, Meshes

# Shape targets in pairs: the second is used for positive amounts.
DETAILS = tuple(
    (f"{name}-{low}", f"{name}-{high}")
    for name, low, high in (
        ("torso/torso-scale-horiz", "decr", "incr"),
        ("torso/torso-scale-depth", "decr", "incr"),
        ("torso/torso-vshape", "decr", "incr"),
        ("hip/hip-scale-horiz", "decr", "incr"),
        ("stomach/stomach-tone", "decr", "incr"),
        ("stomach/stomach-pregnant", "decr", "incr"),
        ("buttocks/buttocks-volume", "decr", "incr"),
        ("head/head-scale-horiz", "decr", "incr"),
        ("head/head-scale-vert", "decr", "incr"),
        ("neck/neck-scale-vert", "decr", "incr"),
        ("measure/measure-shoulder-dist", "decr", "incr"),
        ("armslegs/upperlegs-height", "decr", "incr"),
        ("armslegs/lowerlegs-height", "decr", "incr"),
    )
)


ORIGINS = ("african", "asian", "caucasian")
AGES = ("child", "young", "old")
MUSCLES = ("minmuscle", "averagemuscle", "maxmuscle")
WEIGHTS = ("minweight", "averageweight", "maxweight")


@dataclass(frozen=True)
class Build:
    """The build of a body.

    Attributes:
        is_female: whether the female shapes are used.
        age: 0 for a child of about ten years, 0.5 for 25 years, 1 for old age.
        muscle, weight, height, proportions: from 0 to 1, with 0.5 for the average.
        origins: the shares of the `african`, `asian` and `caucasian` shapes.
        details: an amount from -1 to 1 for each pair of `DETAILS`.
    """

    is_female: bool
    age: float
    muscle: float
    weight: float
    height: float
    proportions: float
    origins: tuple[float, float, float]
    details: tuple[float, ...]


class BodyModel:
    """The base body, its shape targets and its skeleton.

    Attributes:
        base: the points of the base body in decimetres, `(points, 3)`.
        skin: the triangles of the body itself, without the helpers of garments.
        weights: `(points, bones)`, the share of each bone of `MOVING` in each point.
        parents: of each moving bone, the column of its parent; -1 for the root.
    """

    def __init__(self, meshes: Meshes) -> None:
        self.base = meshes.points
        self.skin = meshes.skin
        self.weights = meshes.weights
        self.parents = meshes.parents
        self._heads = meshes.heads
        self._moves = meshes.moves

    @property
    def count(self) -> int:
        return len(self.base)

    def shape(self, build: Build) -> Numbers:
        """Return the points of a body at rest, `(points, 3)` in metres; its feet are at y = 0."""
        points = self.base.copy()
        for name, amount in amounts_of(build):
            points += np.float32(MOVES_UNIT * amount) * self._moves[name]
        return self.standing(points)

    def standing(self, points: Numbers) -> Numbers:
        """Return points of a body in decimetres as metres above the ground."""
        lowest = points[self.skin, 1].min()
        return ((points - (0, lowest, 0)) * DECIMETRES).astype(np.float32)

    def bone(self, name: str) -> int:
        """Return the column of a moving bone."""
        return MOVING.index(name)

    def joints(self, points: Numbers) -> Numbers:
        """Return the heads of the moving bones of a body at rest, `(bones, 3)`."""
        return points[self._heads].mean(axis=1)


@dataclass(frozen=True)
class Movement:
    """Where a pose takes each moving bone.

    Attributes:
        turns: `(bones, 3, 3)`, the rotation of each bone from its rest.
        shifts: `(bones, 3)`, added after the rotation.
    """

    turns: Numbers
    shifts: Numbers

    def move(self, points: Numbers, weights: Numbers) -> Numbers:
        """Return points at rest `(n, 3)` as moved by their bones; weights are `(n, bones)`."""
        transforms = np.concatenate([self.turns, self.shifts[..., None]], axis=2)
        blended = (weights @ transforms.reshape(len(transforms), 12)).reshape(-1, 3, 4)
        moved = np.einsum("nij,nj->ni", blended[..., :3], points) + blended[..., 3]
        return moved.astype(np.float32)


def pose(joints: Numbers, parents: Sequence[int], turns: Mapping[str, Numbers]) -> Movement:
    """Pose a skeleton.

    Args:
        joints: the heads of the moving bones at rest, `(bones, 3)`.
        turns: the rotation `(3, 3)` of bones, each from its rest in the axes of the body. A bone
            without one turns with its parent.
    """
    rotations = np.zeros((len(MOVING), 3, 3), np.float32)
    heads = np.zeros((len(MOVING), 3), np.float32)
    for column, bone in enumerate(MOVING):
        parent = parents[column]
        inherited = np.eye(3, dtype=np.float32) if parent < 0 else rotations[parent]
        rotations[column] = turns.get(bone, inherited)
        if parent < 0:
            heads[column] = joints[column]
        else:
            heads[column] = heads[parent] + inherited @ (joints[column] - joints[parent])
    shifts = heads - np.einsum("bij,bj->bi", rotations, joints)
    return Movement(rotations, shifts)


def _kinds() -> Iterator[str]:
    for gender, age in product(("female", "male"), AGES):
        for muscle, weight in product(MUSCLES, WEIGHTS):
            yield f"{gender}-{age}-{muscle}-{weight}"


def amounts_of(build: Build) -> list[tuple[str, float]]:
    """Return the shape targets of a build with their amounts."""
    gender = "female" if build.is_female else "male"
    ages = _between(build.age, AGES)
    muscles = _between(build.muscle, MUSCLES)
    weights = _between(build.weight, WEIGHTS)
    height = "maxheight" if build.height > 0.5 else "minheight"
    proportions = "idealproportions" if build.proportions > 0.5 else "uncommonproportions"
    targets = [
        (f"macrodetails/{origin}-{gender}-{age}", share * age_share)
        for origin, share in zip(ORIGINS, build.origins, strict=True)
        for age, age_share in ages
    ]
    for (age, first), (muscle, second), (weight, third) in product(ages, muscles, weights):
        share = first * second * third
        kind = f"{gender}-{age}-{muscle}-{weight}"
        targets += [
            (f"macrodetails/universal-{kind}", share),
            (f"macrodetails/height/{kind}-{height}", share * abs(2 * build.height - 1)),
            (
                f"macrodetails/proportions/{kind}-{proportions}",
                share * abs(2 * build.proportions - 1),
            ),
        ]
    for (low, high), amount in zip(DETAILS, build.details, strict=True):
        targets.append((high if amount > 0 else low, abs(amount)))
    return [(name, amount) for name, amount in targets if amount > 1e-3]


def _between(value: float, names: tuple[str, str, str]) -> list[tuple[str, float]]:
    """Return the names beside a value from 0 to 1, of three at 0, 0.5 and 1, with their shares."""
    low, middle, high = names
    if value <= 0.5:
        return [(low, 1 - 2 * value), (middle, 2 * value)]
    return [(middle, 2 - 2 * value), (high, 2 * value - 1)]


TARGETS = (
    *(
        f"macrodetails/{origin}-{gender}-{age}"
        for origin, gender, age in product(ORIGINS, ("female", "male"), AGES)
    ),
    *(
        f"macrodetails/{form.format(kind)}"
        for kind in _kinds()
        for form in (
            "universal-{}",
            *(f"height/{{}}-{height}" for height in ("minheight", "maxheight")),
            *(f"proportions/{{}}-{kind}proportions" for kind in ("ideal", "uncommon")),
        )
    ),
    *(name for pair in DETAILS for name in pair),
)
"""All shape targets that a build can use."""
