"""Which snapshots there are, in Redis."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import datetime

from service.gallery.records import Snapshot
from service.gallery.redis.database import Database
from service.gallery.stored_values import as_text


class RedisSnapshots:
    """Implements `SnapshotRecords`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def all(self, gallery_id: int) -> list[Snapshot]:
        """A gallery's snapshots, oldest first."""
        texts = self._database.command("HVALS", f"gmn:g:{gallery_id}:snapshots")
        found = [_snapshot(text) for text in texts]
        return sorted(found, key=lambda snapshot: (snapshot.created_at, snapshot.snapshot_id))

    def keep(self, snapshot: Snapshot) -> None:
        """Keeps a snapshot, or what has changed of it."""
        kept = asdict(snapshot) | {"created_at": as_text(snapshot.created_at)}
        self._database.write(
            "snapshots", snapshot.gallery_id, snapshot.snapshot_id, json.dumps(kept)
        )

    def remove(self, gallery_id: int, snapshot_id: str) -> bool:
        """Forgets a snapshot; False where there is no such one."""
        return bool(self._database.write("snapshots", gallery_id, snapshot_id, "").get("changed"))


def _snapshot(text: bytes) -> Snapshot:
    kept = json.loads(text)
    kept["created_at"] = datetime.fromisoformat(kept["created_at"])
    return Snapshot(**kept)
