"""The state of each gallery's external index: its collection, progress and writer.

The row is the watermark: a search reads it first, and one commit redirects it to another
collection.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from pydantic.dataclasses import dataclass as stored_dataclass

from service.record.database import RecordPart, transactional
from service.record.galleries import read_entry, require_entry
from service.record.schema import COLLECTIONS, UNNEEDED_COLLECTIONS, now_ms
from service.record.transaction import Reader, Transaction


@stored_dataclass(frozen=True)
class IndexState:
    """The progress of a gallery's external index, and the process that writes it.

    Attributes:
        collection: name of the searched collection; empty if there is none.
        at, side, embedder: identify the vectors in the collection, as in `GalleryRecord`.
        sequence, token: the gallery's last change contained in the collection.
        version: version of the gallery that the collection shows.
        timestamp: the index server's timestamp after the last write.
        building: name of a collection being filled; empty if there is none.
        builds: number of builds begun; each has its own name.
        wanted: a rebuild is pending.
        sweep: a comparison with the record is pending.
        lacks_rows: the collection has fewer rows than the record and must not be searched until
            this is repaired.
        worker: the process that writes it until `lease_until_ms` on the record's clock; empty after
            an orderly shutdown.
    """

    gallery_id: int
    collection: str = ""
    at: int = -1
    side: int = -1
    embedder: str = ""
    sequence: int = 0
    token: bytes = b""
    version: int = 0
    timestamp: int = 0
    building: str = ""
    builds: int = 0
    wanted: bool = False
    sweep: bool = False
    lacks_rows: bool = False
    worker: str = ""
    lease_until_ms: int = 0

    @property
    def unfinished(self) -> bool:
        return self.wanted or bool(self.building)


class RemoteIndexes(RecordPart):
    """The states of all external indexes; each is deleted together with its gallery."""

    def state(self, gallery_id: int) -> IndexState | None:
        return _read(self._reader, gallery_id)

    @transactional
    def claim(
        self, transaction: Transaction, gallery_id: int, worker: str, lease_seconds: float
    ) -> IndexState | None:
        """Take over a gallery's index if it is free, or renew its lease.

        Returns:
            The state, or None if another process holds the lease or the gallery was deleted.
        """
        state = _read(transaction, gallery_id) or IndexState(gallery_id)
        is_taken = state.worker != worker and state.lease_until_ms > now_ms()
        if is_taken or read_entry(transaction, gallery_id) is None:
            return None
        until_ms = now_ms() + int(lease_seconds * 1000)
        return _put(transaction, replace(state, worker=worker, lease_until_ms=until_ms))

    @transactional
    def advance(
        self, transaction: Transaction, before: IndexState, /, **changes: Any
    ) -> IndexState | None:
        """Change the state, which moves the watermark; replaced collections become unneeded.

        Returns:
            The new state, or None if it has changed since: another process took over the index, the
            gallery was deleted, or the record was replaced by an older copy.
        """
        current = _read(transaction, before.gallery_id)
        if current is None or _place(current) != _place(before):
            return None
        state = replace(current, **changes)
        used = (state.collection, state.building)
        _note_unneeded(transaction, {current.collection, current.building}.difference(used))
        return _put(transaction, state)

    @transactional
    def ask_rebuild(self, transaction: Transaction, gallery_id: int) -> None:
        """Request a new collection, built from the record; raises `UnknownGallery`."""
        require_entry(transaction, gallery_id)
        state = _read(transaction, gallery_id) or IndexState(gallery_id)
        _put(transaction, replace(state, wanted=True))

    @transactional
    def ask_sweep(
        self, transaction: Transaction, gallery_id: int, lacks_rows: bool = False
    ) -> None:
        """Request a comparison of the collection with the record from the process that writes it.

        Args:
            lacks_rows: answer no search from the collection before the comparison.
        """
        state = _read(transaction, gallery_id)
        if state is not None:
            lacks_rows = lacks_rows or state.lacks_rows
            _put(transaction, replace(state, sweep=True, lacks_rows=lacks_rows))

    @transactional
    def note_unknown(self, transaction: Transaction, collections: Iterable[str]) -> list[str]:
        """Mark collections that no gallery uses as unneeded; return those not marked before."""
        states = transaction.rows(COLLECTIONS)
        known = {row["collection"] for row in states} | {row["building"] for row in states}
        known |= {row["name"] for row in transaction.rows(UNNEEDED_COLLECTIONS)}
        unknown = sorted(set(collections) - known)
        _note_unneeded(transaction, unknown)
        return unknown

    def unneeded(self, seconds: float) -> list[str]:
        until_ms = now_ms() - int(seconds * 1000)
        rows = self._reader.rows(UNNEEDED_COLLECTIONS, "WHERE since_ms <= ?", (until_ms,))
        return [row["name"] for row in rows]

    @transactional
    def forget_unneeded(self, transaction: Transaction, collection: str) -> None:
        transaction.change("DELETE FROM unneeded_collections WHERE name = ?", (collection,))


def _note_unneeded(transaction: Transaction, collections: Iterable[str]) -> None:
    since_ms = now_ms()
    rows = [{"name": name, "since_ms": since_ms} for name in collections if name]
    transaction.insert(UNNEEDED_COLLECTIONS, *rows, instead=True)


def _place(state: IndexState) -> tuple[str | int, ...]:
    return state.worker, state.sequence, state.builds


def _read(reader: Reader, gallery_id: int) -> IndexState | None:
    row = reader.row(COLLECTIONS, "WHERE gallery_id = ?", (gallery_id,))
    return IndexState(**{name: row[name] for name in COLLECTIONS.columns}) if row else None


def _put(transaction: Transaction, state: IndexState) -> IndexState:
    row = {name: getattr(state, name) for name in COLLECTIONS.columns}
    transaction.insert(COLLECTIONS, row, instead=True)
    return state
