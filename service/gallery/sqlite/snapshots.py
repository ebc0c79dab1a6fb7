"""Which snapshots there are, in SQLite."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from service.gallery.records import Snapshot
from service.gallery.sqlite.database import Database
from service.gallery.sqlite.galleries import require_gallery
from service.gallery.stored_values import as_text

COLUMNS = (
    "snapshot_id, gallery_id, version, embedding_fingerprint, crops, bytes, sha256, created_at"
)


class SqliteSnapshots:
    """Implements `SnapshotRecords`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def all(self, gallery_id: int) -> list[Snapshot]:
        """A gallery's snapshots, oldest first."""
        rows = self._database.connection.execute(
            f"SELECT {COLUMNS} FROM snapshots WHERE gallery_id = ? "
            "ORDER BY created_at, snapshot_id",
            (gallery_id,),
        )
        return [_snapshot(row) for row in rows]

    def keep(self, snapshot: Snapshot) -> None:
        """Keeps a snapshot, or what has changed of it."""
        with self._database.transaction() as connection:
            require_gallery(connection, snapshot.gallery_id)
            connection.execute(
                "INSERT OR REPLACE INTO snapshots VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    snapshot.snapshot_id,
                    snapshot.gallery_id,
                    snapshot.version,
                    snapshot.embedding_fingerprint,
                    snapshot.crops,
                    snapshot.bytes,
                    snapshot.sha256,
                    as_text(snapshot.created_at),
                ),
            )

    def remove(self, gallery_id: int, snapshot_id: str) -> bool:
        """Forgets a snapshot; False where there is no such one."""
        with self._database.transaction() as connection:
            changed = connection.execute(
                "DELETE FROM snapshots WHERE gallery_id = ? AND snapshot_id = ?",
                (gallery_id, snapshot_id),
            )
        return changed.rowcount > 0


def _snapshot(row: Sequence[Any]) -> Snapshot:
    named = dict(zip(COLUMNS.split(", "), row, strict=True))
    named["created_at"] = datetime.fromisoformat(named["created_at"])
    return Snapshot(**named)
