"""Galleries in the record, what computes their features, and what they learn from searches."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

from pydantic_core import from_json

from model.search_calibration import KEPT_SEARCHES
from service.errors import GalleryConflict
from service.ops.data_directory import INDEXES, snapshot_name
from service.record.api_keys import revoke_keys_of
from service.record.engine import (
    Engine,
    Reader,
    RecordPart,
    Scan,
    Transaction,
    transact,
    transactional,
)
from service.record.entries import ENTRY, put_entry, read_entry, require_entry
from service.record.files import note_unneeded
from service.record.garbage import (
    CALIBRATION_KEYS,
    SEARCH_BY_HASH,
    collect_garbage,
    discard,
    sides_outside,
)
from service.record.keys import below, key
from service.record.records import (
    GalleryRecord,
    GallerySettings,
    PublishedCalibration,
    SettingsChanges,
)
from service.record.remote_index import drop_state

NEXT_GALLERY = key("next gallery")
NAMES = key("gallery name")
SECRET = key("group secret")
SECRET_BYTES = 32


class Galleries(RecordPart):
    """The galleries themselves; their counts are kept with them."""

    def all(self) -> list[GalleryRecord]:
        """Every gallery, by name."""
        galleries, names = self._reader.scan(Scan(*below(key("gallery"))), Scan(*below(NAMES)))
        entries = (ENTRY.validate_json(body) for _, body in galleries)
        # One that a copy is filling has none yet.
        records = [one for one in entries if one.name]
        if [one.gallery_id for one in records] != sorted(from_json(body) for _, body in names):
            raise self._engine.damage(f"{len(records)} galleries have {len(names)} names")
        return sorted(records, key=lambda record: record.name)

    def get(self, gallery_id: int) -> GalleryRecord | None:
        """One gallery; None where it was deleted."""
        return read_entry(self._reader, gallery_id)

    @transactional
    def group_secret(self, transaction: Transaction) -> bytes:
        """The key of the record's group codes, made where there is none."""
        text: str | None = transaction.json(SECRET)
        if text is None:
            text = secrets.token_hex(SECRET_BYTES)
            transaction.put_json(SECRET, text)
        return bytes.fromhex(text)

    @transactional
    def create(
        self, transaction: Transaction, name: str, embedder: str, settings: GallerySettings
    ) -> GalleryRecord:
        """Creates an empty gallery; raises `GalleryConflict` where the name is taken."""
        if transaction.json(NAMES + key(name)) is not None:
            raise GalleryConflict(
                f"there is a gallery {name!r} already; enroll into it or choose another name"
            )
        number = (transaction.json(NEXT_GALLERY) or 0) + 1
        entry = GalleryRecord(number, name, embedder, datetime.now(UTC), settings)
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
        crops = transact(self._engine, remove_gallery, gallery_id)
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


def remove_gallery(transaction: Transaction, gallery_id: int) -> int:
    """Takes a gallery out and notes what belongs to it as garbage; answers how many crops."""
    entry = require_entry(transaction, gallery_id)
    transaction.delete(key("gallery", gallery_id), NAMES + key(entry.name))
    transaction.removes = True
    sides = sides_outside(transaction, entry)
    discard(transaction, "generation", gallery_id, entry.at, entry.sides, *sides)
    discard(transaction, "gallery", gallery_id)
    snapshots = transaction.named(key("snapshot", gallery_id))
    names = [snapshot_name(gallery_id, one) for one, _ in snapshots]
    note_unneeded(transaction, [*names, f"{INDEXES}/{gallery_id}"])
    drop_state(transaction, gallery_id)
    revoke_keys_of(transaction, entry.name)
    transaction.note("gallery_deleted", gallery_id, entry.version)
    return entry.crops


def remove_unfinished(engine: Engine) -> None:
    """Removes galleries without a name, which copies were filling that were cut off."""
    for _, body in Reader(engine).below(key("gallery")):
        if not (unfinished := ENTRY.validate_json(body)).name:
            transact(engine, remove_gallery, unfinished.gallery_id)


