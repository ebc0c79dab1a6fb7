"""The state of a gallery's index outside this program: which collection, up to where, by whom.

The entry is the watermark. A search reads it first; one commit leads it to another collection.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pydantic import TypeAdapter
from pydantic.dataclasses import dataclass as stored_dataclass
from pydantic_core import from_json

from service.record.engine import Reader, RecordPart, Transaction, transactional
from service.record.entries import require_entry
from service.record.keys import key

UNNEEDED = "unneeded collection"


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
        """Whether a collection is being filled, or is still to be."""
        return self.wanted or bool(self.building)


class RemoteIndexes(RecordPart):
    """The states of all galleries' indexes; a gallery's deletion removes its own."""

    def state(self, gallery_id: int) -> IndexState | None:
        """One gallery's; None where no process has begun."""
        return _read(self._reader, gallery_id)

    @transactional
    def claim(
        self, transaction: Transaction, gallery_id: int, worker: str, lease_seconds: float
    ) -> IndexState | None:
        """Takes a gallery's index where it is free, or renews its lease.

        Returns:
            The state; None where another process has it, or the gallery was deleted.
        """
        now_ms = self._engine.now_ms()
        found = _read(transaction, gallery_id)
        if found and found.worker != worker and found.lease_until_ms > now_ms:
            return None
        # By `json`, so that one that is deleted at this moment gets no state any more.
        if found is None and transaction.json(key("gallery", gallery_id)) is None:
            return None
        until_ms = now_ms + int(lease_seconds * 1000)
        state = replace(found or IndexState(gallery_id), worker=worker, lease_until_ms=until_ms)
        return _put(transaction, state)

    @transactional
    def advance(
        self, transaction: Transaction, before: IndexState, /, **changes: Any
    ) -> IndexState | None:
        """Changes the state, as the watermark; a collection that another one replaces is unneeded.

        Returns:
            The state; None where it is not as before: another process has the index, the gallery
            was deleted, or the record is an older copy.
        """
        found = _read(transaction, before.gallery_id)
        if found is None or _place(found) != _place(before):
            return None
        state = replace(found, **changes)
        kept = (state.collection, state.building)
        note_collections(transaction, {found.collection, found.building}.difference(kept))
        return _put(transaction, state)

    @transactional
    def ask_rebuild(self, transaction: Transaction, gallery_id: int) -> None:
        """Asks for a new collection from the record; raises `UnknownGallery`."""
        require_entry(transaction, gallery_id)
        found = _read(transaction, gallery_id) or IndexState(gallery_id)
        _put(transaction, replace(found, wanted=True))

    def unneeded(self, seconds: float) -> list[str]:
        """Collections that have been unneeded for so long."""
        until_ms = self._engine.now_ms() - int(seconds * 1000)
        noted = self._reader.named(key(UNNEEDED))
        return [name for name, body in noted if from_json(body) <= until_ms]

    @transactional
    def forget_unneeded(self, transaction: Transaction, collection: str) -> None:
        """Notes that a collection is dropped."""
        transaction.delete(key(UNNEEDED, collection))


def note_collections(transaction: Transaction, collections: set[str]) -> None:
    """Notes collections that nothing shows any more."""
    for name in filter(None, collections):
        transaction.put_json(key(UNNEEDED, name), transaction.engine.now_ms())


def drop_state(transaction: Transaction, gallery_id: int) -> None:
    """Removes the state of a gallery that is deleted; its collections are unneeded then."""
    found = _read(transaction, gallery_id)
    if found:
        note_collections(transaction, {found.collection, found.building})
        transaction.delete(key("remote index", gallery_id))


def _place(state: IndexState) -> tuple[str | int, ...]:
    return state.worker, state.sequence, state.builds


def _read(reader: Reader, gallery_id: int) -> IndexState | None:
    found = reader.json(key("remote index", gallery_id))
    return None if found is None else STATE.validate_python(found)


def _put(transaction: Transaction, state: IndexState) -> IndexState:
    transaction.put_json(key("remote index", state.gallery_id), state)
    return state


STATE = TypeAdapter(IndexState)
