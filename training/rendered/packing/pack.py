"""Read the meshes from MakeHuman's files, and write them into one file."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from training.rendered.arrays import Indices
from training.rendered.body import TARGETS
from training.rendered.meshes import FITTED, HAIR, HATS, MOVES_UNIT, MOVING, FittedMesh, Meshes
from training.rendered.packing.assets import Assets
from training.rendered.packing.formats import (
    Bone,
    parse_fitted_mesh,
    parse_mesh,
    parse_rig,
    parse_target,
    parse_weights,
)

DATA = "makehuman/data"
HEAD_POINTS = 8
EPOCH = (1980, 1, 1, 0, 0, 0)
"""The time of each array in the file, so that the same meshes give the same bytes."""


def read_assets(assets: Assets) -> Meshes:
    """Read all meshes that people are drawn from.

    Raises:
        AssetProblem: a file cannot be read; names it.
    """
    mesh_file = f"{DATA}/3dobjs/base.obj"
    mesh = parse_mesh(assets.read(mesh_file), mesh_file)
    rig_file = f"{DATA}/rigs/default.mhskel"
    bones = parse_rig(assets.read(rig_file), rig_file)
    columns = {bone: MOVING.index(_mover(bones, bone)) for bone in bones}
    weights_file = f"{DATA}/rigs/default_weights.mhw"
    count = len(mesh.points)
    return Meshes(
        points=mesh.points,
        skin=mesh.group("body"),
        tights=mesh.group("helper-tights"),
        skirt=mesh.group("helper-skirt"),
        weights=parse_weights(assets.read(weights_file), weights_file, columns, count),
        heads=np.stack([np.resize(bones[bone].head, HEAD_POINTS) for bone in MOVING]),
        parents=[_parent(bones, bone) for bone in MOVING],
        moves={name: _read_moves(assets, name, count) for name in TARGETS},
        fitted={name: _read_fitted(assets, name, count) for name in FITTED},
        sources=assets.provenance(),
    )


def write_meshes(meshes: Meshes, out: Path) -> None:
    """Write meshes as an `.npz` file, compressed by LZMA, to a fifth of what zlib achieves."""
    arrays: dict[str, NDArray[np.generic]] = {
        "points": meshes.points,
        "weights": meshes.weights,
        "parents": np.array(meshes.parents, np.int8),
        "targets": np.array(list(meshes.moves)),
        "moves": np.stack(list(meshes.moves.values())),
        "sources": np.array(json.dumps(list(meshes.sources))),
    }
    for name in ("skin", "tights", "skirt", "heads"):
        arrays[name] = _narrow(getattr(meshes, name))
    for name, fitted in meshes.fitted.items():
        for field, values in asdict(fitted).items():
            is_index = np.issubdtype(values.dtype, np.integer)
            arrays[f"{name}/{field}"] = _narrow(values) if is_index else values
    with zipfile.ZipFile(out, "w", zipfile.ZIP_LZMA) as packed:
        for name, values in arrays.items():
            content = io.BytesIO()
            np.save(content, values, allow_pickle=False)
            packed.writestr(
                zipfile.ZipInfo(f"{name}.npy", EPOCH), content.getvalue(), zipfile.ZIP_LZMA
            )


def _narrow(indices: Indices) -> Indices:
    """Return indices of points, of which there are fewer than 65,536, in two bytes."""
    narrow = indices.astype(np.uint16)
    if (narrow != indices).any():
        raise ValueError(f"an index of {int(indices.max())} needs more than two bytes")
    return narrow


def _read_moves(assets: Assets, name: str, count: int) -> Indices:
    file = f"{DATA}/targets/{name}.target"
    return np.rint(parse_target(assets.read(file), file, count) / MOVES_UNIT).astype(np.int16)


def _read_fitted(assets: Assets, name: str, count: int) -> FittedMesh:
    if name in HAIR:
        folder = f"base/hair/{name}"
    else:
        folder = f"base/clothes/{'fedora01' if name in HATS else name}"
    fit_file = f"{folder}/{name}.mhclo"
    fit, mesh = parse_fitted_mesh(assets.read(fit_file), fit_file, count)
    mesh_file = f"{folder}/{mesh}"
    triangles = parse_mesh(assets.read(mesh_file), mesh_file).triangles
    parts = _connected(triangles, len(fit.anchors))
    return FittedMesh(**vars(fit), triangles=triangles, parts=parts)


def _connected(triangles: Indices, count: int) -> Indices:
    """Return the number of the connected part of each triangle, `(m)`."""
    edges = np.concatenate([triangles[:, :2], triangles[:, 1:]])
    linked = csr_array((np.ones(len(edges)), (edges[:, 0], edges[:, 1])), shape=(count, count))
    _, parts = connected_components(linked, directed=False)
    return parts[triangles[:, 0]]


def _mover(bones: Mapping[str, Bone], bone: str) -> str:
    while bone not in MOVING:
        bone = bones[bone].parent or "root"
    return bone


def _parent(bones: Mapping[str, Bone], bone: str) -> int:
    above = bones[bone].parent
    return -1 if above is None else MOVING.index(_mover(bones, above))
