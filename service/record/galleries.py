"""Galleries: names, settings and counts, the runtime of each embedder, and external indexes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from pydantic import ValidationError
from pydantic_core import from_json, to_json

from service.errors import GalleryConflict, UnknownGallery
from service.ops.data_directory import EXPORTS, IMPORTS
from service.record.database import RecordPart, transactional
from service.record.keys import delete_keys
from service.record.schema import TABLES, now_micros
from service.record.transaction import Reader, Transaction, Values, upsert
from service.record.values import GalleryRecord, GallerySettings
from service.record.vectors import vectors_name

CROPS_AT_ONCE = 1000
ROWS_AT_ONCE = 1000
TABLES_OF_GALLERIES = [table for table in TABLES.values() if table.is_of_galleries]
# Name of the value with the owners of collections in Milvus.
INDEX_OWNERS = "index_owners"
# Columns of a gallery under the names that answers have for them.
RENAMED = ", embedder AS embedding_fingerprint, people AS identities"
PUT_STRAYS = upsert(
    "stray_pictures",
    ("gallery_id", "name", "until"),
    "SELECT gallery_id, crop_id, :now FROM crops "
    "WHERE content_type IS NOT NULL AND inside = 0 AND {of_slots}",
)
# A statement that changes nothing returns no row.
KEEP_RUNTIME = upsert(
    "runtimes", ("embedder", "choice"), "VALUES (?, ?)", "choice = runtimes.choice"
)
# Counts of a gallery without crops or staged vectors.
EMPTY = {
    "staged_embedder": None,
    "staged_generation": None,
    "staged_dimension": None,
    "staged_slot": 0,
    "staged_crops": 0,
    "crops": 0,
    "people": 0,
    "unnamed": 0,
    "set_aside": 0,
    "image_bytes": 0,
}


class Galleries(RecordPart):
    """Galleries and their counts."""

    def all(self) -> list[GalleryRecord]:
        clauses = "WHERE name IS NOT NULL ORDER BY name"
        return _read_galleries(self._reader, clauses)

    def get(self, gallery_id: int) -> GalleryRecord | None:
        return read_entry(self._reader, gallery_id)

    def group_secret(self) -> bytes:
        digits = self._reader.value("SELECT value FROM record WHERE name = 'group_secret'")
        return bytes.fromhex(digits)

    @transactional
    def create(
        self, transaction: Transaction, name: str, embedder: str, settings: GallerySettings
    ) -> GalleryRecord:
        """Create an empty gallery; raises `GalleryConflict` if the name is taken."""
        if transaction.row("galleries", "WHERE name = ?", (name,)):
            raise GalleryConflict(
                f"there is a gallery {name!r} already; enroll into it or choose another name"
            )
        ((gallery_id,),) = transaction.change_returning(
            "UPDATE record SET value = CAST(value AS BIGINT) + 1 WHERE name = 'next_gallery' "
            "RETURNING CAST(value AS BIGINT) - 1",
            is_private=False,
        )
        entry = GalleryRecord(gallery_id, name, embedder, datetime.now(UTC), settings)
        entry = replace(entry, changed=transaction.commit)
        transaction.insert("galleries", as_row(entry))
        return entry

    @transactional
    def change(
        self,
        transaction: Transaction,
        gallery_id: int,
        changes: Mapping[str, Any],
        reset_calibration: bool = False,
    ) -> GallerySettings:
        """Apply the given changes in one commit and return all settings.

        Resetting or switching off the calibration drops it and the searches it was fitted to.

        Raises:
            UnknownGallery: the gallery was deleted.
        """
        entry = require_entry(transaction, gallery_id)
        settings = replace(entry.settings, **changes)
        if changes:
            transaction.change(
                "UPDATE galleries SET settings = ? WHERE gallery_id = ?",
                (to_json(settings).decode(), gallery_id),
            )
            note_changed(transaction, gallery_id)
        if reset_calibration or changes.get("calibration") == "off":
            drop_calibrations(transaction, gallery_id)
        return settings

    def delete(self, gallery_id: int) -> int:
        """Delete a gallery and everything that belongs to it; return its number of crops.

        Raises:
            UnknownGallery: the gallery was already deleted.
        """
        crops = self._unlist(gallery_id)
        self.finish_deletions()
        return crops

    def finish_deletions(self) -> None:
        """Delete the rows of galleries without a name, in small commits that let others write.

        Their vector files are removed when this returns.
        """
        unlisted = "SELECT gallery_id, next_generation FROM galleries WHERE name IS NULL"
        for gallery_id, next_generation in self._reader.tuples(unlisted):
            for generation in range(next_generation):
                self._database.vectors.remove(gallery_id, generation)
            while self._delete_some(gallery_id):
                pass

    @transactional
    def _unlist(self, transaction: Transaction, gallery_id: int) -> int:
        entry = require_entry(transaction, gallery_id)
        transaction.change("UPDATE galleries SET name = NULL WHERE gallery_id = ?", (gallery_id,))
        # They must not open a later gallery of that name.
        keys = transaction.column("SELECT key_id FROM api_keys WHERE gallery = ?", (entry.name,))
        delete_keys(transaction, keys)
        imports = transaction.rows(
            "jobs", "WHERE gallery_id = ? AND kind = 'import'", (gallery_id,)
        )
        paths = [f"{IMPORTS}/{row['job_id']}" for row in imports]
        paths.append(f"{EXPORTS}/{gallery_id}")
        paths += [
            vectors_name(gallery_id, generation) for generation in range(entry.next_generation)
        ]
        transaction.note_unneeded(paths)
        return entry.crops

    @transactional
    def _delete_some(self, transaction: Transaction, gallery_id: int) -> bool:
        """Delete some rows of a gallery, or the gallery once none are left; then return False."""
        statement = "SELECT slot FROM crops WHERE gallery_id = ? ORDER BY slot LIMIT ?"
        slots = transaction.column(statement, (gallery_id, CROPS_AT_ONCE))
        if slots:
            drop_crops(transaction, gallery_id, slots)
            return True
        remaining = ROWS_AT_ONCE
        # Rows refer to those of earlier tables, such as people, with which they would be deleted.
        for table in reversed(TABLES_OF_GALLERIES):
            key = ", ".join(table.key)
            some = f"SELECT {key} FROM {table.name} WHERE gallery_id = ? LIMIT ?"
            delete = f"DELETE FROM {table.name} WHERE ({key}) IN ({some})"
            remaining -= transaction.change(delete, (gallery_id, remaining))
            if not remaining:
                return True
        transaction.change("DELETE FROM galleries WHERE gallery_id = ?", (gallery_id,))
        return False


class Runtimes(RecordPart):
    """The runtime that computes features, by the embedder's fingerprint."""

    def get(self, embedder: str) -> str | None:
        row = self._reader.row("runtimes", "WHERE embedder = ?", (embedder,))
        return row["choice"] if row else None

    @transactional
    def keep_first(self, transaction: Transaction, embedder: str, choice: str) -> str:
        ((stored,),) = transaction.change_returning(
            f"{KEEP_RUNTIME} RETURNING choice", (embedder, choice), is_private=False
        )
        return str(stored)

    @transactional
    def forget(self, transaction: Transaction) -> int:
        return transaction.change("DELETE FROM runtimes")


