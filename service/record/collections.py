"""The state of each gallery's external index: its collection, progress and writer.

The row is the watermark: a search reads it first, and one commit redirects it to another
collection.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pydantic.dataclasses import dataclass as stored_dataclass

from service.ops.data_directory import is_alive
from service.record.database import RecordPart, transactional
from service.record.galleries import read_entry, require_entry
from service.record.schema import COLLECTIONS
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
        worker: the process that writes it until it ends; empty before the first.
        lease_until_ms: not used any more; 0.
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

    def is_written(self, state: IndexState) -> bool:
        """Return whether the process that writes a collection is alive."""
        return bool(state.worker) and is_alive(self._database.folder, state.worker)

    def named(self) -> set[str]:
        """Return the names of the collections that are searched or being filled."""
        states = self._reader.rows(COLLECTIONS)
        return {row["collection"] for row in states} | {row["building"] for row in states}

    @transactional
    def advance(
        self, transaction: Transaction, before: IndexState, /, **changes: Any
    ) -> IndexState | None:
        """Change the state, which moves the watermark, or make another process the writer.

        Returns:
            The new state, or None if it has changed since: another process took over the index, the
            gallery was deleted, or the record was replaced by an older copy.
        """
        gallery_id = before.gallery_id
        current = _read(transaction, gallery_id) or IndexState(gallery_id)
        if read_entry(transaction, gallery_id) is None or _place(current) != _place(before):
            return None
        return _put(transaction, replace(current, **changes))

    @transactional
    def ask(self, transaction: Transaction, gallery_id: int, **tasks: bool) -> None:
        """Request work from the process that writes a collection; raise `UnknownGallery`.

        Args:
            tasks: the fields `wanted`, `sweep` and `lacks_rows` to set.
        """
        require_entry(transaction, gallery_id)
        state = _read(transaction, gallery_id) or IndexState(gallery_id)
        _put(transaction, replace(state, **tasks))


def _place(state: IndexState) -> tuple[str | int, ...]:
    return state.worker, state.sequence, state.builds


def _read(reader: Reader, gallery_id: int) -> IndexState | None:
    row = reader.row(COLLECTIONS, "WHERE gallery_id = ?", (gallery_id,))
    return IndexState(**{name: row[name] for name in COLLECTIONS.columns}) if row else None


def _put(transaction: Transaction, state: IndexState) -> IndexState:
    row = {name: getattr(state, name) for name in COLLECTIONS.columns}
    transaction.insert(COLLECTIONS, row, instead=True)
    return state
