"""Crops with their vectors in a Parquet file that others have sent, read in bounded memory.

`gmn gallery export` writes such files; the columns are those of `COLUMNS`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.feature_file import MOST_ROWS, SHA256, FeatureFile, Origin
from model.problems import InputProblem

MAGIC = b"PAR1"
FINGERPRINT = b"embedding_fingerprint"
# Each with the name that a feature file has for it.
TEXTS = {"identity": "identities", "camera": "cameras", "captured_at": "captured_at"}
TEXTS |= {"external_id": "paths", "metadata": "metadata", "sha256": "sha256"}
# Beyond what a label may be.
LONGEST_TEXT = 64 * 1024


def is_parquet(path: Path) -> bool:
    """Whether a file begins as every Parquet file does."""
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def read_parquet(path: Path, most_bytes: int) -> FeatureFile:
    """The crops of a file, with texts that are empty where they are unknown.

    Without `sha256` a crop is known by that of its vector.

    Raises:
        InputProblem: for a file that is damaged, too large, lacks `vector` or the embedder's
            fingerprint, or has a vector without a direction or a label that is too long.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ModuleNotFoundError as error:
        raise InputProblem(
            f"{path}: this service reads no Parquet; install pip install 'gmn-reid[serve,parquet]'"
        ) from error
    try:
        with parquet.ParquetFile(path) as file:
            _require_bounds(path, file, most_bytes)
            kinds = {one.name: str(one.type) for one in file.schema_arrow}
        # Texts stay in dictionaries: one that is repeated takes its memory once.
        repeated = [name for name in TEXTS if kinds.get(name) == "string"]
        with parquet.ParquetFile(path, read_dictionary=repeated) as file:
            table = file.read(columns=[name for name in ("vector", *TEXTS) if name in kinds])
        numbers = pyarrow.list_(pyarrow.float32())
        features = _vectors(path, table.column("vector").cast(numbers, safe=False))
        texts = {name: tuple(_texts(path, table, name)) for name in TEXTS}
    except (pyarrow.ArrowException, OSError, ValueError, TypeError) as error:
        if isinstance(error, InputProblem):
            raise
        raise InputProblem(f"{path}: is not a readable Parquet file ({error})") from error
    hashes = zip(texts["sha256"], features, strict=True)
    texts["sha256"] = tuple(
        text or hashlib.sha256(np.asarray(vector, "<f4").tobytes()).hexdigest()
        for text, vector in hashes
    )
    if not all(map(SHA256.fullmatch, texts["sha256"])):
        raise InputProblem(f"{path}: has a sha256 that is none; leave the column out")
    embedder = (table.schema.metadata or {}).get(FINGERPRINT, b"").decode(errors="replace")
    if not embedder:
        raise InputProblem(
            f"{path}: does not name the embedder of its vectors; write embedding_fingerprint into "
            "the metadata of its schema"
        )
    columns = {TEXTS[one]: texts[one] for one in TEXTS}
    return FeatureFile(path, features, Origin(embedder), columns, pictured="image" in kinds)


def read_pictures(path: Path, rows: range) -> list[bytes]:
    """The image files of some crops, empty where one is unknown; of their row groups alone.

    Raises:
        InputProblem: they are damaged, or no files.
    """
    import pyarrow
    from pyarrow import parquet

    found: list[bytes] = []
    end = 0
    try:
        with parquet.ParquetFile(path) as file:
            for group in range(file.num_row_groups):
                begin, end = end, end + file.metadata.row_group(group).num_rows
                if own := range(max(begin, rows.start), min(end, rows.stop)):
                    column = file.read_row_group(group, ["image"]).column(0).cast(pyarrow.binary())
                    found += [column[row - begin].as_py() or b"" for row in own]
    except (pyarrow.ArrowException, OSError) as error:
        raise InputProblem(f"archive: its column image cannot be read ({error})") from error
    return found


def _require_bounds(path: Path, file: Any, most_bytes: int) -> None:
    size, about = path.stat().st_size, file.metadata
    if "vector" not in file.schema_arrow.names:
        raise InputProblem(f"{path}: has no column vector; write each crop's into one")
    columns = [
        about.row_group(group).column(one)
        for group in range(about.num_row_groups)
        for one in range(about.num_columns)
    ]
    numbers = sum(one.num_values for one in columns if one.path_in_schema.startswith("vector."))
    unpacked = sum(one.total_uncompressed_size for one in columns)
    if max(size, numbers * np.float32().nbytes, unpacked) > most_bytes:
        raise InputProblem(f"{path}: holds more than {most_bytes:,} bytes; send several files")
    if about.num_rows > MOST_ROWS:
        raise InputProblem(
            f"{path}: has {about.num_rows:,} crops, over the limit of {MOST_ROWS:,}; send several"
        )


def _vectors(path: Path, column: Any) -> NDArray[np.float32]:
    vectors = column.combine_chunks()
    dimensions = set(vectors.value_lengths().to_pylist())
    if len(dimensions) != 1 or not all(dimensions):
        raise InputProblem(f"{path}: its vectors are of several lengths, or one is missing")
    with np.errstate(over="ignore"):
        numbers = np.asarray(vectors.flatten().to_numpy(zero_copy_only=False), np.float32)
    features = numbers.reshape(len(vectors), -1)
    lengths = np.einsum("nd,nd->n", features, features)
    if not (np.isfinite(lengths) & (lengths > 0)).all():
        raise InputProblem(f"{path}: has a vector that is not finite or has no length")
    return features


def _texts(path: Path, table: Any, name: str) -> Iterator[str]:
    if name not in table.column_names:
        yield from [""] * table.num_rows
        return
    for chunk in table.column(name).chunks:
        for value in _values(chunk):
            text = value.isoformat() if isinstance(value, datetime) else value or ""
            if not isinstance(text, str) or len(text) > LONGEST_TEXT:
                raise InputProblem(
                    f"{path}: {name} is {type(value).__name__} or too long; write texts, and times "
                    "with a time zone"
                )
            yield text


def _values(chunk: Any) -> Sequence[Any]:
    if not hasattr(chunk, "dictionary"):
        return list(chunk.to_pylist())
    known = chunk.dictionary.to_pylist()
    return [None if place is None else known[place] for place in chunk.indices.to_pylist()]
