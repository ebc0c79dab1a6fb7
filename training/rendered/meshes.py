"""The packed meshes that people are drawn from: a body, its shape targets, garments and hair.

They are MakeHuman's, which are free of rights (CC0). `python -m training.rendered.packing` writes
the file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from training.rendered.arrays import Indices, Numbers

FILE = Path(__file__).parent / "meshes.npz"
DECIMETRES = 0.1
"""The unit of the meshes in metres."""
MOVES_UNIT = 0.001
"""The unit of the moves of shape targets, in decimetres: MakeHuman writes three decimals."""

SIDES = ("L", "R")
MOVING = (
    *("root", "spine04", "spine02", "neck01", "head"),
    *(
        f"{bone}.{side}"
        for side in SIDES
        for bone in (
            *("upperleg01", "lowerleg01", "foot"),
            *("shoulder01", "upperarm01", "lowerarm01", "wrist"),
        )
    ),
)
"""The bones that move. Each other bone of MakeHuman's rig moves with the nearest one above it."""

SHOES = ("shoes01", "shoes02", "shoes03")
SUITS = (
    *(f"male_casualsuit0{number}" for number in range(1, 7)),
    *("male_elegantsuit01", "male_worksuit01"),
    *("female_casualsuit01", "female_casualsuit02", "female_elegantsuit01", "female_sportsuit01"),
)
HATS = ("fedora", "fedora_cocked")
HAIR = (
    *("afro01", "bob01", "bob02", "braid01", "long01", "ponytail01"),
    *("short01", "short02", "short03", "short04"),
)
FITTED = (*SUITS, *SHOES, *HATS, *HAIR)
"""The names of all fitted meshes."""


@dataclass(frozen=True)
class Fit:
    """Where the points of a garment or of hair lie on a body.

    Attributes:
        anchors: `(n, 3)` indices of the body's points.
        weights: `(n, 3)`, the share of each anchor.
        offsets: `(n, 3)`, added to the weighted anchors after scaling.
        scale_points: `(3, 2)`: for x, y and z two points of the body whose distance along this axis
            scales the offsets.
        scale_lengths: `(3)`, these distances on the body that the offsets were measured on; 0
            without scaling.
        hidden: the points of the body that it hides.
    """

    anchors: Indices
    weights: Numbers
    offsets: Numbers
    scale_points: Indices
    scale_lengths: Numbers
    hidden: Indices

    def at(self, values: Numbers) -> Numbers:
        """Return values of the body's points `(b, ...)` at the points of this mesh `(n, ...)`."""
        return np.einsum("na,na...->n...", self.weights, values[self.anchors])

    def fit(self, body: Numbers) -> Numbers:
        """Return its points `(n, 3)` on a body of points `(b, 3)`."""
        first, second = self.scale_points.T
        axes = np.arange(3)
        lengths = abs(body[first, axes] - body[second, axes])
        is_scaled = self.scale_lengths > 0
        factors = np.where(is_scaled, lengths / np.where(is_scaled, self.scale_lengths, 1), 1)
        return self.at(body) + self.offsets * factors.astype(np.float32)


@dataclass(frozen=True)
class FittedMesh(Fit):
    """A garment or hair, and where its points lie on a body.

    Attributes:
        triangles: `(m, 3)`.
        parts: `(m)`, the number of each triangle's connected part.
    """

    triangles: Indices
    parts: Indices


@dataclass(frozen=True)
class Meshes:
    """All packed meshes, in decimetres. x points to a person's left, y up, z forward.

    Attributes:
        points: `(b, 3)`, the points of the base body, and of the helper meshes around it.
        skin: `(m, 3)`, the triangles of the body itself.
        tights, skirt: the triangles of helper meshes, out of which garments are cut.
        weights: `(b, bones)`, the share of each bone of `MOVING` in each point.
        heads: `(bones, 8)`, the points whose mean is the head of each bone.
        parents: the column of each bone's parent; -1 for the root.
        moves: by the name of a shape target, how far it moves each point: `(b, 3)` int16 in
            `MOVES_UNIT`.
        fitted: the fitted meshes of `FITTED` by name.
        sources: repository, commit, file, hash and licence of every file that was packed.
    """

    points: Numbers
    skin: Indices
    tights: Indices
    skirt: Indices
    weights: Numbers
    heads: Indices
    parents: Sequence[int]
    moves: Mapping[str, Indices]
    fitted: Mapping[str, FittedMesh]
    sources: Sequence[Mapping[str, str]]


def read_meshes(file: Path = FILE) -> Meshes:
    """Read the packed meshes; takes a second or two."""
    with np.load(file, allow_pickle=False) as packed:
        arrays: dict[str, Any] = {name: packed[name] for name in packed.files}
    fields = FittedMesh.__dataclass_fields__
    return Meshes(
        **{
            name: arrays[name] for name in ("points", "skin", "tights", "skirt", "weights", "heads")
        },
        parents=arrays["parents"].tolist(),
        moves=dict(zip(arrays["targets"].tolist(), arrays["moves"], strict=True)),
        fitted={
            name: FittedMesh(**{field: arrays[f"{name}/{field}"] for field in fields})
            for name in FITTED
        },
        sources=json.loads(str(arrays["sources"])),
    )
