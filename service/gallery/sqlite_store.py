"""The store of record in one SQLite file: WAL, synchronous=FULL, deleted means overwritten."""

from __future__ import annotations

import contextlib
import json
import secrets
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from model.problems import InputProblem
from service.gallery.records import (
    CropLabel,
    Enrolment,
    GalleryRecord,
    IdentityCount,
    IndexedCrop,
    LandedCrop,
    NewCrop,
    Picture,
    Removal,
    StoredCrop,
)
from service.gallery.schema import migrate
from service.problems import GalleryConflict, NeedsReindex, StorageFailed

NAMED_IN_WARNINGS = 3
CROP_COLUMNS = (
    "row_id, crop_id, identity, camera, captured_at, external_id, metadata, sha256, content_type, "
    "created_at"
)
GALLERY_QUERY = """
SELECT gallery_id, name, embedding_fingerprint, version,
    (SELECT count(*) FROM crops WHERE crops.gallery_id = galleries.gallery_id),
    (SELECT count(DISTINCT identity) FROM crops WHERE crops.gallery_id = galleries.gallery_id),
    (SELECT coalesce(sum(length(content)), 0) FROM crops JOIN pictures USING (row_id)
        WHERE crops.gallery_id = galleries.gallery_id),
    created_at
FROM galleries
"""


