"""Readers of the text formats of MakeHuman's assets: meshes, shape targets, fitted meshes, rigs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.problems import InputProblem
from training.rendered.arrays import Indices, Numbers
from training.rendered.meshes import Fit

POINTS_MOST = 1_000_000
"""The largest number of points or faces of a mesh."""


class AssetProblem(InputProblem):
    """Raised for an asset that cannot be read; names the file and a remedy."""


@dataclass(frozen=True)
class Mesh:
    """A mesh of triangles.

    Attributes:
        points: `(n, 3)` float32.
        triangles: `(m, 3)` indices of points.
        groups: of each triangle, the name of its group; empty names outside of groups.
    """

    points: Numbers
    triangles: Indices
    groups: NDArray[np.str_]

    def group(self, name: str) -> Indices:
        """Return the triangles of one group, `(k, 3)`."""
        return self.triangles[self.groups == name]


@dataclass(frozen=True)
class Bone:
    """A bone: its parent, and the points of the body whose mean is its head."""

    parent: str | None
    head: Indices


def parse_mesh(text: str, name: str) -> Mesh:
    """Read the points, faces and groups of a Wavefront OBJ file; faces are cut into triangles.

    Raises:
        AssetProblem: the text is no such file; names the line.
    """
    points: list[list[float]] = []
    triangles: list[tuple[int, int, int]] = []
    groups: list[str] = []
    group = ""
    for number, words in _lines(text, name):
        try:
            if words[0] == "v":
                points.append([float(word) for word in words[1:4]])
            elif words[0] == "g":
                group = words[1] if len(words) > 1 else ""
            elif words[0] == "f":
                corners = [int(word.split("/")[0]) - 1 for word in words[1:]]
                for second, third in pairwise(corners[1:]):
                    if len({corners[0], second, third}) == 3:
                        triangles.append((corners[0], second, third))
                        groups.append(group)
        except ValueError as error:
            raise _problem(name, number, str(error)) from error
    if not points or not triangles or {len(point) for point in points} != {3}:
        raise AssetProblem(
            f"{name}: has no points of three numbers, or no faces; check it out again"
        )
    indices = np.array(triangles)
    if indices.min() < 0 or indices.max() >= len(points):
        raise AssetProblem(f"{name}: a face names a point that it lacks; check it out again")
    return Mesh(np.array(points, np.float32), indices, np.array(groups))


def parse_target(text: str, name: str, count: int) -> Numbers:
    """Read a shape target: how far it moves each of a body's points, `(count, 3)` float32.

    Raises:
        AssetProblem: a line is not `INDEX DX DY DZ`; names it.
    """
    moves = np.zeros((count, 3), np.float32)
    for number, words in _lines(text, name):
        try:
            index, x, y, z = words
            moves[_index(index, count)] = float(x), float(y), float(z)
        except ValueError as error:
            raise _problem(name, number, str(error)) from error
    return moves


def parse_fitted_mesh(text: str, name: str, count: int) -> tuple[Fit, str]:
    """Read an mhclo file for a body of `count` points: the fit, and the file name of the mesh.

    Raises:
        AssetProblem: a line cannot be read; names it.
    """
    rows: list[list[float]] = []
    scale_points = np.zeros((3, 2), np.int64)
    scale_lengths = np.zeros(3)
    hidden: list[int] = []
    mesh_file = ""
    section = ""
    for number, words in _lines(text, name):
        key = words[0]
        try:
            if key in ("verts", "delete_verts"):
                section = key
            elif key.endswith("_scale") and key[0] in "xyz" and len(key) == len("x_scale"):
                axis = "xyz".index(key[0])
                scale_points[axis] = [_index(word, count) for word in words[1:3]]
                scale_lengths[axis] = float(words[3])
            elif key == "obj_file":
                mesh_file = words[1]
            elif not key.isdecimal():
                continue
            elif section == "verts":
                rows.append(_fitted_point(words, count))
            elif section == "delete_verts":
                hidden += _ranges(words, count)
        except (ValueError, IndexError) as error:
            raise _problem(name, number, str(error)) from error
    if not rows or not mesh_file:
        raise AssetProblem(f"{name}: has no `verts` or no `obj_file`; check it out again")
    table = np.array(rows)
    fit = Fit(
        anchors=table[:, :3].astype(np.int64),
        weights=table[:, 3:6].astype(np.float32),
        offsets=table[:, 6:].astype(np.float32),
        scale_points=scale_points,
        scale_lengths=scale_lengths,
        hidden=np.array(sorted(set(hidden)), np.int64),
    )
    return fit, mesh_file


def parse_rig(text: str, name: str) -> dict[str, Bone]:
    """Read the bones of an mhskel file.

    Raises:
        AssetProblem: the file has other contents.
    """
    content = _json(text, name)
    try:
        joints = content["joints"]
        return {
            bone: Bone(facts["parent"], np.array(joints[facts["head"]], np.int64))
            for bone, facts in content["bones"].items()
        }
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise AssetProblem(f"{name}: is no rig with bones and joints ({error!r})") from error


def parse_weights(text: str, name: str, bones: Mapping[str, int], count: int) -> Numbers:
    """Read an mhw file: the share of each bone in each point, `(count, len(set(bones)))` float32.

    Args:
        bones: the column of each bone. Several may share one; their weights are added.

    Raises:
        AssetProblem: the file has other contents, or a point has no weight.
    """
    content = _json(text, name)
    weights = np.zeros((count, max(bones.values()) + 1))
    try:
        for bone, pairs in content["weights"].items():
            for point, weight in pairs:
                weights[_index(point, count), bones[bone]] += float(weight)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise AssetProblem(f"{name}: is no table of weights by bone ({error!r})") from error
    totals = weights.sum(axis=1, keepdims=True)
    if (totals <= 0).any():
        raise AssetProblem(
            f"{name}: point {int(totals.argmin())} has no weight; check it out again"
        )
    return (weights / totals).astype(np.float32)


def _lines(text: str, name: str) -> Iterator[tuple[int, list[str]]]:
    lines = text.split("\n")
    if len(lines) > 4 * POINTS_MOST:
        raise AssetProblem(f"{name}: has {len(lines):,} lines, more than {4 * POINTS_MOST:,}")
    for number, line in enumerate(lines, start=1):
        words = line.split()
        if words and not words[0].startswith("#"):
            yield number, words


def _index(word: str | int, count: int) -> int:
    index = int(word)
    if not 0 <= index < count:
        raise ValueError(f"point {index} is not one of the body's {count:,}")
    return index


def _fitted_point(words: list[str], count: int) -> list[float]:
    if len(words) == 1:
        return [_index(words[0], count), 0, 0, 1, 0, 0, 0, 0, 0]
    if len(words) != 9:
        raise ValueError(f"{len(words)} numbers in place of 1 or 9")
    return [*(_index(word, count) for word in words[:3]), *(float(word) for word in words[3:])]


def _ranges(words: list[str], count: int) -> list[int]:
    """Return the indices of a line such as `3 7 - 9`."""
    indices: list[int] = []
    through = False
    for word in words:
        if word == "-":
            through = True
            continue
        index = _index(word, count)
        indices += range(indices[-1] + 1, index + 1) if through else [index]
        through = False
    return indices


def _json(text: str, name: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise AssetProblem(f"{name}: is not JSON ({error}); check it out again") from error


def _problem(name: str, number: int, fault: str) -> AssetProblem:
    return AssetProblem(f"{name}, line {number}: {fault}; check the file out again")
