"""Galleries in the record."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime

from service.errors import GalleryConflict
from service.record.encoding import below, key
from service.record.engine import Engine, Reader, Scan, Transaction, as_data, transact
from service.record.gallery_entries import (
    Entry,
    entry_key,
    put_entry,
    read_entry,
    require_entry,
)
from service.record.garbage import collect_garbage, discard
from service.record.records import GalleryRecord, GallerySettings, SettingsChanges
from service.record.stored_values import now

NEXT_GALLERY = key("next gallery")
NAMES = key("gallery name")


class Galleries:
    """The galleries themselves; their counts are kept with them."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def all(self) -> list[GalleryRecord]:
        """Every gallery, by name."""
        reader = Reader(self._engine)
        found = reader.scan(Scan(*below(key("gallery"))), Scan(*below(NAMES)))
        galleries, names = ([as_data(body) for _, body in one] for one in found)
        if sorted(gallery["gallery_id"] for gallery in galleries) != sorted(names):
            raise self._engine.damage(f"{len(galleries)} galleries have {len(names)} names")
        records = [_record(Entry(**gallery)) for gallery in galleries]
        return sorted(records, key=lambda record: record.name)

    def get(self, gallery_id: int) -> GalleryRecord | None:
        """One gallery; None where it was deleted."""
        entry = read_entry(Reader(self._engine), gallery_id)
        return _record(entry) if entry else None

    def create(
        self, name: str, embedding_fingerprint: str, settings: GallerySettings
    ) -> GalleryRecord:
        """Creates an empty gallery; raises `GalleryConflict` where the name is taken."""

        def rule(transaction: Transaction) -> GalleryRecord:
            if transaction.json(name_key(name)) is not None:
                raise GalleryConflict(
                    f"there is a gallery {name!r} already; enroll into it or choose another name"
                )
            number = (transaction.json(NEXT_GALLERY) or 0) + 1
            entry = Entry(number, name, embedding_fingerprint, now(), asdict(settings))
            transaction.put_json(NEXT_GALLERY, number)
            transaction.put_json(name_key(name), number)
            put_entry(transaction, entry)
            transaction.note("gallery_created", number)
            return _record(entry)

        return transact(self._engine, rule)

    def change(self, gallery_id: int, changes: SettingsChanges) -> GallerySettings:
        """Changes the given settings at once, and answers all of them.

        Raises:
            UnknownGallery: the gallery was deleted.
        """

        def rule(transaction: Transaction) -> GallerySettings:
            entry = require_entry(transaction, gallery_id)
            if changes:
                entry.settings.update(changes)
                put_entry(transaction, entry)
                transaction.note("gallery_changed", gallery_id, entry.version)
            return GallerySettings(**entry.settings)

        return transact(self._engine, rule)

    def delete(self, gallery_id: int) -> int:
        """Removes a gallery and all that belongs to it; answers how many crops that were.

        Raises:
            UnknownGallery: the gallery was deleted before.
        """

        def rule(transaction: Transaction) -> int:
            entry = require_entry(transaction, gallery_id)
            transaction.delete(entry_key(gallery_id), name_key(entry.name))
            transaction.commit.removes = True
            discard(transaction, "generation", gallery_id, entry.at, entry.sides)
            discard(transaction, "gallery", gallery_id)
            transaction.note("gallery_deleted", gallery_id, entry.version)
            return entry.crops

        crops = transact(self._engine, rule)
        collect_garbage(self._engine)
        return crops


def name_key(name: str) -> bytes:
    """The key of a gallery's number."""
    return NAMES + key(name)


def _record(entry: Entry) -> GalleryRecord:
    return GalleryRecord(
        gallery_id=entry.gallery_id,
        name=entry.name,
        embedding_fingerprint=entry.embedding_fingerprint,
        staged_fingerprint=entry.staged_fingerprint,
        version=entry.version,
        crops=entry.crops,
        identities=entry.identities,
        image_bytes=entry.image_bytes,
        created_at=datetime.fromisoformat(entry.created_at),
        settings=GallerySettings(**entry.settings),
    )
