"""Calibrations of galleries, and the searches that they are fitted to."""

from __future__ import annotations

from collections.abc import Sequence

from service.record.database import RecordPart, transactional
from service.record.galleries import note_calibrated, read_entry
from service.record.transaction import Transaction, upsert
from service.record.values import PublishedCalibration

# Number of searches that are kept of each kind of score.
KEPT_SEARCHES = 256
OF_SCORE_KIND = "WHERE gallery_id = ? AND score_kind = ?"
COUNT_SEARCHES = upsert(
    "calibrations",
    ("gallery_id", "score_kind", "version", "searches"),
    "VALUES (?, ?, 0, ?)",
    "searches = excluded.searches",
)


class StoredCalibrations(RecordPart):
    """Calibration searches and published calibrations; deleted together with their gallery.

    Writing them does not change the gallery's version. A reindex or restore drops both.
    """

    @transactional
    def add_searches(
        self,
        transaction: Transaction,
        gallery_id: int,
        score_kind: str,
        rows: Sequence[tuple[str, bytes]],
    ) -> None:
        """Add searches of a gallery that is calibrated; only the newest `KEPT_SEARCHES` are kept.

        Args:
            rows: name and content of each search; it replaces an older one of the same name.
        """
        entry = read_entry(transaction, gallery_id)
        if entry is None or entry.settings.calibration != "on":
            return
        first = self.counted(gallery_id, score_kind)
        # A later search replaces an earlier one of the same name.
        searches = {
            name: {
                "gallery_id": gallery_id,
                "score_kind": score_kind,
                "number": number,
                "name": name,
                "body": body,
            }
            for number, (name, body) in enumerate(rows, first)
        }
        named = transaction.dialect.among("name")
        transaction.change(
            f"DELETE FROM calibration_searches {OF_SCORE_KIND} AND {named}",
            (gallery_id, score_kind, list(searches)),
        )
        transaction.insert("calibration_searches", *searches.values())
        transaction.change(
            f"DELETE FROM calibration_searches {OF_SCORE_KIND} AND number < "
            f"(SELECT min(number) FROM (SELECT number FROM calibration_searches {OF_SCORE_KIND} "
            "ORDER BY number DESC LIMIT ?) AS newest)",
            (gallery_id, score_kind, gallery_id, score_kind, KEPT_SEARCHES),
        )
        transaction.change(
            COUNT_SEARCHES,
            (gallery_id, score_kind, first + len(rows)),
        )

    def searches(self, gallery_id: int, score_kind: str) -> list[bytes]:
        clauses = f"{OF_SCORE_KIND} ORDER BY number"
        rows = self._reader.rows("calibration_searches", clauses, (gallery_id, score_kind))
        return [row["body"] for row in rows]

    def counted(self, gallery_id: int, score_kind: str) -> int:
        statement = f"SELECT searches FROM calibrations {OF_SCORE_KIND}"
        return self._reader.value(statement, (gallery_id, score_kind)) or 0

    def published(self, gallery_id: int) -> dict[str, PublishedCalibration]:
        clauses = "WHERE gallery_id = ? AND version > 0"
        rows = self._reader.rows("calibrations", clauses, (gallery_id,))
        return {
            row["score_kind"]: PublishedCalibration(row["version"], row["body"]) for row in rows
        }

    @transactional
    def publish(
        self,
        transaction: Transaction,
        gallery_id: int,
        score_kind: str,
        body: str,
        after_version: int,
        counted: int = 0,
        generation: int | None = None,
    ) -> bool:
        """Publish a calibration as the next version.

        Args:
            after_version: version of the currently published one; 0 for none.
            counted: number of searches counted when it was fitted.
            generation: generation of the vectors that it was fitted to; None for any.

        Returns:
            False if another calibration was published, the searches or vectors were dropped since
            the fit, or calibration was frozen or switched off for the gallery.
        """
        entry = read_entry(transaction, gallery_id)
        if entry is None or entry.settings.calibration != "on":
            return False
        if generation not in (None, entry.generation):
            return False
        row = transaction.row("calibrations", OF_SCORE_KIND, (gallery_id, score_kind))
        searches = row["searches"] if row else 0
        version = row["version"] if row else 0
        if version != after_version or searches < counted:
            return False
        values = {
            "gallery_id": gallery_id,
            "score_kind": score_kind,
            "version": version + 1,
            "body": body,
            "searches": searches,
        }
        transaction.insert("calibrations", values, instead=True)
        note_calibrated(transaction, gallery_id)
        return True
