"""The state of a gallery's index outside this program: which collection, up to where, by whom.

The row is the watermark. A search reads it first; one commit leads it to another collection.
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
    """How far a gallery's index outside is, and which process writes it.

    Attributes:
        collection: that is searched; empty for none.
        at, side, embedder: of the vectors in it, as in `GalleryRecord`.
        sequence, token: of the gallery's last change that is in it.
        version: of the gallery that it shows.
        timestamp: of the index' server, after the last write.
        building: a collection that is being filled; empty for none.
        builds: how many were begun; each has a name of its own.
        wanted: a rebuild was asked for, and has not begun.
        sweep: a comparison with the record was asked for, and has not begun.
        lacks_rows: it has fewer rows than the record, and is not searched before that is mended.
        worker: the process that writes it, until `lease_until_ms` on the record's clock; empty
            after one that ended in order.
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
    """The states of all galleries' indexes; a gallery's deletion removes its own."""

    def state(self, gallery_id: int) -> IndexState | None:
        return _read(self._reader, gallery_id)

    @transactional
    def claim(
        self, transaction: Transaction, gallery_id: int, worker: str, lease_seconds: float
    ) -> IndexState | None:
        """Take a gallery's index where it is free, or renew its lease.

        Returns:
            The state; None where another process has it, or the gallery was deleted.
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
        """Change the state, as the watermark; a collection that another one replaces is unneeded.

        Returns:
            The state; None where it is not as before: another process has the index, the gallery
            was deleted, or the record is an older copy.
        """
        now = _read(transaction, before.gallery_id)
        if now is None or _place(now) != _place(before):
            return None
        state = replace(now, **changes)
        kept = (state.collection, state.building)
        _note_unneeded(transaction, {now.collection, now.building}.difference(kept))
        return _put(transaction, state)

    @transactional
    def ask_rebuild(self, transaction: Transaction, gallery_id: int) -> None:
        """Ask for a new collection from the record; raises `UnknownGallery`."""
        require_entry(transaction, gallery_id)
        state = _read(transaction, gallery_id) or IndexState(gallery_id)
        _put(transaction, replace(state, wanted=True))

    @transactional
    def ask_sweep(
        self, transaction: Transaction, gallery_id: int, lacks_rows: bool = False
    ) -> None:
        """Ask the process that writes a collection to compare it with the record.

        Args:
            lacks_rows: no search is answered from it before that.
        """
        state = _read(transaction, gallery_id)
        if state is not None:
            lacks_rows = lacks_rows or state.lacks_rows
            _put(transaction, replace(state, sweep=True, lacks_rows=lacks_rows))

    @transactional
    def note_unknown(self, transaction: Transaction, collections: Iterable[str]) -> list[str]:
        """Note those collections as unneeded that no gallery has; return those not yet noted."""
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
