"""Galleries in SQLite."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from service.gallery.records import GalleryRecord, GallerySettings, SettingsChanges
from service.gallery.sqlite.database import Database
from service.gallery.stored_values import now
from service.problems import GalleryConflict, NeedsReindex, UnknownGallery

QUERY = """
SELECT gallery_id, name, embedding_fingerprint, staged_fingerprint, version,
    (SELECT count(*) FROM crops WHERE crops.gallery_id = galleries.gallery_id),
    (SELECT count(DISTINCT identity) FROM crops WHERE crops.gallery_id = galleries.gallery_id),
    (SELECT coalesce(sum(image_bytes), 0) FROM crops
        WHERE crops.gallery_id = galleries.gallery_id),
    created_at, retention_days, calibration, retention_from
FROM galleries
"""


class SqliteGalleries:
    """Implements `GalleryRecords`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def all(self) -> list[GalleryRecord]:
        """Every gallery, by name."""
        rows = self._database.connection.execute(f"{QUERY} ORDER BY name")
        return [_gallery(row) for row in rows]

    def get(self, gallery_id: int) -> GalleryRecord | None:
        """One gallery, counted now; None where it was deleted."""
        row = self._database.connection.execute(
            f"{QUERY} WHERE gallery_id = ?", (gallery_id,)
        ).fetchone()
        return _gallery(row) if row else None

    def create(
        self, name: str, embedding_fingerprint: str, settings: GallerySettings
    ) -> GalleryRecord:
        """Creates an empty gallery; raises `GalleryConflict` where the name is taken."""
        with self._database.transaction() as connection:
            try:
                connection.execute(
                    "INSERT INTO galleries (name, embedding_fingerprint, created_at, "
                    "retention_days, calibration, retention_from) VALUES (?, ?, ?, ?, ?, ?)",
                    (
                        name,
                        embedding_fingerprint,
                        now(),
                        settings.retention_days,
                        settings.calibration,
                        settings.retention_from,
                    ),
                )
            except sqlite3.IntegrityError as error:
                raise GalleryConflict(
                    f"there is a gallery {name!r} already; enrol into it or choose another name"
                ) from error
            row = connection.execute(f"{QUERY} WHERE name = ?", (name,)).fetchone()
        return _gallery(row)

    def change(self, gallery_id: int, changes: SettingsChanges) -> GallerySettings:
        """Changes the given settings in one transaction, and answers all of them."""
        # Of one column at least, so that the statement answers when nothing is to be changed.
        columns = "".join(f", {name} = :{name}" for name in changes)
        with self._database.transaction() as connection:
            row = connection.execute(
                f"UPDATE galleries SET name = name{columns} WHERE gallery_id = :gallery "
                "RETURNING retention_days, calibration, retention_from",
                {"gallery": gallery_id, **changes},
            ).fetchone()
            if row is None:
                raise UnknownGallery(str(gallery_id))
        return GallerySettings(*row)

    def delete(self, gallery_id: int) -> None:
        """Removes a gallery and all that belongs to it."""
        with self._database.transaction() as connection:
            note_strays(connection, gallery_id)
            connection.execute("DELETE FROM galleries WHERE gallery_id = ?", (gallery_id,))
        self._database.empty_log()


def bind(connection: sqlite3.Connection, gallery_id: int, fingerprint: str) -> None:
    """Binds an empty gallery to an embedder; raises `NeedsReindex` for another one's."""
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


def require_gallery(connection: sqlite3.Connection, gallery_id: int) -> None:
    """Raises `UnknownGallery`, by its number, where a gallery was deleted."""
    if not connection.execute(
        "SELECT 1 FROM galleries WHERE gallery_id = ?", (gallery_id,)
    ).fetchone():
        raise UnknownGallery(str(gallery_id))


def gallery_version(connection: sqlite3.Connection, gallery_id: int, raised: bool) -> int:
    """A gallery's version, after raising it where the transaction changes its crops."""
    row = connection.execute(
        "UPDATE galleries SET version = version + ? WHERE gallery_id = ? RETURNING version",
        (int(raised), gallery_id),
    ).fetchone()
    return int(row[0])


def note_strays(
    connection: sqlite3.Connection, gallery_id: int, narrowed: str = "", *values: object
) -> None:
    """Notes the pictures elsewhere of crops that this transaction is about to delete.

    Args:
        connection: with a transaction open.
        gallery_id: whose crops.
        narrowed: which of them, as SQL that begins with AND; all by default.
        values: of its parameters.
    """
    connection.execute(
        "INSERT OR REPLACE INTO stray_pictures SELECT crop_id, gallery_id, ? FROM crops "
        f"WHERE gallery_id = ? {narrowed} AND content_type != '' "
        "AND NOT EXISTS (SELECT 1 FROM pictures WHERE pictures.row_id = crops.row_id)",
        (now(), gallery_id, *values),
    )


def searched_side(connection: sqlite3.Connection, gallery_id: int) -> str:
    """The table that holds the vectors that are searched."""
    row = connection.execute(
        "SELECT side FROM galleries WHERE gallery_id = ?", (gallery_id,)
    ).fetchone()
    return f"vectors_{row[0]}" if row else "vectors_a"


def _gallery(row: Sequence[Any]) -> GalleryRecord:
    gallery_id, name, embedder, staged, version, crops, identities, image_bytes, *rest = row
    created_at, *settings = rest
    return GalleryRecord(
        gallery_id=gallery_id,
        name=name,
        embedding_fingerprint=embedder,
        staged_fingerprint=staged,
        version=version,
        crops=crops,
        identities=identities,
        image_bytes=image_bytes,
        created_at=datetime.fromisoformat(created_at),
        settings=GallerySettings(*settings),
    )