class SqliteStore:
    """Implements `RecordStore`; every thread gets a connection of its own.

    Raises:
        InputProblem: where the file is not a database that this program can use.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._local = threading.local()
        self._opened: list[sqlite3.Connection] = []
        self._opening = threading.Lock()
        try:
            migrate(self._connection, path)
        except sqlite3.Error as error:
            self.close()
            raise InputProblem(
                f"{path}: cannot be used as the galleries' database ({error}); restore it from a "
                "copy, or name another directory with --data-dir"
            ) from error

    def galleries(self) -> list[GalleryRecord]:
        """Every gallery, by name."""
        rows = self._connection.execute(f"{GALLERY_QUERY} ORDER BY name")
        return [_gallery(row) for row in rows]

    def gallery(self, gallery_id: int) -> GalleryRecord | None:
        """One gallery, counted now; None where it was deleted."""
        row = self._connection.execute(
            f"{GALLERY_QUERY} WHERE gallery_id = ?", (gallery_id,)
        ).fetchone()
        return _gallery(row) if row else None

    def create_gallery(self, name: str, embedding_fingerprint: str) -> GalleryRecord:
        """Creates an empty gallery; raises `GalleryConflict` where the name is taken."""
        with self._transaction() as connection:
            try:
                connection.execute(
                    "INSERT INTO galleries (name, embedding_fingerprint, created_at) "
                    "VALUES (?, ?, ?)",
                    (name, embedding_fingerprint, _now()),
                )
            except sqlite3.IntegrityError as error:
                raise GalleryConflict(
                    f"there is a gallery {name!r} already; enrol into it or choose another name"
                ) from error
            row = connection.execute(f"{GALLERY_QUERY} WHERE name = ?", (name,)).fetchone()
        return _gallery(row)

    def delete_gallery(self, gallery_id: int) -> None:
        """Removes a gallery and all that is in it."""
        with self._transaction() as connection:
            connection.execute("DELETE FROM galleries WHERE gallery_id = ?", (gallery_id,))
        self._empty_log()

    def enroll(
        self, gallery_id: int, embedding_fingerprint: str, crops: Sequence[NewCrop]
    ) -> Enrolment:
        """Stores crops in one transaction; raises `NeedsReindex` for another embedder's gallery."""
        landed: list[LandedCrop] = []
        added: list[IndexedCrop] = []
        with self._transaction() as connection:
            _bind(connection, gallery_id, embedding_fingerprint)
            for crop in crops:
                outcome, stored = _store(connection, gallery_id, crop)
                landed.append(outcome)
                if stored:
                    added.append(stored)
            version = _version(connection, gallery_id, raised=bool(added))
        return Enrolment(version, embedding_fingerprint, tuple(landed), tuple(added))

    def remove_crop(self, gallery_id: int, crop_id: str) -> Removal | None:
        """Removes a crop, its vector and its picture; None where there is no such crop."""
        with self._transaction() as connection:
            row = connection.execute(
                "DELETE FROM crops WHERE gallery_id = ? AND crop_id = ? RETURNING row_id",
                (gallery_id, crop_id),
            ).fetchone()
            if row is None:
                return None
            version = _version(connection, gallery_id, raised=True)
        self._empty_log()
        return Removal(version, (int(row[0]),))

    def crop(self, gallery_id: int, crop_id: str) -> StoredCrop | None:
        """One crop's record."""
        row = self._connection.execute(
            f"SELECT {CROP_COLUMNS} FROM crops WHERE gallery_id = ? AND crop_id = ?",
            (gallery_id, crop_id),
        ).fetchone()
        return _stored(row) if row else None

    def crops(
        self, gallery_id: int, identity: str | None, camera: str | None, after: int, limit: int
    ) -> list[StoredCrop]:
        """Up to `limit` crops with a `row_id` above `after`, in that order."""
        asked = {"identity": identity, "camera": camera}
        given = {name: value for name, value in asked.items() if value is not None}
        # Only what is asked stands in the query, so that SQLite finds the index that fits it.
        narrowed = "".join(f" AND {name} = :{name}" for name in given)
        rows = self._connection.execute(
            f"SELECT {CROP_COLUMNS} FROM crops WHERE gallery_id = :gallery AND row_id > :after"
            f"{narrowed} ORDER BY row_id LIMIT :limit",
            {"gallery": gallery_id, "after": after, "limit": limit, **given},
        )
        return [_stored(row) for row in rows]

    def identities(self, gallery_id: int, after: str, limit: int) -> list[IdentityCount]:
        """Up to `limit` identities that sort after `after`."""
        rows = self._connection.execute(
            "SELECT identity, count(*), count(DISTINCT camera) FROM crops "
            "WHERE gallery_id = ? AND identity > ? GROUP BY identity ORDER BY identity LIMIT ?",
            (gallery_id, after, limit),
        )
        return [IdentityCount(*row) for row in rows]

    def picture(self, gallery_id: int, crop_id: str) -> Picture | None:
        """One crop's image file."""
        row = self._connection.execute(
            "SELECT content, content_type FROM crops JOIN pictures USING (row_id) "
            "WHERE gallery_id = ? AND crop_id = ?",
            (gallery_id, crop_id),
        ).fetchone()
        return Picture(*row) if row else None

    def vectors(self, gallery_id: int) -> Iterator[IndexedCrop]:
        """Every crop as the index needs it, by `row_id`."""
        rows = self._connection.execute(
            "SELECT row_id, crop_id, identity, camera, captured_at, vector FROM crops "
            "WHERE gallery_id = ? ORDER BY row_id",
            (gallery_id,),
        )
        for row_id, crop_id, identity, camera, captured_at, vector in rows:
            label = CropLabel(row_id, crop_id, identity, camera, _time(captured_at))
            yield IndexedCrop(label, np.frombuffer(vector, "<f4"))

    def close(self) -> None:
        """Closes every connection."""
        with self._opening:
            for connection in self._opened:
                connection.close()
            self._opened.clear()

    @property
    def _connection(self) -> sqlite3.Connection:
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = sqlite3.connect(
                self._path, isolation_level=None, check_same_thread=False, timeout=30.0
            )
            with self._opening:
                self._opened.append(connection)
            # FULL: a commit is on the disk, not in a cache, before it is acknowledged.
            for pragma in (
                "journal_mode = WAL",
                "synchronous = FULL",
                "foreign_keys = ON",
                "secure_delete = ON",
            ):
                connection.execute(f"PRAGMA {pragma}")
            self._local.connection = connection
        return connection

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        connection = self._connection
        try:
            connection.execute("BEGIN IMMEDIATE")
            yield connection
            connection.execute("COMMIT")
        except sqlite3.OperationalError as error:
            _roll_back(connection)
            raise StorageFailed(
                f"the record store could not write ({error}); nothing was stored, free space in "
                "the data directory and send the request again"
            ) from error
        except BaseException:
            _roll_back(connection)
            raise

    def _empty_log(self) -> None:
        # Until a checkpoint the write-ahead log still holds pages with what was just deleted.
        with contextlib.suppress(sqlite3.OperationalError):
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


