"""Artefact files taken apart and put together again, around the checks of `save_artefact`."""

import json

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save

from model.artefact import HEADER_KEY


def read_parts(path):
    """Return an artefact's header and its tensors by name."""
    with safe_open(str(path), framework="numpy") as file:
        header = json.loads(file.metadata()[HEADER_KEY])
        names = list(file.keys())
        return header, {name: np.array(file.get_tensor(name)) for name in names}


def write_parts(path, header, tensors):
    path.write_bytes(save(tensors, metadata={HEADER_KEY: json.dumps(header)}))
    return path


def without_graph(source, path):
    """Write an artefact as versions wrote it that had no graph."""
    header, tensors = read_parts(source)
    del header["graph_fingerprint"]
    weights = {name: tensors[name] for name in tensors if not name.startswith("graph.")}
    return write_parts(path, header, weights)
