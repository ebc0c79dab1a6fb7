"""Files of features: a `.npz` without pickle, or a folder of them, the shards.

`gmn embed` writes them, and a service imports them.
"""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from model.arrays import Floats
from model.crops.unpack import BoundedReads
from model.problems import InputProblem
from model.shards import shards_in

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


@dataclass(frozen=True)
class FeatureFile:
    """The content of a feature file, or of a folder of them.

    Attributes:
        path: path of the file or folder.
        features: features `(n, d)` float32, of any length.
        origin: origin of the features.
        columns: those of the requested `COLUMNS` that the file has, n texts each.
    """

    path: Path
    features: Floats
    origin: Origin
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def paths(self) -> tuple[str, ...]:
        """The names of the crops; empty if the file has none or they were not requested."""
        return self.columns.get("paths", ())


def write_features(
    path: Path,
    features: Floats,
    columns: Mapping[str, Sequence[str]],
    origin: Origin,
    unreadable: Sequence[str] = (),
) -> None:
    """Write features, labels of their crops, and their origin.

    Args:
        path: the file; an existing one is overwritten.
        features: features `(n, d)` float32.
        columns: some of `COLUMNS`, n texts each.
        origin: origin of the features.
        unreadable: names of crops that could not be read, with the reasons.
    """
    about = dict(zip(ABOUT, origin, strict=True))
    texts = {**columns, **about, UNREADABLE: unreadable}
    arrays = {name: np.array(text, dtype=np.str_) for name, text in texts.items()}
    with path.open("wb") as file:
        np.savez(
            file,
            allow_pickle=False,
            features=features,
            **arrays,
        )


def read_features(path: Path, columns: Collection[str] = ()) -> FeatureFile:
    """Read a feature file, or a whole folder of shards as if it were one file.

    Args:
        path: the file or folder.
        columns: the `COLUMNS` to read.

    Raises:
        InputProblem: the file is missing or damaged, or has no array `features` of shape `(n, d)`;
            or the folder lacks a shard, or has shards of different origin.
    """
    if not path.is_dir():
        return _read(path, columns)
    files = shards_in(path)
    shapes = [_shape(file) for file in files]
    total = sum(rows for rows, _ in shapes)
    _, dimension = shapes[0]
    features = np.empty((total, dimension), np.float32)
    read: dict[str, list[str]] = {name: [] for name in columns}
    origin = read_origin(files[0])
    done = 0
    for file, (rows, _) in zip(files, shapes, strict=True):
        shard = _read(file, columns)
        if shard.origin != origin or shard.features.shape[1] != dimension:
            raise InputProblem(
                f"{file}: was made by another artefact or of other crops than {files[0].name}; "
                "give the shards of each gmn embed a folder of their own"
            )
        features[done : done + rows] = shard.features
        done += rows
        for name in columns:
            read[name] += shard.columns.get(name, ())
    texts = {name: tuple(column) for name, column in read.items()}
    return FeatureFile(path, features, origin, texts)


def read_origin(path: Path) -> Origin:
    """Read the origin of a feature file; raises errors like `read_features`."""
    with _opened(path) as arrays:
        return _origin(arrays)


def read_unreadable(path: Path) -> list[str]:
    """Read the names of crops that could not be read, with the reasons."""
    with _opened(path) as arrays:
        return _texts(arrays, UNREADABLE)


def is_feature_file(path: Path) -> bool:
    """Return whether a file begins like those of `write_features`."""
    with path.open("rb") as file:
        return file.read(42)[30:] == b"features.npy"


def read_sent(path: Path, most_bytes: int) -> FeatureFile:
    """Read a feature file that a client sent, with all `COLUMNS`, in bounded memory.

    Raises:
        InputProblem: the file is damaged, compressed, or larger than `most_bytes`, it lacks a
            column, or a feature is zero or not finite.
    """
    size = path.stat().st_size
    if size > most_bytes:
        raise InputProblem(
            f"{path}: has {size:,} bytes, over the limit of {most_bytes:,}; give gmn embed a "
            "folder as --out, which then holds smaller files"
        )
    with _opened(path) as arrays:
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in arrays.zip.infolist()):
            raise InputProblem(f"{path}: is compressed; send it as gmn embed wrote it")
        features = _features(path, arrays)
        rows = len(features)
        if rows > MOST_ROWS:
            raise InputProblem(f"{path}: has {rows:,} features, over the limit of {MOST_ROWS:,}")
        lengths = np.einsum("nd,nd->n", features, features)
        if not (np.isfinite(lengths) & (lengths > 0)).all():
            raise InputProblem(
                f"{path}: has a feature that is zero or not finite; run gmn embed again"
            )
        columns = {}
        for name in COLUMNS:
            if name not in arrays or arrays[name].shape != (rows,):
                raise InputProblem(f"{path}: lacks {name} of its crops; run gmn embed again")
            columns[name] = tuple(_texts(arrays, name))
        if not all(SHA256.fullmatch(digest) for digest in columns["sha256"]):
            raise InputProblem(f"{path}: has an invalid sha256; run gmn embed again")
        return FeatureFile(path, features, _origin(arrays), columns)


def _read(path: Path, columns: Collection[str]) -> FeatureFile:
    with _opened(path) as arrays:
        read = {name: tuple(_texts(arrays, name)) for name in columns if name in arrays}
        return FeatureFile(path, _features(path, arrays), _origin(arrays), read)


def _features(path: Path, arrays: Any) -> Floats:
    features = arrays["features"]
    if features.ndim != 2 or not np.issubdtype(features.dtype, np.floating):
        raise InputProblem(
            f"{path}: its features are {features.dtype} of shape {features.shape}, not floating "
            "point of shape (n, d); run gmn embed again"
        )
    return np.ascontiguousarray(features, dtype=np.float32)


def _shape(path: Path) -> tuple[int, int]:
    """Read the shape of the features from their header."""
    with _opened(path) as arrays, arrays.zip.open("features.npy") as file:
        major, _ = np.lib.format.read_magic(file)  # type: ignore[no-untyped-call]
        read = getattr(np.lib.format, f"read_array_header_{major}_0")
        shape, _, _ = read(file)
        rows, dimension = shape
    return rows, dimension


def _origin(arrays: Any) -> Origin:
    return Origin(*("".join(_texts(arrays, name)) for name in ABOUT))


def _texts(arrays: Any, name: str) -> list[str]:
    if name not in arrays:
        return []
    texts = np.atleast_1d(arrays[name])
    return [str(text) for text in texts.tolist()]


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Open the arrays of a feature file; raises `InputProblem` if it cannot be read."""
    if not path.is_file():
        raise InputProblem(f"{path}: no such file; name one that gmn embed wrote")
    try:
        with (
            BoundedReads(io.FileIO(path), MOST_AT_ONCE) as file,
            np.load(file, allow_pickle=False) as arrays,
        ):
            if not isinstance(arrays, np.lib.npyio.NpzFile) or "features" not in arrays:
                raise InputProblem(
                    f"{path}: holds no array named features; name a file that gmn embed wrote"
                )
            yield arrays
    except InputProblem:
        raise
    except Exception as error:
        # NumPy and zipfile raise many kinds of errors, which depend on the damage.
        raise InputProblem(
            f"{path}: is not a readable .npz ({error}); run gmn embed again"
        ) from error
