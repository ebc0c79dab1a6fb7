"""The states of the galleries' collections, as the record has them."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

from pydantic.dataclasses import dataclass as stored_dataclass

from service.record.database import RecordPart, transactional
from service.record.galleries import require_entry
from service.record.transaction import Transaction


@stored_dataclass(frozen=True)
class CollectionState:
    """The progress of a gallery's collection.

    Attributes:
        collection: name of the searched collection; empty if there is none.
        generation, embedder: identify the vectors in the collection, as in `GalleryRecord`.
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
    generation: int = -1
    embedder: str = ""
    version: int = 0
    timestamp: int = 0
    building: str = ""
    builds: int = 0
    wanted: bool = False
    lacks_rows: bool = False

    @property
    def unfinished(self) -> bool:
        return self.wanted or bool(self.building)


class CollectionStates(RecordPart):
    """The states of all collections; each is deleted together with its gallery."""

    def state(self, gallery_id: int) -> CollectionState | None:
        row = self._reader.row("collections", "WHERE gallery_id = ?", (gallery_id,))
        return CollectionState(**row) if row else None

    def named(self) -> set[str]:
        states = self._reader.rows("collections")
        return {row["collection"] for row in states} | {row["building"] for row in states}

    @transactional
    def change(
        self, transaction: Transaction, gallery_id: int, /, **fields: Any
    ) -> CollectionState:
        """Change fields of a state; raise `UnknownGallery` if the gallery was deleted.

        Moving `collection`, `version` and `timestamp` moves the watermark.
        """
        require_entry(transaction, gallery_id)
        state = replace(self.state(gallery_id) or CollectionState(gallery_id), **fields)
        transaction.insert("collections", asdict(state), instead=True, is_private=False)
        return state
