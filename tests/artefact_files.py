"""Artefact files taken apart and put together again, around the checks of `save_artefact`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save

from model.artefact import HEADER_KEY

Tensors = dict[str, NDArray[Any]]


def read_parts(path: Path) -> tuple[dict[str, Any], Tensors]:
    """Return an artefact's header and its tensors by name."""
    with safe_open(str(path), framework="numpy") as file:
        header = json.loads(file.metadata()[HEADER_KEY])
        names = list(file.keys())
        return header, {name: np.array(file.get_tensor(name)) for name in names}


def write_parts(path: Path, header: dict[str, Any], tensors: Tensors) -> Path:
    path.write_bytes(save(tensors, metadata={HEADER_KEY: json.dumps(header)}))
    return path


def without_graph(source: Path, path: Path) -> Path:
    """Write an artefact as versions wrote it that had no graph."""
    header, tensors = read_parts(source)
    del header["graph_fingerprint"]
    weights = {name: tensors[name] for name in tensors if not name.startswith("graph.")}
    return write_parts(path, header, weights)
