"""Reading of records in format 7, written before version 0.5: one table of keys and values.

A key consists of parts that end with a zero byte: its kind, then numbers of 16 hexadecimal digits
and texts. Kinds that are never listed begin with an exclamation mark. A value is a checksum of its
key and body, followed by the body, usually JSON.
"""

from __future__ import annotations

import contextlib
import hashlib
import sqlite3
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter
from pydantic_core import from_json

from model.problems import InputProblem
from service.errors import DamagedRecord, DamagedSnapshot
from service.record.values import ArchivedCrop, GalleryRecord, StoredCrop

FORMAT = 7
CHECKSUM_BYTES = 4
# Folder of a backup with the images and vectors that were kept outside the record.
IMAGES = "images"
END = b"\0"
ESCAPED = b"\0\xff"
GALLERY = TypeAdapter(GalleryRecord)
CROP = TypeAdapter(StoredCrop)

Vector = NDArray[np.float32]


class OldRecord:
    """A record of format 7, opened read-only; reads see the state at opening.

    Args:
        path: the file.

    Raises:
        InputProblem: the file is not a record of format 7.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)
        self._connection.execute("BEGIN")
        version = self._connection.execute("PRAGMA user_version").fetchone()[0]
        if version != FORMAT:
            raise InputProblem(f"{path}: has format {version} instead of {FORMAT}")

    def close(self) -> None:
        self._connection.close()

    def body(self, kind: str, *parts: str | int) -> bytes | None:
        full_key = key(kind, *parts)
        row = self._connection.execute(
            "SELECT value FROM entries WHERE key = ?", (full_key,)
        ).fetchone()
        return None if row is None else self._unsealed(full_key, row[0])

    def json(self, kind: str, *parts: str | int) -> Any:
        body = self.body(kind, *parts)
        return None if body is None else from_json(body)

    def below(self, kind: str, *parts: str | int) -> Iterator[tuple[str, bytes]]:
        """Yield (last part, body) of all entries below a key, in the order of the keys."""
        prefix = key(kind, *parts)
        rows = self._connection.execute(
            "SELECT key, value FROM entries WHERE key >= ? AND key < ? ORDER BY key",
            (prefix, prefix + b"\xff"),
        )
        for full_key, value in rows:
            last = full_key[len(prefix) : -1].replace(ESCAPED, END).decode()
            yield last, self._unsealed(full_key, value)

    def named(self, kind: str, *parts: str | int) -> Iterator[tuple[str, Any]]:
        for name, body in self.below(kind, *parts):
            yield name, from_json(body)

    def galleries(self) -> list[GalleryRecord]:
        galleries = [GALLERY.validate_json(body) for _, body in self.below("gallery")]
        return [gallery for gallery in galleries if gallery.name]

    def crops(self, gallery: GalleryRecord) -> Iterator[ArchivedCrop]:
        """Yield the crops of a gallery by row, with pictures and the searched vectors.

        Raises:
            DamagedRecord: a picture or a vector is missing.
        """
        for _, body in self.below("crop", gallery.gallery_id, gallery.at):
            crop = CROP.validate_json(body)
            vector = self._vector(gallery, crop)
            picture = self._picture(gallery, crop)
            record = replace(crop, inside=picture is not None)
            yield ArchivedCrop(record, np.frombuffer(vector, "<f4"), picture)

    def _vector(self, gallery: GalleryRecord, crop: StoredCrop) -> bytes:
        place = (gallery.gallery_id, gallery.at, gallery.side, crop.row_id)
        vector = self.body("!vector", *place)
        name = f"{gallery.gallery_id}/{crop.crop_id}.{gallery.side}.f32"
        outside = self.path.with_name(IMAGES) / name
        if vector is None and outside.is_file():
            vector = self._unsealed(name.encode(), outside.read_bytes())
        if vector is None:
            raise DamagedRecord(self.path, f"the vector of crop {crop.crop_id} is gone")
        return vector

    def _picture(self, gallery: GalleryRecord, crop: StoredCrop) -> bytes | None:
        picture = self.body("!picture", gallery.gallery_id, gallery.at, crop.row_id)
        if crop.inside and picture is None:
            raise DamagedRecord(self.path, f"the picture of crop {crop.crop_id} is gone")
        outside = self.path.with_name(IMAGES) / str(gallery.gallery_id) / crop.crop_id
        if picture is None and outside.is_file():
            picture = outside.read_bytes()
        return picture

    def _unsealed(self, full_key: bytes, value: object) -> bytes:
        if isinstance(value, bytes) and not value:
            return b""
        if isinstance(value, bytes) and len(value) >= CHECKSUM_BYTES:
            body = value[CHECKSUM_BYTES:]
            checksum = zlib.crc32(body, zlib.crc32(full_key))
            if checksum == int.from_bytes(value[:CHECKSUM_BYTES], "big"):
                return body
        raise DamagedRecord(self.path, f"{full_key[:40]!r} is not what was written")


def key(kind: str, *parts: str | int) -> bytes:
    return b"".join(
        b"%016x\0" % part if isinstance(part, int) else part.encode().replace(END, ESCAPED) + END
        for part in (kind, *parts)
    )


@dataclass(frozen=True)
class OldSnapshot:
    """A snapshot written before version 0.5: the crops of a gallery in one SQLite file.

    Attributes:
        sha256: hash over the checksums of all crops in order.
        embedding_fingerprint, version: its origin; empty in files that lack these.
    """

    path: Path
    crops: int
    sha256: str
    embedding_fingerprint: str = ""
    version: int = 0

    def read(self) -> Iterator[ArchivedCrop]:
        """Yield every crop at a slot of its own, and check each, and the totals at the end.

        Raises:
            DamagedSnapshot: names the first crop that differs from its checksum.
        """
        statement = "SELECT crop_id, record, vector, picture, checksum FROM crops ORDER BY place"
        digest = hashlib.sha256()
        crops = 0
        with _reading(self.path) as file:
            for crop_id, record, vector, picture, checksum in file.execute(statement):
                readable = isinstance(record, str) and isinstance(vector, bytes)
                if not readable or _checksum(record, vector, picture) != checksum:
                    raise DamagedSnapshot(self.path, f"crop {crop_id} is not what was written")
                digest.update(checksum.encode())
                crops += 1
                crop = replace(CROP.validate_json(record), row_id=crops, inside=picture is not None)
                yield ArchivedCrop(crop, np.frombuffer(vector, "<f4"), picture)
        if (crops, digest.hexdigest()) != (self.crops, self.sha256):
            raise DamagedSnapshot(self.path, f"it has {crops} crops instead of {self.crops}")


def open_old_snapshot(path: Path) -> OldSnapshot:
    with _reading(path) as file:
        header = dict(file.execute("SELECT name, value FROM header"))
        return TypeAdapter(OldSnapshot).validate_python({**header, "path": path})


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[sqlite3.Connection]:
    try:
        with contextlib.closing(
            sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)
        ) as file:
            yield file
    except (sqlite3.DatabaseError, ValueError) as error:
        raise DamagedSnapshot(path, str(error)) from error


def _checksum(record: str, vector: bytes, picture: bytes | None) -> str:
    digest = hashlib.sha256()
    for part in (record.encode(), vector, picture or b""):
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()
