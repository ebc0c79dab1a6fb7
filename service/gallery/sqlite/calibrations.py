"""What galleries learn from their searches, in SQLite."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from model.search_calibration import KEPT_SEARCHES
from service.gallery.records import PublishedCalibration
from service.gallery.sqlite.database import Database


class SqliteCalibrations:
    """Implements `CalibrationRecords`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add_searches(
        self, gallery_id: int, subject: str, rows: Sequence[tuple[str, bytes]]
    ) -> None:
        """Adds searches, of which the newest `KEPT_SEARCHES` are kept for each subject."""
        with self._database.transaction() as connection:
            connection.executemany(
                "INSERT OR REPLACE INTO calibration_searches (gallery_id, subject, key, body) "
                "SELECT gallery_id, ?, ?, ? FROM galleries WHERE gallery_id = ?",
                [(subject, key, body, gallery_id) for key, body in rows],
            )
            connection.execute(
                "DELETE FROM calibration_searches WHERE place IN (SELECT place "
                "FROM calibration_searches WHERE gallery_id = ? AND subject = ? "
                "ORDER BY place DESC LIMIT -1 OFFSET ?)",
                (gallery_id, subject, KEPT_SEARCHES),
            )

    def searches(self, gallery_id: int, subject: str) -> list[bytes]:
        """The rows that are kept, oldest first."""
        rows = self._database.connection.execute(
            "SELECT body FROM calibration_searches WHERE gallery_id = ? AND subject = ? "
            "ORDER BY place",
            (gallery_id, subject),
        )
        return [body for (body,) in rows]

    def published(self, gallery_id: int) -> dict[str, PublishedCalibration]:
        """What every replica answers by, by subject."""
        rows = self._database.connection.execute(
            "SELECT subject, version, body FROM published_calibrations WHERE gallery_id = ?",
            (gallery_id,),
        )
        return {
            subject: PublishedCalibration(version, body.decode(errors="replace"))
            for subject, version, body in rows
        }

    def publish(self, gallery_id: int, subject: str, body: str, after_version: int) -> bool:
        """Publishes a calibration as the next version; False where another one is published."""
        with self._database.transaction() as connection:
            changed = connection.execute(
                "INSERT OR REPLACE INTO published_calibrations "
                "SELECT gallery_id, ?, ?, ? FROM galleries WHERE gallery_id = ? "
                "AND coalesce((SELECT version FROM published_calibrations AS published "
                "WHERE published.gallery_id = galleries.gallery_id AND subject = ?), 0) = ?",
                (subject, after_version + 1, body.encode(), gallery_id, subject, after_version),
            )
        return changed.rowcount > 0

    def drop(self, gallery_id: int) -> None:
        """Removes a gallery's searches and published calibrations."""
        with self._database.transaction() as connection:
            drop_calibrations(connection, gallery_id)


def drop_calibrations(connection: sqlite3.Connection, gallery_id: int) -> None:
    """Removes a gallery's searches and published calibrations in an open transaction."""
    for table in ("calibration_searches", "published_calibrations"):
        connection.execute(f"DELETE FROM {table} WHERE gallery_id = ?", (gallery_id,))