def _roll_back(connection: sqlite3.Connection) -> None:
    if connection.in_transaction:
        connection.execute("ROLLBACK")


def _bind(connection: sqlite3.Connection, gallery_id: int, fingerprint: str) -> None:
    name, bound = connection.execute(
        "SELECT name, embedding_fingerprint FROM galleries WHERE gallery_id = ?", (gallery_id,)
    ).fetchone()
    if bound == fingerprint:
        return
    if connection.execute(
        "SELECT 1 FROM crops WHERE gallery_id = ? LIMIT 1", (gallery_id,)
    ).fetchone():
        raise NeedsReindex(name, bound, fingerprint)
    connection.execute(
        "UPDATE galleries SET embedding_fingerprint = ? WHERE gallery_id = ?",
        (fingerprint, gallery_id),
    )


def _store(
    connection: sqlite3.Connection, gallery_id: int, crop: NewCrop
) -> tuple[LandedCrop, IndexedCrop | None]:
    said = {
        "captured_at": crop.captured_at.isoformat() if crop.captured_at else None,
        "external_id": crop.external_id,
        "metadata": json.dumps(crop.metadata) if crop.metadata is not None else None,
    }
    same_bytes = connection.execute(
        f"SELECT crop_id, identity, camera, {', '.join(said)} FROM crops "
        "WHERE gallery_id = ? AND sha256 = ? ORDER BY row_id",
        (gallery_id, crop.sha256),
    ).fetchall()
    for crop_id, identity, camera, *known in same_bytes:
        if (identity, camera) == (crop.identity, crop.camera):
            warnings = tuple(
                f"the crop is enrolled already and keeps its {name}; delete it first to change that"
                for name, old in zip(said, known, strict=True)
                if said[name] not in (None, old)
            )
            return LandedCrop(crop_id, identity, camera, duplicate=True, warnings=warnings), None
    crop_id = _new_crop_id()
    inserted = connection.execute(
        "INSERT INTO crops (gallery_id, crop_id, sha256, identity, camera, captured_at, "
        "external_id, metadata, content_type, created_at, vector) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            gallery_id,
            crop_id,
            crop.sha256,
            crop.identity,
            crop.camera,
            *said.values(),
            crop.content_type,
            _now(),
            crop.vector.astype("<f4").tobytes(),
        ),
    )
    row_id = inserted.lastrowid or 0
    connection.execute("INSERT INTO pictures (row_id, content) VALUES (?, ?)", (row_id, crop.image))
    warnings = tuple(
        f"the same image is already enrolled as crop {other} under identity {identity or 'unknown'}"
        f" and camera {camera or 'unknown'}"
        for other, identity, camera, *_ in same_bytes[:NAMED_IN_WARNINGS]
    )
    return (
        LandedCrop(crop_id, crop.identity, crop.camera, duplicate=False, warnings=warnings),
        IndexedCrop(
            CropLabel(row_id, crop_id, crop.identity, crop.camera, crop.captured_at), crop.vector
        ),
    )


def _version(connection: sqlite3.Connection, gallery_id: int, raised: bool) -> int:
    row = connection.execute(
        "UPDATE galleries SET version = version + ? WHERE gallery_id = ? RETURNING version",
        (int(raised), gallery_id),
    ).fetchone()
    return int(row[0])


def _new_crop_id() -> str:
    """48 bits of milliseconds, then 80 random ones: unguessable, and roughly in order of time."""
    return f"{time.time_ns() // 1_000_000:012x}{secrets.token_hex(10)}"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


def _gallery(row: Sequence[Any]) -> GalleryRecord:
    columns = [*row[:-1], datetime.fromisoformat(row[-1])]
    return GalleryRecord(*columns)


def _stored(row: Sequence[Any]) -> StoredCrop:
    named = dict(zip(CROP_COLUMNS.split(", "), row, strict=True))
    named["captured_at"] = _time(named["captured_at"])
    named["created_at"] = _time(named["created_at"])
    named["metadata"] = json.loads(named["metadata"]) if named["metadata"] else None
    return StoredCrop(**named)
