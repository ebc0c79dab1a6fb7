"""Another embedder's vectors beside those that are searched, in SQLite."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from service.failpoints import Failpoint, passed
from service.gallery.records import IndexedCrop, StoredCrop
from service.gallery.sqlite.calibrations import drop_calibrations
from service.gallery.sqlite.checked_reading import indexed_crops
from service.gallery.sqlite.checksums import keep_vector_checksums
from service.gallery.sqlite.database import Database
from service.gallery.sqlite.galleries import gallery_version, searched_side
from service.gallery.sqlite.reading import COLUMNS, stored_crop
from service.gallery.stored_values import vector_bytes

WITHOUT = (
    "FROM crops WHERE gallery_id = ? AND row_id > ? "
    "AND NOT EXISTS (SELECT 1 FROM {side} WHERE {side}.row_id = crops.row_id)"
)


class SqliteStagedVectors:
    """Implements `StagedVectors`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def begin(self, gallery_id: int, embedding_fingerprint: str) -> None:
        """Prepares for an embedder; what was prepared for another one is dropped."""
        with self._database.transaction() as connection:
            staged = connection.execute(
                "SELECT staged_fingerprint FROM galleries WHERE gallery_id = ?", (gallery_id,)
            ).fetchone()
            if staged and staged[0] != embedding_fingerprint:
                _clear(connection, gallery_id)
            connection.execute(
                "UPDATE galleries SET staged_fingerprint = ? WHERE gallery_id = ?",
                (embedding_fingerprint, gallery_id),
            )

    def missing(self, gallery_id: int, after: int, limit: int) -> list[StoredCrop]:
        """Up to `limit` crops that have no vector yet, with a `row_id` above `after`."""
        connection = self._database.connection
        without = WITHOUT.format(side=_other_side(connection, gallery_id))
        rows = connection.execute(
            f"SELECT {COLUMNS} {without} ORDER BY row_id LIMIT ?", (gallery_id, after, limit)
        )
        return [stored_crop(row) for row in rows]

    def count(self, gallery_id: int) -> int:
        """How many crops have one."""
        connection = self._database.connection
        row = connection.execute(
            f"SELECT count(*) FROM crops JOIN {_other_side(connection, gallery_id)} USING (row_id) "
            "WHERE gallery_id = ?",
            (gallery_id,),
        ).fetchone()
        return int(row[0])

    def add(self, gallery_id: int, vectors: Sequence[tuple[int, NDArray[np.float32]]]) -> None:
        """Adds vectors `(d,)` by `row_id`; those of crops that are gone are left out."""
        with self._database.transaction() as connection:
            connection.executemany(
                f"INSERT OR REPLACE INTO {_other_side(connection, gallery_id)} "
                "SELECT row_id, ? FROM crops WHERE row_id = ? AND gallery_id = ?",
                [(vector_bytes(vector), row_id, gallery_id) for row_id, vector in vectors],
            )
            keep_vector_checksums(
                connection, _other_side(connection, gallery_id), [row_id for row_id, _ in vectors]
            )

    def vectors(self, gallery_id: int) -> Iterator[IndexedCrop]:
        """Every crop that has one, with it, by `row_id`."""
        connection = self._database.connection
        return indexed_crops(connection, gallery_id, _other_side(connection, gallery_id))

    def switch(self, gallery_id: int) -> int | None:
        """Makes them the gallery's own in one step; None, and no change, where any is missing."""
        with self._database.transaction() as connection:
            other = _other_side(connection, gallery_id)
            without = WITHOUT.format(side=other)
            missing = connection.execute(f"SELECT 1 {without} LIMIT 1", (gallery_id, 0)).fetchone()
            staged = connection.execute(
                "SELECT staged_fingerprint FROM galleries WHERE gallery_id = ?", (gallery_id,)
            ).fetchone()
            if missing or not staged or staged[0] is None:
                return None
            # What the old embedder's scores taught is nothing to the new one's.
            connection.execute(
                "UPDATE galleries SET side = ?, embedding_fingerprint = staged_fingerprint, "
                "staged_fingerprint = NULL WHERE gallery_id = ?",
                (other.removeprefix("vectors_"), gallery_id),
            )
            drop_calibrations(connection, gallery_id)
            version = gallery_version(connection, gallery_id, raised=True)
        passed(Failpoint.REINDEX__SWITCHED)
        # By now the other side is the old one.
        with self._database.transaction() as connection:
            _clear(connection, gallery_id)
        return version

    def drop(self, gallery_id: int) -> None:
        """Removes what was prepared."""
        with self._database.transaction() as connection:
            _clear(connection, gallery_id)
            connection.execute(
                "UPDATE galleries SET staged_fingerprint = NULL WHERE gallery_id = ?", (gallery_id,)
            )


def _other_side(connection: sqlite3.Connection, gallery_id: int) -> str:
    return "vectors_b" if searched_side(connection, gallery_id) == "vectors_a" else "vectors_a"


def _clear(connection: sqlite3.Connection, gallery_id: int) -> None:
    connection.execute(
        f"DELETE FROM {_other_side(connection, gallery_id)} "
        "WHERE row_id IN (SELECT row_id FROM crops WHERE gallery_id = ?)",
        (gallery_id,),
    )
