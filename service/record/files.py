"""Files of the data directory: snapshots, and files that are unneeded until they are removed.

A note is made in the commit that makes a file useless, and before a file is written that no record
names yet. What has neither a note nor a record may be another record's, and is never removed.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import TypeAdapter

from service.ops.data_directory import snapshot_name
from service.record.engine import RecordPart, Transaction, transactional
from service.record.entries import require_entry
from service.record.keys import below, key
from service.record.records import Snapshot

UNNEEDED = key("unneeded file")


class Snapshots(RecordPart):
    """Which snapshots there are; their files lie elsewhere."""

    def all(self, gallery_id: int) -> list[Snapshot]:
        """A gallery's snapshots, oldest first."""
        found = self._reader.every(below(key("snapshot", gallery_id)))
        snapshots = [_SNAPSHOT.validate_json(body) for _, body in found]
        return sorted(snapshots, key=lambda one: (one.created_at, one.snapshot_id))

    @transactional
    def keep(self, transaction: Transaction, snapshot: Snapshot) -> None:
        """Keeps a snapshot, or what has changed of it; raises `UnknownGallery`."""
        require_entry(transaction, snapshot.gallery_id)
        own = key("snapshot", snapshot.gallery_id, snapshot.snapshot_id)
        transaction.put_json(own, snapshot)
        forget_unneeded(transaction, [snapshot_name(snapshot.gallery_id, snapshot.snapshot_id)])

    @transactional
    def remove(self, transaction: Transaction, gallery_id: int, snapshot_id: str) -> bool:
        """Forgets a snapshot, whose file is unneeded then; False where there is no such one."""
        own = key("snapshot", gallery_id, snapshot_id)
        if there := transaction.json(own) is not None:
            transaction.delete(own)
            note_unneeded(transaction, [snapshot_name(gallery_id, snapshot_id)])
        return there


class UnneededFiles(RecordPart):
    """Files that can be removed, by their paths below the data directory."""

    def all(self) -> list[str]:
        """Every one that is noted."""
        return [path for path, _ in self._reader.named(UNNEEDED)]

    @transactional
    def add(self, transaction: Transaction, paths: Sequence[str]) -> None:
        """Notes files that are about to be written: useless until a record names them."""
        note_unneeded(transaction, paths)

    @transactional
    def forget(self, transaction: Transaction, paths: Sequence[str]) -> None:
        """Notes that files are gone."""
        forget_unneeded(transaction, paths)


def note_unneeded(transaction: Transaction, paths: Sequence[str]) -> None:
    """Notes files that nothing names from this commit on."""
    for path in paths:
        transaction.put_json(UNNEEDED + key(path), 1)


def forget_unneeded(transaction: Transaction, paths: Sequence[str]) -> None:
    """Notes that files are gone, or that a record names them from this commit on."""
    transaction.delete(*(UNNEEDED + key(path) for path in paths))


_SNAPSHOT = TypeAdapter(Snapshot)
