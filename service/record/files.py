"""Files beside the record: snapshots, unneeded files, and pictures kept outside.

A file is noted in the commit that makes it useless, or before it is written if no row refers to it
yet. A file with neither a note nor a row may belong to another record and is never removed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

from gmn_client.models import Snapshot
from service.ops.data_directory import snapshot_name
from service.record.database import RecordPart, transactional
from service.record.galleries import require_entry
from service.record.schema import as_micros
from service.record.transaction import AMONG, Transaction, as_json


class Snapshots(RecordPart):
    """Descriptions of snapshots, whose files are stored elsewhere."""

    def all(self, gallery_id: int) -> list[Snapshot]:
        rows = self._reader.rows("snapshots", "WHERE gallery_id = ?", (gallery_id,))
        snapshots = [Snapshot.model_validate_json(row["body"]) for row in rows]
        return sorted(snapshots, key=lambda snapshot: (snapshot.created_at, snapshot.snapshot_id))

    @transactional
    def keep(self, transaction: Transaction, gallery_id: int, snapshot: Snapshot) -> None:
        """Store a snapshot's description, or replace it; raises `UnknownGallery`."""
        require_entry(transaction, gallery_id)
        row = {
            "gallery_id": gallery_id,
            "snapshot_id": snapshot.snapshot_id,
            "body": snapshot.model_dump_json(),
        }
        transaction.insert("snapshots", row, instead=True)
        forget_unneeded(transaction, [snapshot_name(gallery_id, snapshot.snapshot_id)])

    @transactional
    def remove(self, transaction: Transaction, gallery_id: int, snapshot_id: str) -> bool:
        """Forget a snapshot, making its files unneeded; return False if there is none."""
        delete = "DELETE FROM snapshots WHERE gallery_id = ? AND snapshot_id = ?"
        removed = transaction.change(delete, (gallery_id, snapshot_id))
        if removed:
            note_unneeded(transaction, [snapshot_name(gallery_id, snapshot_id)])
        return bool(removed)


class UnneededFiles(RecordPart):
    """Files that can be removed, by path relative to the data directory."""

    def all(self) -> list[str]:
        return [row["path"] for row in self._reader.rows("unneeded_files")]

    @transactional
    def add(self, transaction: Transaction, paths: Sequence[str]) -> None:
        note_unneeded(transaction, paths)

    @transactional
    def forget(self, transaction: Transaction, paths: Sequence[str]) -> None:
        forget_unneeded(transaction, paths)


class StrayFiles(RecordPart):
    """Pictures outside the record whose crop was removed or does not exist yet."""

    @transactional
    def expect(
        self, transaction: Transaction, gallery_id: int, names: Sequence[str], until: datetime
    ) -> None:
        """Note pictures about to be written: strays unless their crops are stored by `until`."""
        note_strays(transaction, gallery_id, names, until)

    def all(self, now: datetime, limit: int) -> list[tuple[int, str]]:
        """Return up to `limit` pictures that may be removed, as (gallery id, name).

        A restore may have brought the crop of a picture back.
        """
        clauses = "WHERE until <= ? ORDER BY gallery_id, name LIMIT ?"
        rows = self._reader.rows("stray_pictures", clauses, (as_micros(now), limit))
        return [(row["gallery_id"], row["name"]) for row in rows]

    @transactional
    def forget(self, transaction: Transaction, gallery_id: int, names: Sequence[str]) -> None:
        forget_strays(transaction, gallery_id, names)


def note_unneeded(transaction: Transaction, paths: Sequence[str]) -> None:
    transaction.insert("unneeded_files", *({"path": path} for path in paths), instead=True)


def forget_unneeded(transaction: Transaction, paths: Sequence[str]) -> None:
    """Note that files were removed, or are referred to by a row of this commit."""
    transaction.change(f"DELETE FROM unneeded_files WHERE path IN {AMONG}", (as_json(paths),))


def note_strays(
    transaction: Transaction, gallery_id: int, names: Iterable[str], moment: datetime
) -> None:
    """Note pictures, named by their crops' ids, that may be removed after a time."""
    until = as_micros(moment)
    rows = [{"gallery_id": gallery_id, "name": name, "until": until} for name in names]
    transaction.insert("stray_pictures", *rows, instead=True)


def forget_strays(transaction: Transaction, gallery_id: int, names: Iterable[str]) -> None:
    delete = f"DELETE FROM stray_pictures WHERE gallery_id = ? AND name IN {AMONG}"
    transaction.change(delete, (gallery_id, as_json(names)))
