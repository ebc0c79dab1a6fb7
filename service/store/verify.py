"""Records opened read-only, and verification of a whole record."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from model.problems import InputProblem
from model.wording import counted
from service.errors import DamagedRecord, ServiceError
from service.record.crop_rows import read_intact_vectors, read_pages
from service.record.galleries import Galleries
from service.record.keys import read_bodies
from service.record.schema import read_schema
from service.record.sqlite import SQLiteDatabase, SQLiteSource, require_schema, stored_uri
from service.record.transaction import FILE, Reader
from service.record.values import GalleryRecord, StoredCrop

PAGE_PROBLEMS = 20
# How the counts in a gallery's row follow from its crops.
COUNTED = {
    "crops": "count(*)",
    "identities": "count(DISTINCT person_id)",
    "unnamed": "count(*) - count(person_id)",
    "set_aside": "coalesce(sum(set_aside), 0)",
    "image_bytes": "coalesce(sum(image_bytes), 0)",
}


@dataclass
class GalleryFound:
    """The findings about a gallery.

    Attributes:
        whole: number of intact crops.
        damage: a line for each damage that is not of a single crop.
        damaged_crops: a line for each damaged crop, by slot.
    """

    gallery_id: int
    name: str
    whole: int = 0
    damage: list[str] = field(default_factory=list)
    damaged_crops: dict[int, str] = field(default_factory=dict)


@dataclass
class RecordFound:
    """A record: its galleries by id, and problems that belong to none of them."""

    galleries: dict[int, GalleryFound] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    @property
    def damage(self) -> list[str]:
        return self.damage_beside_crops + list(self.damaged_crops.values())

    @property
    def damage_beside_crops(self) -> list[str]:
        gallery_damage = [line for gallery in self.galleries.values() for line in gallery.damage]
        return self.problems + gallery_damage

    @property
    def damaged_crops(self) -> dict[tuple[int, int], str]:
        """Return a line for each damaged crop, by gallery and slot."""
        return {
            (gallery.gallery_id, slot): line
            for gallery in self.galleries.values()
            for slot, line in gallery.damaged_crops.items()
        }


def verify(folder: Path) -> RecordFound:
    """Verify a consistent state of a whole record, which may be in use.

    Raises:
        DamagedRecord: the record is missing, or is no database.
        InputProblem: it is not of this program's format.
    """
    with inspect(folder) as inspection:
        inspection.check_pages()
        inspection.check_keys()
        for gallery in inspection.galleries:
            for _ in inspection.crops(gallery):
                inspection.found.galleries[gallery.gallery_id].whole += 1
        inspection.check_counts()
        return inspection.found


@contextlib.contextmanager
def inspect(folder: Path) -> Iterator[Inspection]:
    path = folder / FILE
    if not path.is_file():
        raise DamagedRecord(path, "the file is missing")
    with contextlib.closing(StoredRecord(folder)) as stored:
        yield Inspection(stored)


class Inspection:
    """Yields the intact crops of a record that may be damaged, and collects problems.

    Attributes:
        found: the problems found so far, by gallery.
    """

    def __init__(self, stored: StoredRecord) -> None:
        self.found = RecordFound()
        self._stored = stored
        self._reader = Reader(stored)
        require_schema(stored)
        stored.connection().execute("BEGIN")
        self.galleries = Galleries(stored).all()
        for gallery in self.galleries:
            gallery_id = gallery.gallery_id
            self.found.galleries[gallery_id] = GalleryFound(gallery_id, gallery.name)

    def crops(self, gallery: GalleryRecord) -> Iterator[StoredCrop]:
        """Yield the crops of a gallery whose row can be read, with intact vector and picture."""
        found = self.found.galleries[gallery.gallery_id]
        with self._noting_errors("the crops"):
            for crops in read_pages(self._reader, gallery.gallery_id):
                yield from self._select_intact(gallery, crops)
        for (gallery_id, slot), crop_id in self._stored.damaged.items():
            if gallery_id == gallery.gallery_id:
                name = crop_id or f"in slot {slot}"
                found.damaged_crops[slot] = f"the row of crop {name} cannot be read"

    def check_pages(self) -> None:
        with self._noting_errors("the file"):
            lines = self._reader.column(f"PRAGMA integrity_check({PAGE_PROBLEMS})")
            self.found.problems += [line for line in lines if line != "ok"]
        with self._noting_errors("the file"):
            for table, _, parent, _ in self._reader.tuples("PRAGMA foreign_key_check"):
                self.found.problems.append(f"a row of {table} refers to a missing row of {parent}")

    def check_keys(self) -> None:
        with self._noting_errors("the API keys"):
            _, problems = read_bodies(self._reader)
            self.found.problems += problems

    def check_counts(self) -> None:
        statement = f"SELECT {', '.join(COUNTED.values())} FROM crops WHERE gallery_id = ?"
        for gallery in self.galleries:
            # Skip totals if there are lines about single crops, which say more.
            found = self.found.galleries[gallery.gallery_id]
            if found.damage or found.damaged_crops:
                continue
            with self._noting_errors("the crops"):
                (counts,) = self._reader.tuples(statement, (gallery.gallery_id,))
                for name, count in zip(COUNTED, counts, strict=True):
                    written = getattr(gallery, name)
                    if count != written:
                        found.damage.append(f"it has {count} {name} instead of {written}")

    def _select_intact(
        self, gallery: GalleryRecord, crops: list[StoredCrop]
    ) -> Iterator[StoredCrop]:
        found = self.found.galleries[gallery.gallery_id]
        dimension = gallery.dimension or 1
        crop_ids = {crop.slot: crop.crop_id for crop in crops}
        try:
            vectors = read_intact_vectors(
                self._reader, gallery.gallery_id, gallery.generation, dimension, crop_ids
            )
        except FileNotFoundError:
            # The file may have gone with its gallery, or by a reindex, since the read began.
            if lost_slots := self._find_existing(gallery, list(crop_ids)):
                problem = f"the vectors of {counted(len(lost_slots), 'crop')} are missing"
                found.damage.append(problem)
            return
        # Crops removed since the read began have overwritten vectors.
        lost_slots = self._find_existing(gallery, sorted(crop_ids.keys() - vectors.keys()))
        pictured = self._find_pictured(gallery.gallery_id, list(crop_ids))
        for crop in crops:
            missing = ""
            if crop.slot in lost_slots:
                missing = "vector"
            elif crop.slot not in vectors:
                continue
            elif crop.inside and crop.slot not in pictured:
                missing = "picture"
            if missing:
                line = f"the {missing} of crop {crop.crop_id} is missing or corrupt"
                found.damaged_crops[crop.slot] = line
            else:
                yield crop

    def _find_pictured(self, gallery_id: int, slots: list[int]) -> set[int]:
        # A flipped bit can make a text of a picture, which cannot be decoded.
        statement = (
            "SELECT slot, content, checksum FROM pictures "
            "WHERE gallery_id = ? AND typeof(content) = 'blob' "
            f"AND {self._stored.dialect.among('slot')}"
        )
        # One by one: the pictures of these crops may take gigabytes.
        rows = self._stored.connection().execute(statement, (gallery_id, slots))
        return {slot for slot, content, checksum in rows if zlib.crc32(content) == checksum}

    def _find_existing(self, gallery: GalleryRecord, slots: list[int]) -> set[int]:
        if not slots:
            return set()
        # A reindex moves the vectors to another file.
        statement = (
            "SELECT slot FROM crops JOIN galleries USING (gallery_id) WHERE name IS NOT NULL "
            f"AND gallery_id = ? AND generation = ? AND {self._stored.dialect.among('slot')}"
        )
        values = (gallery.gallery_id, gallery.generation, slots)
        with (
            contextlib.suppress(sqlite3.DatabaseError, ServiceError),
            contextlib.closing(StoredRecord(self._stored.folder)) as current,
        ):
            return set(Reader(current).column(statement, values))
        return set(slots)

    @contextlib.contextmanager
    def _noting_errors(self, what: str) -> Iterator[None]:
        try:
            yield
        except DamagedRecord as damage:
            self.found.problems.append(f"{what} cannot be read through: {damage.why}")
        except sqlite3.DatabaseError as error:
            self.found.problems.append(f"{what} cannot be read through: {error}")


class StoredRecord(SQLiteDatabase):
    """A record opened read-only: a copy, or one that others may write."""

    close = SQLiteSource.close

    def __init__(self, folder: Path) -> None:
        SQLiteSource.__init__(self, folder, only_read=True)
        self.connection()

    def _connect(self, uri: str | None = None) -> sqlite3.Connection:
        _finish_rollback(self.path)
        return SQLiteSource._connect(self, uri or stored_uri(self.path))


class UntouchedRecord(StoredRecord):
    """A record opened for a short read that changes no file of its folder, nor makes one.

    An ordinary read-only connection writes into the memory that the processes of a record share,
    which is a file beside it, and creates that file and the log if they are missing.
    """

    def _connect(self, uri: str | None = None) -> sqlite3.Connection:
        if uri is not None:
            return SQLiteSource._connect(self, uri)
        stored = f"file:{quote(str(self.path))}?mode=ro"
        if not self._log.exists():
            # No process has the record open, and everything is in the file.
            return SQLiteSource._connect(self, f"{stored}&immutable=1")
        if self.path.with_name(f"{FILE}-shm").exists():
            return SQLiteSource._connect(self, f"{stored}&readonly_shm=1")
        # No process has the record open, but the log may contain commits: after a power cut, or in
        # a copy. In exclusive mode SQLite needs no shared memory; the lock for that could only be
        # taken in a file that may be written.
        connection = SQLiteSource._connect(self, f"{stored}&vfs=unix-none")
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        return connection


def has_record(folder: Path) -> bool:
    """Return whether a folder has a record, which may be damaged.

    While a start creates the record, or if it was killed meanwhile, the file has no tables.
    """
    if not (folder / FILE).is_file():
        return False
    with (
        contextlib.suppress(sqlite3.Error, DamagedRecord),
        contextlib.closing(UntouchedRecord(folder)) as record,
    ):
        return bool(read_schema(record.connection()))
    return True


def require_no_record(folder: Path) -> None:
    """Raise `InputProblem` if the data directory of a record in PostgreSQL has one of its own."""
    if has_record(folder):
        raise InputProblem(
            f"data directory {folder}: it has a record of its own, and GMN_DATABASE_URL names "
            "another one; name an empty directory. To go on with this record there, copy it first "
            f"(gmn store copy {folder} --into URL)"
        )


def _finish_rollback(path: Path) -> None:
    """Roll back a transaction that was interrupted while an archive was closed.

    A read-only connection cannot do that.
    """
    if path.with_name(f"{path.name}-journal").exists() and os.access(path.parent, os.W_OK):
        with contextlib.closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA user_version")
