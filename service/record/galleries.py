"""Galleries in the record, and what computes the features of their crops."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

from pydantic_core import from_json

from service.errors import GalleryConflict
from service.ops.data_directory import snapshot_name
from service.record.calibrations import drop_calibrations
from service.record.engine import (
    RecordPart,
    Scan,
    Transaction,
    below,
    key,
    last_text,
    transact,
    transactional,
)
from service.record.entries import ENTRY, put_entry, read_entry, require_entry
from service.record.files import note_unneeded
from service.record.garbage import collect_garbage, discard
from service.record.records import GalleryRecord, GallerySettings, SettingsChanges

NEXT_GALLERY = key("next gallery")
NAMES = key("gallery name")


class Galleries(RecordPart):
    """The galleries themselves; their counts are kept with them."""

    def all(self) -> list[GalleryRecord]:
        """Every gallery, by name."""
        galleries, names = self._reader.scan(Scan(*below(key("gallery"))), Scan(*below(NAMES)))
        records = [ENTRY.validate_json(body) for _, body in galleries]
        if [one.gallery_id for one in records] != sorted(from_json(body) for _, body in names):
            raise self._engine.damage(f"{len(records)} galleries have {len(names)} names")
        return sorted(records, key=lambda record: record.name)

    def get(self, gallery_id: int) -> GalleryRecord | None:
        """One gallery; None where it was deleted."""
        return read_entry(self._reader, gallery_id)

    @transactional
    def create(
        self,
        transaction: Transaction,
        name: str,
        embedding_fingerprint: str,
        settings: GallerySettings,
    ) -> GalleryRecord:
        """Creates an empty gallery; raises `GalleryConflict` where the name is taken."""
        if transaction.json(NAMES + key(name)) is not None:
            raise GalleryConflict(
                f"there is a gallery {name!r} already; enroll into it or choose another name"
            )
        number = (transaction.json(NEXT_GALLERY) or 0) + 1
        entry = GalleryRecord(number, name, embedding_fingerprint, datetime.now(UTC), settings)
        transaction.put_json(NEXT_GALLERY, number)
        transaction.put_json(NAMES + key(name), number)
        put_entry(transaction, entry)
        transaction.note("gallery_created", number)
        return entry

    @transactional
    def change(
        self,
        transaction: Transaction,
        gallery_id: int,
        changes: SettingsChanges,
        reset_calibration: bool = False,
    ) -> GallerySettings:
        """Changes the given settings at once, and answers all of them.

        A calibration that is reset or switched off is dropped with the searches behind it.

        Raises:
            UnknownGallery: the gallery was deleted.
        """
        entry = require_entry(transaction, gallery_id)
        if changes:
            entry.settings = replace(entry.settings, **changes)
            put_entry(transaction, entry)
            transaction.note("gallery_changed", gallery_id, entry.version)
        if reset_calibration or changes.get("calibration") == "off":
            drop_calibrations(transaction, gallery_id)
            transaction.note("calibration", gallery_id, entry.version)
        return entry.settings

    def delete(self, gallery_id: int) -> int:
        """Removes a gallery and all that belongs to it; answers how many crops that were.

        Raises:
            UnknownGallery: the gallery was deleted before.
        """
        crops = transact(self._engine, _delete, gallery_id)
        collect_garbage(self._engine)
        return crops


class Runtimes(RecordPart):
    """What computes the features, by the embedder's fingerprint."""

    def get(self, embedder: str) -> str | None:
        """What was kept for an embedder; None where nothing was."""
        choice: str | None = self._reader.json(key("runtime", embedder))
        return choice

    @transactional
    def keep_first(self, transaction: Transaction, embedder: str, choice: str) -> str:
        """Keeps a choice where there is none, and answers the one that is kept."""
        own = key("runtime", embedder)
        before: str | None = transaction.json(own)
        if before is None:
            transaction.put_json(own, choice)
        return before or choice

    @transactional
    def forget(self, transaction: Transaction) -> int:
        """Removes the choices of all embedders, and answers how many there were."""
        found = [own for own, _ in transaction.below(key("runtime"))]
        transaction.delete(*found)
        return len(found)


def _delete(transaction: Transaction, gallery_id: int) -> int:
    entry = require_entry(transaction, gallery_id)
    transaction.delete(key("gallery", gallery_id), NAMES + key(entry.name))
    transaction.removes = True
    discard(transaction, "generation", gallery_id, entry.at, entry.sides)
    discard(transaction, "gallery", gallery_id)
    prefix = key("snapshot", gallery_id)
    snapshots = [last_text(own, prefix) for own, _ in transaction.below(prefix)]
    note_unneeded(transaction, [snapshot_name(gallery_id, one) for one in snapshots])
    transaction.note("gallery_deleted", gallery_id, entry.version)
    return entry.crops
