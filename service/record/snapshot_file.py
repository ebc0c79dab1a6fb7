"""A gallery's copy in one file: an SQLite database in which every crop carries its checksum.

A file is written beside its place and put there whole, so that one with the right name is
complete. Forgotten crops are removed from it, also from its free pages.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from secrets import token_hex
from typing import Any

import numpy as np
from pydantic import TypeAdapter
from pydantic_core import to_json

from service.errors import DamagedSnapshot, StorageFailed
from service.ops.data_directory import make_folder, sync
from service.ops.failpoints import failpoint
from service.record.entries import as_crop
from service.record.records import ArchivedCrop, Snapshot

FORMAT = 1
TABLES = """
CREATE TABLE header (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE crops (
    place INTEGER PRIMARY KEY,
    crop_id TEXT NOT NULL UNIQUE,
    record TEXT NOT NULL,
    vector BLOB NOT NULL,
    picture BLOB,
    checksum TEXT NOT NULL
);
"""


@dataclass(frozen=True)
class SnapshotHeader:
    """What a file holds, and its origin, by which it can be restored without any record.

    Attributes:
        crops: how many.
        sha256: over the checksums of all crops in order.
        gallery: its name; empty in files of before it was noted, as the two that follow are.
        embedding_fingerprint: of the embedder that made the vectors.
        version: of the gallery.
    """

    crops: int = 0
    sha256: str = ""
    gallery: str = ""
    embedding_fingerprint: str = ""
    version: int = 0


def write_snapshot(
    path: Path, crops: Iterable[ArchivedCrop], origin: SnapshotHeader | None = None
) -> SnapshotHeader:
    """Writes crops to a new file, which is on the disk when this returns.

    Args:
        path: its folder is made.
        crops: read once, in order; one that comes again takes the place of the one before.
        origin: what they were copied from; its counts are left out.

    Raises:
        StorageFailed: where the disk does not take it; nothing is left then.
    """
    rows = (_row(place, crop) for place, crop in enumerate(crops))
    return _write(path, rows, origin or SnapshotHeader())


def _write(path: Path, rows: Iterable[tuple[Any, ...]], origin: SnapshotHeader) -> SnapshotHeader:
    beside = path.with_suffix(f".{token_hex(8)}.part")
    try:
        make_folder(path.parent)
        with _opened(beside) as file:
            file.executescript(TABLES)
            file.execute("BEGIN")
            file.executemany("INSERT OR REPLACE INTO crops VALUES (?, ?, ?, ?, ?, ?)", rows)
            whole = hashlib.sha256()
            crops = 0
            for (checksum,) in file.execute("SELECT checksum FROM crops ORDER BY place"):
                whole.update(checksum.encode())
                crops += 1
            header = replace(origin, crops=crops, sha256=whole.hexdigest())
            fields = {"format": FORMAT, **vars(header)}.items()
            file.executemany("INSERT INTO header VALUES (?, ?)", fields)
            file.execute("COMMIT")
        sync(beside)
        failpoint("snapshot.written")
        beside.replace(path)
        sync(path.parent)
    except BaseException as error:
        beside.unlink(missing_ok=True)
        # Any other error of SQLite is of the file that the rows are read from.
        if isinstance(error, OSError | sqlite3.OperationalError):
            raise StorageFailed(
                f"the snapshot could not be written ({error}); nothing is left of it, free space "
                "in the data directory and ask again"
            ) from error
        raise
    return header


def read_snapshot(path: Path) -> Iterator[ArchivedCrop]:
    """Every crop of a file, each checked when it is read, the whole when it is read through.

    Raises:
        DamagedSnapshot: naming the file and the first crop that is not what was written.
    """
    with _reading(path) as file:
        promised = _header(path, file)
        whole = hashlib.sha256()
        crops = 0
        rows = file.execute(
            "SELECT crop_id, record, vector, picture, checksum FROM crops ORDER BY place"
        )
        for crop_id, record, vector, picture, checksum in rows:
            # A damaged page may also give another type than was written.
            readable = isinstance(record, str) and isinstance(vector, bytes)
            if not readable or _checksum(record, vector, picture) != checksum:
                raise DamagedSnapshot(path, f"crop {crop_id} is not what was written")
            whole.update(checksum.encode())
            crops += 1
            yield ArchivedCrop(as_crop(record), np.frombuffer(vector, "<f4"), picture)
        if (crops, whole.hexdigest()) != (promised.crops, promised.sha256):
            raise DamagedSnapshot(path, f"it holds {crops} crops where {promised.crops} belong")


def snapshot_header(path: Path) -> SnapshotHeader:
    """A file's header, unchecked; raises `DamagedSnapshot` where it cannot be read."""
    with _reading(path) as file:
        return _header(path, file)


def describe_snapshot(path: Path, created_at: datetime) -> Snapshot:
    """What a record keeps of a file, by its header and place; raises `DamagedSnapshot`."""
    header = snapshot_header(path)
    return Snapshot(
        snapshot_id=path.stem,
        gallery_id=int(path.parent.name),
        version=header.version,
        embedding_fingerprint=header.embedding_fingerprint,
        crops=header.crops,
        bytes=path.stat().st_size,
        sha256=header.sha256,
        created_at=created_at,
    )


def snapshot_crop_ids(path: Path, identity: str | None = None) -> list[str]:
    """Ids of a file's crops, of all or of one identity; raises `DamagedSnapshot`."""
    with _reading(path) as file:
        rows = file.execute("SELECT crop_id, record FROM crops")
        return [
            crop_id
            for crop_id, record in rows
            if identity is None or json.loads(record)["identity"] == identity
        ]


def remove_from_snapshot(path: Path, crop_ids: Sequence[str]) -> SnapshotHeader:
    """Takes crops out of a file and rewrites it, so that nothing of them is left in it.

    The new file is written beside the old one and takes its place whole: after a power cut it is
    the one or the other, and once this returns the new one.

    Raises:
        DamagedSnapshot: where the file cannot be read.
    """
    with _reading(path) as file:
        left = file.execute(
            "SELECT * FROM crops WHERE NOT crop_id IN (SELECT value FROM json_each(?)) "
            "ORDER BY place",
            (json.dumps(list(crop_ids)),),
        )
        header = _header(path, file)
        failpoint("snapshot-rewrite.begun")
        return _write(path, left, header)


def _row(place: int, crop: ArchivedCrop) -> tuple[Any, ...]:
    record = to_json(crop.record).decode()
    vector = np.asarray(crop.vector, "<f4").tobytes()
    checksum = _checksum(record, vector, crop.picture)
    return place, crop.record.crop_id, record, vector, crop.picture, checksum


def _checksum(record: str, vector: bytes, picture: bytes | None) -> str:
    digest = hashlib.sha256()
    for part in (record.encode(), vector, picture or b""):
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()


def _header(path: Path, file: sqlite3.Connection) -> SnapshotHeader:
    header = dict(file.execute("SELECT name, value FROM header").fetchall())
    version = str(header.pop("format", ""))
    if not version.isdecimal() or int(version) > FORMAT:
        raise DamagedSnapshot(path, f"it has format {version!r}, this program reads up to {FORMAT}")
    return _HEADER.validate_python(header)


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[sqlite3.Connection]:
    if not path.is_file():
        raise DamagedSnapshot(path, "there is no such file")
    try:
        with _opened(path) as file:
            yield file
    except (sqlite3.DatabaseError, KeyError, ValueError) as error:
        raise DamagedSnapshot(path, str(error)) from error


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[sqlite3.Connection]:
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as file:
        # No log beside the file: it has to be whole by itself.
        for pragma in ("journal_mode = DELETE", "synchronous = FULL", "secure_delete = ON"):
            file.execute(f"PRAGMA {pragma}")
        yield file


_HEADER = TypeAdapter(SnapshotHeader)
