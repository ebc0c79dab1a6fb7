"""Records opened read-only, and verification of a whole record against its checksums."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from model.problems import InputProblem
from model.wording import counted
from service.errors import DamagedRecord, ServiceError
from service.record.crop_rows import read_intact_vectors
from service.record.schema import (
    CHECKED_TABLES,
    TABLES,
    checked_columns,
    read_schema,
    row_crc,
)
from service.record.sqlite import SQLiteDatabase, SQLiteSource, require_schema, stored_uri
from service.record.transaction import FILE, Reader, batches
from service.record.vectors import Vector

ROWS_AT_ONCE = 500
PAGE_PROBLEMS = 20
# How the counts in a gallery's row follow from its crops.
COUNTED = {
    "crops": "count(*)",
    "people": "count(DISTINCT person_id)",
    "unnamed": "count(*) - count(person_id)",
    "image_bytes": "coalesce(sum(image_bytes), 0)",
}

Values = dict[str, Any]


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

    def note(self, gallery_id: object, problem: str) -> None:
        """Record a problem of a gallery, or of the whole record if there is no such gallery."""
        gallery = self._find(gallery_id)
        lines = gallery.damage if gallery else self.problems
        lines.append(problem)

    def note_crop(self, gallery_id: object, slot: object, problem: str) -> None:
        """Record the damage of a crop, whose first problem stands for all."""
        gallery = self._find(gallery_id)
        if gallery and isinstance(slot, int):
            gallery.damaged_crops.setdefault(slot, problem)
        else:
            self.note(gallery_id, problem)

    def _find(self, gallery_id: object) -> GalleryFound | None:
        return self.galleries.get(gallery_id) if isinstance(gallery_id, int) else None


def verify(folder: Path) -> RecordFound:
    """Verify a consistent state of a whole record, which may be in use.

    Raises:
        DamagedRecord: the record is missing, or is no database.
        InputProblem: it is not of this program's format.
    """
    with inspect(folder) as inspection:
        inspection.check_pages()
        for table in TABLES:
            if table not in ("galleries", "crops", "pictures"):
                for _ in inspection.rows(table):
                    pass
        for crop, _ in inspection.crops():
            inspection.found.galleries[crop["gallery_id"]].whole += 1
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
    """Yields the intact rows of a record that may be damaged, and collects problems of the others.

    Attributes:
        found: the problems found so far, by gallery.
        galleries: rows of the readable galleries.
    """

    def __init__(self, stored: StoredRecord) -> None:
        self.found = RecordFound()
        self.galleries: dict[int, Values] = {}
        self._stored = stored
        self._connection = stored.connection()
        # A flipped bit can leave invalid UTF-8; the checksum of the row reveals it.
        self._connection.text_factory = lambda text: text.decode("utf-8", "surrogateescape")
        require_schema(stored)
        self._connection.execute("BEGIN")
        for row in self.rows("galleries"):
            if row["name"] is not None:
                gallery_id = row["gallery_id"]
                self.galleries[gallery_id] = row
                self.found.galleries[gallery_id] = GalleryFound(gallery_id, row["name"])

    def rows(self, table: str) -> Iterator[Values]:
        try:
            for row in self._connection.execute(f"SELECT * FROM {table}"):
                values = dict(row)
                checked = [row[name] for name in checked_columns(table, row.keys())]
                if table not in CHECKED_TABLES or row_crc(*checked) == row["crc"]:
                    yield values
                else:
                    self._note_row(table, values)
        except sqlite3.DatabaseError as error:
            self.found.note(None, f"{table} cannot be read through: {error}")

    def crops(self) -> Iterator[tuple[Values, Vector]]:
        """Yield crops with intact row, vector and picture, each with its vector."""
        pictured = {(row["gallery_id"], row["slot"]) for row in self.rows("pictures")}
        rows = (row for row in self.rows("crops") if row["gallery_id"] in self.galleries)
        for batch in batches(rows, ROWS_AT_ONCE):
            for gallery_id in dict.fromkeys(crop["gallery_id"] for crop in batch):
                crops = [crop for crop in batch if crop["gallery_id"] == gallery_id]
                yield from self._add_vectors(gallery_id, crops, pictured)

    def check_pages(self) -> None:
        with self._noting_errors("the file"):
            for (line,) in self._connection.execute(f"PRAGMA integrity_check({PAGE_PROBLEMS})"):
                if line != "ok":
                    self.found.note(None, line)
        with self._noting_errors("the file"):
            for table, _, parent, _ in self._connection.execute("PRAGMA foreign_key_check"):
                self.found.note(None, f"a row of {table} refers to a missing row of {parent}")

    def check_counts(self) -> None:
        statement = f"SELECT {', '.join(COUNTED.values())} FROM crops WHERE gallery_id = ?"
        for gallery_id, gallery in self.galleries.items():
            # Skip totals if there are lines about single crops, which say more.
            found = self.found.galleries[gallery_id]
            if found.damage or found.damaged_crops:
                continue
            with self._noting_errors("the crops"):
                counts = self._connection.execute(statement, (gallery_id,)).fetchone()
                for name, count in zip(COUNTED, counts, strict=True):
                    if count != gallery[name]:
                        line = f"it has {count} {name} instead of {gallery[name]}"
                        self.found.note(gallery_id, line)

    def _add_vectors(
        self, gallery_id: int, crops: list[Values], pictured: set[tuple[int, int]]
    ) -> Iterator[tuple[Values, Vector]]:
        gallery = self.galleries[gallery_id]
        place = (gallery_id, gallery["side"], gallery["dimension"] or 1)
        crop_ids = {crop["slot"]: crop["crop_id"] for crop in crops}
        vectors: dict[int, Vector] = {}
        try:
            with self._noting_errors("checksums of vectors"):
                vectors = read_intact_vectors(Reader(self._stored), *place, crop_ids)
        except FileNotFoundError:
            # The file may have gone with its gallery, or by a reindex, since the read began.
            if lost_slots := self._find_existing(gallery, list(crop_ids)):
                problem = f"the vectors of {counted(len(lost_slots), 'crop')} are missing"
                self.found.note(gallery_id, problem)
            return
        # Crops removed since the read began have overwritten vectors.
        lost_slots = self._find_existing(gallery, sorted(crop_ids.keys() - vectors.keys()))
        for crop in crops:
            slot = crop["slot"]
            missing = ""
            if slot in lost_slots:
                missing = "vector"
            elif slot not in vectors:
                continue
            elif crop["inside"] and (gallery_id, slot) not in pictured:
                missing = "picture"
            if missing:
                line = f"the {missing} of crop {crop['crop_id']} is missing or corrupt"
                self.found.note_crop(gallery_id, slot, line)
            else:
                yield crop, vectors[slot]

    def _find_existing(self, gallery: Values, slots: list[int]) -> set[int]:
        if not slots:
            return set()
        # A reindex moves the vectors to another file.
        statement = (
            "SELECT slot FROM crops JOIN galleries USING (gallery_id) WHERE name IS NOT NULL "
            f"AND gallery_id = ? AND side = ? AND {self._stored.dialect.among('slot')}"
        )
        place = (gallery["gallery_id"], gallery["side"])
        with (
            contextlib.suppress(sqlite3.DatabaseError, ServiceError),
            contextlib.closing(StoredRecord(self._stored.folder)) as current,
        ):
            return set(Reader(current).column(statement, (*place, slots)))
        return set(slots)

    def _note_row(self, table: str, values: Values) -> None:
        gallery_id = values.get("gallery_id")
        if table == "crops":
            line = f"crop {values['crop_id']} is not what was written"
            self.found.note_crop(gallery_id, values["slot"], line)
        # A crop whose picture is damaged is noted with the crops.
        elif table != "pictures":
            self.found.note(gallery_id, f"a row of {table} is not what was written")

    @contextlib.contextmanager
    def _noting_errors(self, what: str) -> Iterator[None]:
        try:
            yield
        except sqlite3.DatabaseError as error:
            self.found.note(None, f"{what} cannot be read through: {error}")


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
        # a copy. In exclusive mode SQLite keeps what it shares otherwise in memory of its own; the
        # lock for that could only be taken in a file that may be written.
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
