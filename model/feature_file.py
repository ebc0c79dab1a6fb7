"""Files of features, `.npz` without pickle, which `gmn embed` writes and a service imports.

A folder of them, the shards, holds the features of one data set.
"""

from __future__ import annotations

import io
import math
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from model.arrays import Floats
from model.crops.unpack import BoundedReads
from model.problems import InputProblem, is_of_the_machine, legible

# Texts about each crop, which are empty if they are unknown. `captured_at` is a time in ISO 8601,
# and `sha256` the hexadecimal digest of the image file.
COLUMNS = ("paths", "identities", "cameras", "captured_at", "sha256")
ABOUT = ("embedding_fingerprint", "precision", "crops_digest")
UNREADABLE = "unreadable"
# Upper bound on the crops in a file that a client sends.
MOST_ROWS = 65_536
# Upper bound on the bytes of a file's list of arrays, which is its largest read.
MOST_AT_ONCE = 1024 * 1024
SHA256 = re.compile(r"[0-9a-f]{64}")


class Origin(NamedTuple):
    """The origin of a feature file; texts are empty if they are unknown.

    Attributes:
        embedder: fingerprint of the embedder, or the name of a ready-made model.
        precision: number format of the network, `float32` or `bfloat16`.
        crops: digest of the list of all crops, of which a shard has a part.
    """

    embedder: str
    precision: str = ""
    crops: str = ""


class FeatureFile(NamedTuple):
    """The content of a feature file.

    Attributes:
        features: features `(n, d)` float32, of any length.
        origin: origin of the features.
        columns: n texts for each of `COLUMNS`; none for one that the file lacks.
        unreadable: names of crops that could not be read, with the reasons.
    """

    features: Floats
    origin: Origin
    columns: Mapping[str, tuple[str, ...]]
    unreadable: tuple[str, ...] = ()


def read_feature_file(path: Path, most_rows: float = float("inf")) -> FeatureFile:
    """Read a feature file.

    Args:
        path: the file.
        most_rows: upper bound on the features.

    Raises:
        InputProblem: the file is missing, damaged or compressed, has no array `features` of shape
            `(n, d)`, or more than `most_rows` features.
    """
    if not path.is_file():
        raise InputProblem(f"{legible(path)}: no such file; name one that gmn embed wrote")
    try:
        with (
            BoundedReads(io.FileIO(path), MOST_AT_ONCE) as file,
            np.load(file, allow_pickle=False) as arrays,
        ):
            return _read_arrays(path, arrays, most_rows)
    except InputProblem:
        raise
    except Exception as error:
        if is_of_the_machine(error):
            raise
        # NumPy and zipfile raise many kinds of errors, which depend on the damage.
        raise InputProblem(
            f"{path}: is not a readable .npz ({error}); run gmn embed again"
        ) from error


def _read_arrays(
    path: Path,
    arrays: Any,
    most_rows: float,
) -> FeatureFile:
    # If nothing is compressed, the size of the file bounds the memory of its arrays.
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in arrays.zip.infolist()):
        raise InputProblem(f"{path}: is compressed; use it as gmn embed wrote it")
    for entry in arrays.zip.infolist():
        # NumPy would allocate the announced size, and too little memory would be taken for a fault
        # of the machine.
        if _announced_bytes(arrays.zip, entry) > entry.file_size:
            raise ValueError(f"{entry.filename} announces more numbers than it has")
    if "features" not in arrays:
        raise InputProblem(
            f"{path}: holds no array named features; name a file that gmn embed wrote"
        )
    features = arrays["features"]
    if features.ndim != 2 or not np.issubdtype(features.dtype, np.floating):
        raise InputProblem(
            f"{path}: its features are {features.dtype} of shape {features.shape}, not floating "
            "point of shape (n, d); run gmn embed again"
        )
    rows = len(features)
    if rows > most_rows:
        raise InputProblem(f"{path}: has {rows:,} features, over the limit of {most_rows:,}")
    texts = {}
    for name in (*COLUMNS, *ABOUT, UNREADABLE):
        stored = np.ravel(arrays.get(name, ()))
        # Empty texts take no bytes of the file, whose size does not bound their number.
        if len(stored) > most_rows:
            raise InputProblem(f"{path}: has more {name} than the limit of {most_rows:,}")
        texts[name] = tuple(stored.astype(np.str_).tolist())
    return FeatureFile(
        np.ascontiguousarray(features, dtype=np.float32),
        Origin(*("".join(texts[name]) for name in ABOUT)),
        {name: texts[name] for name in COLUMNS},
        texts[UNREADABLE],
    )


def _announced_bytes(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> int:
    """Return the size of an array in bytes by its header, without reading the array."""
    with archive.open(entry) as file:
        is_first_version = np.lib.format.read_magic(file) == (1, 0)  # type: ignore[no-untyped-call]
        if is_first_version:
            header = np.lib.format.read_array_header_1_0(file)  # type: ignore[no-untyped-call]
        else:
            header = np.lib.format.read_array_header_2_0(file)  # type: ignore[no-untyped-call]
    shape, _, dtype = header
    return int(math.prod(shape) * dtype.itemsize)


def is_feature_file(path: Path) -> bool:
    """Return whether a file begins like those of `gmn embed`."""
    with path.open("rb") as file:
        return file.read(42)[30:] == b"features.npy"


def are_directions(features: Floats) -> bool:
    """Return whether all features `(n, d)` are finite, and none is zero."""
    lengths = np.einsum("nd,nd->n", features, features)
    return bool((np.isfinite(lengths) & (lengths > 0)).all())


def read_sent(path: Path, most_bytes: int) -> FeatureFile:
    """Read a feature file that a client sent, with all `COLUMNS`, in bounded memory.

    Raises:
        InputProblem: the file cannot be read or is larger than `most_bytes`, it lacks a column, or
            a feature is zero or not finite.
    """
    size = path.stat().st_size
    if size > most_bytes:
        raise InputProblem(
            f"{path}: has {size:,} bytes, over the limit of {most_bytes:,}; give gmn embed a "
            "folder as --out, which then holds smaller files"
        )
    file = read_feature_file(path, MOST_ROWS)
    if not are_directions(file.features):
        raise InputProblem(f"{path}: has a feature that is zero or not finite; run gmn embed again")
    for name, texts in file.columns.items():
        if not texts or len(texts) != len(file.features):
            raise InputProblem(f"{path}: lacks {name} of its crops; run gmn embed again")
    if not all(SHA256.fullmatch(digest) for digest in file.columns["sha256"]):
        raise InputProblem(f"{path}: has an invalid sha256; run gmn embed again")
    return file