def as_row(entry: GalleryRecord) -> dict[str, Any]:
    """Return the row of a gallery without its crops and staged vectors."""
    return EMPTY | {
        "gallery_id": entry.gallery_id,
        "name": entry.name,
        "embedder": entry.embedding_fingerprint,
        "settings": to_json(entry.settings).decode(),
        "created_at": entry.created_at,
        "version": entry.version,
        "next_slot": entry.next_slot,
        "next_generation": entry.next_generation,
        "generation": entry.generation,
        "removals": entry.removals,
        "changed": entry.changed,
        "calibrated": entry.calibrated,
    }


@dataclass(frozen=True)
class FilledGallery:
    """A gallery, the fingerprint of the embedder of its vectors, and its number of crops."""

    name: str
    embedding_fingerprint: str
    crops: int


def read_filled(reader: Reader) -> list[FilledGallery]:
    statement = "SELECT name, embedder, crops FROM galleries WHERE name IS NOT NULL ORDER BY name"
    return [FilledGallery(*row) for row in reader.tuples(statement)]


def read_entry(reader: Reader, gallery_id: int) -> GalleryRecord | None:
    clauses = "WHERE gallery_id = ? AND name IS NOT NULL"
    return next(iter(_read_galleries(reader, clauses, (gallery_id,))), None)


def _read_galleries(reader: Reader, clauses: str, values: Values = ()) -> list[GalleryRecord]:
    rows = reader.rows("galleries", clauses, values, RENAMED)
    try:
        return [GalleryRecord(**row) for row in rows]
    except ValidationError as error:
        raise reader.database.damage("a row of galleries is not what was written") from error


