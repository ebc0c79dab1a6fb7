"""The state of each gallery's external index: its collection and progress.

The row is the watermark: a search reads it first, and one commit redirects it to another
collection.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pydantic.dataclasses import dataclass as stored_dataclass

from service.record.database import RecordPart, transactional
from service.record.galleries import require_entry
from service.record.schema import TABLES
from service.record.transaction import Reader, Transaction


@stored_dataclass(frozen=True)
class IndexState:
    """The progress of a gallery's external index.

    Attributes:
        collection: name of the searched collection; empty if there is none.
        at, side, embedder: identify the vectors in the collection, as in `GalleryRecord`.
        sequence, token: the gallery's last change contained in the collection.
        version: version of the gallery that the collection shows.
        timestamp: the index server's timestamp after the last write.
        building: name of a collection being filled; empty if there is none.
        builds: number of builds begun; each has its own name.
        wanted: a rebuild is pending.
        lacks_rows: the collection has fewer rows than the record and must not be searched until
            both were compared.
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
    lacks_rows: bool = False

    @property
    def unfinished(self) -> bool:
        return self.wanted or bool(self.building)


class RemoteIndexes(RecordPart):
    """The states of all external indexes; each is deleted together with its gallery."""

    def state(self, gallery_id: int) -> IndexState | None:
        return _read(self._reader, gallery_id)

    def named(self) -> set[str]:
        states = self._reader.rows("remote_indexes")
        return {row["collection"] for row in states} | {row["building"] for row in states}

    @transactional
    def change(self, transaction: Transaction, gallery_id: int, /, **fields: Any) -> IndexState:
        """Change fields of a state; raise `UnknownGallery` if the gallery was deleted.

        Moving `collection`, `sequence` and `timestamp` moves the watermark.
        """
        require_entry(transaction, gallery_id)
        state = replace(_read(transaction, gallery_id) or IndexState(gallery_id), **fields)
        row = {name: getattr(state, name) for name in TABLES["remote_indexes"].columns}
        transaction.insert("remote_indexes", row, instead=True)
        return state


def _read(reader: Reader, gallery_id: int) -> IndexState | None:
    row = reader.row("remote_indexes", "WHERE gallery_id = ?", (gallery_id,))
    return (
        IndexState(**{name: row[name] for name in TABLES["remote_indexes"].columns})
        if row
        else None
    )