class StoredCalibrations(RecordPart):
    """What galleries learn from their searches; a gallery's deletion removes its own.

    Writing them leaves the gallery's version as it is. A reindex and a restore drop a gallery's
    searches and published calibrations.
    """

    @transactional
    def add_searches(
        self,
        transaction: Transaction,
        gallery_id: int,
        subject: str,
        rows: Sequence[tuple[str, bytes]],
    ) -> None:
        """Adds searches, of which the newest `KEPT_SEARCHES` are kept for each subject.

        A search of the same name takes the place of an older one.
        """
        if read_entry(transaction, gallery_id) is None:
            return
        counted, prefix = (key(kind, gallery_id, subject) for kind in ("searches", "search"))
        added = _counted(transaction, gallery_id, subject)
        known = transaction.below(prefix)
        kept = {_of_search(body, gallery_id, subject)[0]: own for own, body in known}
        for name, body in rows:
            by_name = key(SEARCH_BY_HASH, gallery_id, subject, name)
            if by_name in kept:
                transaction.delete(kept.pop(by_name))
            kept[by_name] = prefix + key(added)
            transaction.put(kept[by_name], by_name + body)
            added += 1
        for by_name in list(kept)[:-KEPT_SEARCHES]:
            transaction.delete(kept[by_name])
        transaction.put_json(counted, {"next": added, "kept": min(len(kept), KEPT_SEARCHES)})

    def searches(self, gallery_id: int, subject: str) -> list[bytes]:
        """The rows that are kept, oldest first."""
        found = self._reader.every(below(key("search", gallery_id, subject)))
        return [_of_search(body, gallery_id, subject)[1] for _, body in found]

    def counted(self, gallery_id: int, subject: str) -> int:
        """How many searches were added since the last drop, also those that are not kept."""
        return _counted(self._reader, gallery_id, subject)

    def published(self, gallery_id: int) -> dict[str, PublishedCalibration]:
        """What every replica answers by, by subject."""
        found = self._reader.named(key("published", gallery_id))
        return {subject: PublishedCalibration(**from_json(body)) for subject, body in found}

    @transactional
    def publish(
        self,
        transaction: Transaction,
        gallery_id: int,
        subject: str,
        body: str,
        after_version: int,
        counted: int = 0,
        vectors: tuple[int, int] | None = None,
    ) -> bool:
        """Publishes a calibration as the next version.

        Args:
            after_version: of the one that is published, 0 for none.
            counted: how many searches were counted at the fit.
            vectors: the generation and the side of the vectors behind it; None for any.

        Returns:
            False where another one is published, the searches or the vectors were dropped since,
            or the gallery's calibration was frozen or switched off.
        """
        entry = read_entry(transaction, gallery_id)
        own = key("published", gallery_id, subject)
        before = transaction.json(own)
        if entry is None or (before["version"] if before else 0) != after_version:
            return False
        if entry.settings.calibration != "on" or vectors not in (None, (entry.at, entry.side)):
            return False
        if _counted(transaction, gallery_id, subject) < counted:
            return False
        transaction.put_json(own, PublishedCalibration(after_version + 1, body))
        transaction.note("calibration", gallery_id, entry.version)
        return True


def _counted(reader: Reader, gallery_id: int, subject: str) -> int:
    counts = reader.json(key("searches", gallery_id, subject))
    return counts["next"] if counts else 0


def drop_calibrations(transaction: Transaction, gallery_id: int) -> None:
    """Removes a gallery's searches and published calibrations."""
    for kind in CALIBRATION_KEYS:
        found = [own for own, _ in transaction.below(key(kind, gallery_id))]
        transaction.delete(*found)
        # A search that another process adds meanwhile changes a count, and is dropped too.
        for own in found if kind == "searches" else ():
            transaction.json(own)


def _of_search(body: bytes, gallery_id: int, subject: str) -> tuple[bytes, bytes]:
    """The key of a search's hash, and its row."""
    prefix = key(SEARCH_BY_HASH, gallery_id, subject)
    end = body.index(b"\0", len(prefix)) + 1
    return body[:end], body[end:]