def require_entry(reader: Reader, gallery_id: int) -> GalleryRecord:
    """Return a gallery; raises `UnknownGallery`, naming its number, if it was deleted."""
    entry = read_entry(reader, gallery_id)
    if entry is None:
        raise UnknownGallery(str(gallery_id))
    return entry


def next_version(transaction: Transaction, gallery_id: int, removals: int = 0) -> int:
    """Increment a gallery's version, which the caller writes into each crop that it changes."""
    version, _ = _advance(transaction, gallery_id, removals, None)
    return version


def next_version_and_generation(
    transaction: Transaction, gallery_id: int, dimension: int
) -> tuple[int, int]:
    """Increment a gallery's version; return it and the generation that takes new vectors."""
    return _advance(transaction, gallery_id, 0, dimension)


def _advance(
    transaction: Transaction, gallery_id: int, removals: int, dimension: int | None
) -> tuple[int, int]:
    ((version, generation),) = transaction.change_returning(
        "UPDATE galleries SET version = version + 1, removals = removals + ?, changed = ?, "
        "dimension = coalesce(dimension, ?) WHERE gallery_id = ? RETURNING version, generation",
        (removals, transaction.commit, dimension, gallery_id),
        is_private=False,
    )
    return version, generation


def note_changed(transaction: Transaction, gallery_id: int) -> None:
    """Have every process read a gallery's settings and embedder."""
    statement = "UPDATE galleries SET changed = ? WHERE gallery_id = ?"
    transaction.change(statement, (transaction.commit, gallery_id), is_private=False)


def note_calibrated(transaction: Transaction, gallery_id: int) -> None:
    """Have every process read a gallery's calibrations."""
    statement = "UPDATE galleries SET changed = ?, calibrated = ? WHERE gallery_id = ?"
    values = (transaction.commit, transaction.commit, gallery_id)
    transaction.change(statement, values, is_private=False)


def drop_calibrations(transaction: Transaction, gallery_id: int) -> None:
    for table in ("calibrations", "calibration_searches"):
        transaction.change(f"DELETE FROM {table} WHERE gallery_id = ?", (gallery_id,))
    note_calibrated(transaction, gallery_id)


def of_slots(reader: Reader) -> str:
    """Return the condition on `gallery_id` and `slot` that takes `:gallery_id` and `:slots`."""
    return f"gallery_id = :gallery_id AND {reader.dialect.among('slot', ':slots')}"


def drop_crops(transaction: Transaction, gallery_id: int, slots: Sequence[int]) -> None:
    """Delete the rows of crops with their checksums; their pictures outside become strays."""
    values = {"gallery_id": gallery_id, "slots": slots, "now": now_micros()}
    where = of_slots(transaction)
    transaction.change(PUT_STRAYS.format(of_slots=where), values)
    transaction.change(f"DELETE FROM crops WHERE {where}", values)
    drop_checksums(transaction, gallery_id, slots)


def drop_checksums(transaction: Transaction, gallery_id: int, slots: Sequence[int]) -> None:
    values = {"gallery_id": gallery_id, "slots": slots}
    transaction.change(f"DELETE FROM checksums WHERE {of_slots(transaction)}", values)


def drop_vectors(transaction: Transaction, gallery_id: int, generation: int) -> None:
    """Drop a generation; its file is removed after the commit, or by maintenance if that fails.

    The vectors of crops that are deleted later would not be overwritten in it.
    """
    transaction.note_unneeded([vectors_name(gallery_id, generation)])
    transaction.dropped.append((gallery_id, generation))
    statement = "DELETE FROM checksums WHERE gallery_id = ? AND generation = ?"
    transaction.change(statement, (gallery_id, generation))


def read_index_owners(reader: Reader) -> list[str]:
    """Return the owner of the record's collections, and owners whose collections are unneeded.

    The owner tells apart records that were restored from the same backup.
    """
    stored = reader.value("SELECT value FROM record WHERE name = ?", (INDEX_OWNERS,))
    owners: list[str] = from_json(stored or '[""]')
    return owners


def put_index_owners(transaction: Transaction, owners: Sequence[str]) -> None:
    row = {"name": INDEX_OWNERS, "value": to_json(owners).decode()}
    transaction.insert("record", row, instead=True)
