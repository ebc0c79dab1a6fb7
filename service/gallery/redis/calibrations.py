"""What galleries learn from their searches, in Redis."""

from __future__ import annotations

from collections.abc import Sequence

from model.search_calibration import KEPT_SEARCHES
from service.gallery.records import PublishedCalibration
from service.gallery.redis.database import Database


class RedisCalibrations:
    """Implements `CalibrationRecords`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add_searches(
        self, gallery_id: int, subject: str, rows: Sequence[tuple[str, bytes]]
    ) -> None:
        """Adds searches, of which the newest `KEPT_SEARCHES` are kept for each subject."""
        sent = (part for row in rows[-KEPT_SEARCHES:] for part in row)
        self._database.write("add_searches", gallery_id, subject, KEPT_SEARCHES, *sent)

    def searches(self, gallery_id: int, subject: str) -> list[bytes]:
        """The rows that are kept, oldest first."""
        return [row for row in self._database.read("searches", gallery_id, subject) if row]

    def published(self, gallery_id: int) -> dict[str, PublishedCalibration]:
        """What every replica answers by, by subject."""
        kept = self._database.command("HGETALL", f"gmn:g:{gallery_id}:published")
        found = {}
        for subject, text in kept.items():
            version, _, body = text.decode(errors="replace").partition(":")
            found[subject.decode(errors="replace")] = PublishedCalibration(
                int(version) if version.isdecimal() else 0, body
            )
        return found

    def publish(self, gallery_id: int, subject: str, body: str, after_version: int) -> bool:
        """Publishes a calibration as the next version; False where another one is published."""
        answer = self._database.write(
            "publish_calibration", gallery_id, subject, after_version, body
        )
        return "refused" not in answer

    def drop(self, gallery_id: int) -> None:
        """Removes a gallery's searches and published calibrations."""
        self._database.write("drop_calibrations", gallery_id)
