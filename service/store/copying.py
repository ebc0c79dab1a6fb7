"""The copy of a whole record from one engine into the other: from SQLite into PostgreSQL, and back.

The rows of all tables are read in pages, in the order of their keys, and verified. The vectors are
rows in PostgreSQL, and files beside SQLite. A copy that ends early leaves nothing that a service
takes for a record: a transaction that is rolled back, or a folder without its final name.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from model.problems import InputProblem
from service.errors import StorageFailed
from service.record.acknowledged import AcknowledgedCommit
from service.record.database import RECORD_ID, SIDES, Database
from service.record.deletions import (
    Deletion,
    DeletionLog,
    parse_line,
    read_beginning,
    read_deletions,
    read_lines,
)
from service.record.schema import TABLES, Table, create_tables
from service.record.sqlite import SQLiteSource
from service.record.transaction import FILE, Reader, Source, Values
from service.record.vectors import PRIVATE_FILE, Vector, vector_crc

# A copy in a folder is synced, and gets its place, once it is complete: it needs no journal.
PRAGMAS = ("page_size = 4096", "journal_mode = OFF", "synchronous = OFF", "foreign_keys = ON")
ROWS_AT_ONCE = 1000
# Images of a megabyte and more are rows of these tables.
LARGE_TABLES = ("pictures", "search_pictures", "alert_pictures", "calibration_searches")
LARGE_ROWS_AT_ONCE = 32
# Tables that each engine keeps in a way of its own.
OF_THE_ENGINE = ("record", "deletions", "checksums")
SECRET = "group_secret"
# Values of the table `record` that stay behind: those of PostgreSQL alone.
LEFT_VALUES = ("format",)
LEFT_PREFIX = "works at "
VECTORS = (
    "SELECT checksums.gallery_id, checksums.slot, checksums.side, checksum, crop_id{more} "
    "FROM checksums LEFT JOIN crops ON crops.gallery_id = checksums.gallery_id "
    "AND crops.slot = checksums.slot {condition} "
    "ORDER BY checksums.gallery_id, checksums.slot, checksums.side LIMIT ?"
)
AFTER = "WHERE (checksums.gallery_id, checksums.slot, checksums.side) > (?, ?, ?)"
DIMENSIONS = f"SELECT gallery_id, side, dimension FROM {SIDES} WHERE dimension IS NOT NULL"
WITHOUT_CHECKSUM = """
SELECT crops.gallery_id, crop_id FROM crops
JOIN galleries ON galleries.gallery_id = crops.gallery_id
LEFT JOIN checksums ON checksums.gallery_id = crops.gallery_id AND checksums.slot = crops.slot
AND checksums.side = galleries.side
WHERE name IS NOT NULL AND dimension IS NOT NULL AND checksum IS NULL LIMIT 1
"""
CROPS = (
    "SELECT name, (SELECT count(*) FROM crops WHERE crops.gallery_id = galleries.gallery_id) "
    "FROM galleries WHERE name IS NOT NULL ORDER BY name"
)
# The file that an import reads stays in the data directory that received it.
CANCEL_IMPORTS = (
    "UPDATE jobs SET worker = NULL, cancelling = 1, "
    "state = CASE state WHEN 'queued' THEN 'cancelled' ELSE state END "
    "WHERE kind = 'import' AND state IN ('queued', 'running')"
)


@dataclass(frozen=True)
class Copied:
    """The outcome of a copy.

    Attributes:
        crops: numbers of crops by gallery.
        rows: numbers of rows by table.
        vectors: their number, with those that a reindex has prepared.
        later_commits: number of commits that the source got since the copy began.
    """

    crops: dict[str, int]
    rows: dict[str, int]
    vectors: int
    later_commits: int = 0


@dataclass(frozen=True)
class StoredVector:
    """A row of the table `checksums`, and its vector.

    Attributes:
        crop_id: id of the crop; None if there is none in this slot.
        content: the vector as little-endian float32; None if it is missing.
    """

    gallery_id: int
    slot: int
    side: int
    checksum: int
    crop_id: str | None
    content: bytes | None

    @property
    def row(self) -> tuple[int, int, int, int]:
        return self.gallery_id, self.slot, self.side, self.checksum

    @property
    def vector(self) -> Vector:
        return np.frombuffer(self.content or b"", "<f4")

    @property
    def is_intact(self) -> bool:
        if self.crop_id is None or self.content is None:
            return False
        return vector_crc(self.crop_id, self.vector) == self.checksum


class CopySource(ABC):
    """A record that is read at one moment.

    Attributes:
        name: the record, as messages name it.
        remedy: what to do about a damaged crop in it.
        has_checksums: the rows of some tables have checksums.
    """

    name: str
    remedy: str
    has_checksums: bool

    @abstractmethod
    def tuples(self, statement: str, values: Values = ()) -> list[tuple[Any, ...]]: ...

    @abstractmethod
    def vectors(self, after: Sequence[int] | None) -> list[StoredVector]:
        """Return the next vectors behind a gallery, slot and side, or the first ones."""

    @abstractmethod
    def deletions(self) -> Iterator[Deletion]:
        """Yield what was deleted during the last 400 days."""

    def values(self) -> dict[str, Any]:
        """Return the single values of the record that are no engine's own."""
        return {
            name: value
            for name, value in self.tuples("SELECT name, value FROM record ORDER BY name")
            if name not in LEFT_VALUES and not name.startswith(LEFT_PREFIX)
        }

    def count(self, table: str) -> int:
        return int(self.tuples(f"SELECT count(*) FROM {table}")[0][0])

    def damage(self, what: str) -> InputProblem:
        return InputProblem(f"{self.name}: {what}; nothing was copied, {self.remedy}")


class CopyTarget(ABC):
    """A new record that is filled."""

    @abstractmethod
    def put_values(self, values: Mapping[str, Any]) -> None: ...

    @abstractmethod
    def insert(self, table: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None: ...

    @abstractmethod
    def put_vectors(self, vectors: Sequence[StoredVector]) -> None: ...

    @abstractmethod
    def put_deletions(self, deletions: Iterable[Deletion]) -> None: ...

    @abstractmethod
    def change(self, statement: str) -> None: ...

    @abstractmethod
    def count(self, table: str) -> int: ...

    @abstractmethod
    def count_vectors(self) -> int: ...


class SQLiteCopySource(CopySource):
    """The record of a data directory that no service uses."""

    has_checksums = True

    def __init__(self, database: Database) -> None:
        self.name = str(database.folder)
        self.remedy = (
            f"gmn store verify --data-dir {database.folder} lists all damage; delete damaged crops "
            "and enroll them again, or restore a backup"
        )
        self._database = database
        self._dimensions = _read_dimensions(Reader(database))

    def tuples(self, statement: str, values: Values = ()) -> list[tuple[Any, ...]]:
        return Reader(self._database).tuples(statement, values)

    def vectors(self, after: Sequence[int] | None) -> list[StoredVector]:
        return _read_vectors(self._database, self._dimensions, after)

    def deletions(self) -> Iterator[Deletion]:
        return read_deletions(self._database.deletions.path)


class SQLiteCopyTarget(CopyTarget):
    """A folder that becomes a data directory."""

    def __init__(self, folder: Path, since: Deletion | None, lines: Iterable[bytes]) -> None:
        """Create the tables.

        Args:
            since: the first line of the log of deletions; None if it begins now.
            lines: of the log of another machine.
        """
        self._folder = folder
        self._since = since
        self._lines = lines
        self._record_id = ""
        # SQLite fills an empty file, and creates others so that everybody may read them.
        (folder / FILE).touch(mode=PRIVATE_FILE)
        self._source = SQLiteSource(folder)
        self._connection = self._source.connection()
        for pragma in PRAGMAS:
            self._connection.execute(f"PRAGMA {pragma}")
        self._connection.execute("BEGIN IMMEDIATE")
        create_tables(self._connection)

    def close(self) -> None:
        self._source.close()

    def put_values(self, values: Mapping[str, Any]) -> None:
        self._record_id = values["record_id"]
        own = dict(values)
        if isinstance(own[SECRET], str):
            own[SECRET] = bytes.fromhex(own[SECRET])
        self.insert("record", ("name", "value"), list(own.items()))

    def insert(self, table: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        marks = ", ".join("?" for _ in columns)
        statement = f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks})"
        self._connection.executemany(statement, rows)

    def put_vectors(self, vectors: Sequence[StoredVector]) -> None:
        self.insert(
            "checksums",
            ("gallery_id", "slot", "side", "checksum"),
            [stored.row for stored in vectors],
        )
        by_side: dict[tuple[int, int, int], dict[int, Vector]] = defaultdict(dict)
        for stored in vectors:
            if stored.content is not None:
                side = (stored.gallery_id, stored.side, len(stored.vector))
                by_side[side][stored.slot] = stored.vector
        for side, by_slot in by_side.items():
            self._source.vectors.open(*side).write(by_slot)

    def put_deletions(self, deletions: Iterable[Deletion]) -> None:
        since = self._since or Deletion(datetime.now(UTC), "since", self._record_id)
        lines = (deletion.as_line() for deletion in deletions)
        log = DeletionLog(self._folder)
        log.write(itertools.chain([since.as_line()], self._lines, lines))

    def change(self, statement: str) -> None:
        self._connection.execute(statement)

    def count(self, table: str) -> int:
        return int(self._connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])

    def count_vectors(self) -> int:
        dimensions = _read_dimensions(Reader(self._source))
        count = 0
        after = None
        while vectors := _read_vectors(self._source, dimensions, after):
            count += sum(stored.is_intact for stored in vectors)
            after = vectors[-1].row[:3]
        return count

    def finish(self) -> None:
        """Make the record one that its service has acknowledged, and end the transaction."""
        # The log has what the triggers have noted.
        self._connection.execute("DELETE FROM deletions")
        for gallery_id, side, dimension in Reader(self._source).tuples(DIMENSIONS):
            # A backup misses the file of a gallery whose crops were all removed.
            self._source.vectors.open(gallery_id, side, dimension)
        commit = Reader(self._source).newest_commit()
        self._connection.execute("COMMIT")
        AcknowledgedCommit(self._folder).write(commit)


def copy_record(source: CopySource, target: CopyTarget) -> Copied:
    """Copy all rows and vectors; raises `InputProblem` if one of them is damaged."""
    if missing := source.tuples(WITHOUT_CHECKSUM):
        gallery_id, crop_id = missing[0]
        raise _damaged_crop(source, "vector", gallery_id, crop_id)
    target.put_values(source.values())
    tables = [table for name, table in TABLES.items() if name not in OF_THE_ENGINE]
    for table in tables:
        for rows in _read_rows(source, table):
            target.insert(table.name, _columns_of(table), rows)
    vectors = 0
    for page in _read_intact_vectors(source):
        target.put_vectors(page)
        vectors += sum(stored.content is not None for stored in page)
    target.put_deletions(source.deletions())
    target.change(CANCEL_IMPORTS)
    names = [table.name for table in tables] + ["checksums"]
    counts = {name: source.count(name) for name in names}
    for name, count in counts.items():
        _require_count(f"rows of {name}", count, target.count(name))
    _require_count("vectors", vectors, target.count_vectors())
    return Copied(dict(source.tuples(CROPS)), counts, vectors)


def _require_count(what: str, wanted: int, copied: int) -> None:
    if copied != wanted:
        raise StorageFailed(
            f"the copy has {copied:,} {what} instead of {wanted:,} and was dropped; try again, and "
            "look at the disks"
        )


def _columns_of(table: Table) -> list[str]:
    """Return the columns of a table in the order of its `selection`, without the checksum."""
    return [*table.checked, *(name for name in table.columns if name not in table.checked)]


def _read_rows(source: CopySource, table: Table) -> Iterator[list[tuple[Any, ...]]]:
    key = ", ".join(table.key)
    marks = ", ".join("?" for _ in table.key)
    places = [_columns_of(table).index(name) for name in table.key]
    limit = LARGE_ROWS_AT_ONCE if table.name in LARGE_TABLES else ROWS_AT_ONCE
    selection = f"SELECT {table.selection} FROM {table.name}"
    order = f"ORDER BY {key} LIMIT {limit}"
    page = source.tuples(f"{selection} {order}")
    while page:
        rows = [_without_checksum(source, table, row) for row in page]
        yield rows
        last = [rows[-1][place] for place in places]
        page = source.tuples(f"{selection} WHERE ({key}) > ({marks}) {order}", last)


def _without_checksum(source: CopySource, table: Table, row: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return a row without its checksum; the copy of a damaged one would look whole."""
    if not table.has_checksums:
        return row
    count = len(table.checked)
    values = (*row[:count], *row[count + 1 :])
    if source.has_checksums and not table.is_intact(row):
        raise _damaged_row(source, table, dict(zip(_columns_of(table), values, strict=True)))
    return values


def _damaged_row(source: CopySource, table: Table, row: Mapping[str, Any]) -> InputProblem:
    if "slot" not in row:
        return source.damage(f"a row of {table.name} is not what was written")
    statement = "SELECT crop_id FROM crops WHERE gallery_id = ? AND slot = ?"
    crop_ids = source.tuples(statement, (row["gallery_id"], row["slot"]))
    part = {"crops": "row", "tracks": "track", "pictures": "picture"}[table.name]
    return _damaged_crop(source, part, row["gallery_id"], *(crop_id for (crop_id,) in crop_ids))


def _damaged_crop(
    source: CopySource, part: str, gallery_id: int, crop_id: str = "unknown"
) -> InputProblem:
    names = source.tuples("SELECT name FROM galleries WHERE gallery_id = ?", (gallery_id,))
    gallery = next((name for (name,) in names), gallery_id)
    return source.damage(f"the {part} of crop {crop_id} in gallery {gallery} is damaged")


def _read_intact_vectors(source: CopySource) -> Iterator[list[StoredVector]]:
    sides = {(gallery_id, side) for gallery_id, side, _ in source.tuples(DIMENSIONS)}
    after = None
    while page := source.vectors(after):
        vectors = []
        for stored in page:
            # A checksum without a crop, or of a side that is not in use, has no vector.
            if stored.crop_id is None or (stored.gallery_id, stored.side) not in sides:
                vectors.append(replace(stored, content=None))
            elif stored.is_intact:
                vectors.append(stored)
            else:
                raise _damaged_crop(source, "vector", stored.gallery_id, stored.crop_id)
        yield vectors
        after = page[-1].row[:3]


def _read_dimensions(reader: Reader) -> dict[tuple[int, int], int]:
    return {
        (gallery_id, side): dimension for gallery_id, side, dimension in reader.tuples(DIMENSIONS)
    }


def vectors_statement(after: Sequence[int] | None, more: str = "") -> tuple[str, list[int]]:
    """Return a statement of the next rows of vectors, and its values.

    Args:
        after: the gallery, slot and side of the last row before; None for the first rows.
        more: further columns, each after a comma.
    """
    statement = VECTORS.format(more=more, condition=AFTER if after else "")
    return statement, [*(after or ()), ROWS_AT_ONCE]


def _read_vectors(
    database: Source, dimensions: Mapping[tuple[int, int], int], after: Sequence[int] | None
) -> list[StoredVector]:
    """Read vectors from the files of a folder."""
    rows = Reader(database).tuples(*vectors_statement(after))
    slots: dict[tuple[int, int], list[int]] = defaultdict(list)
    for gallery_id, slot, side, _, crop_id in rows:
        if crop_id is not None and (gallery_id, side) in dimensions:
            slots[gallery_id, side].append(slot)
    contents: dict[tuple[int, int, int], bytes] = {}
    for (gallery_id, side), own in slots.items():
        file = database.vectors.open(gallery_id, side, dimensions[gallery_id, side])
        for slot, vector in zip(own, file.read(own), strict=True):
            contents[gallery_id, slot, side] = vector.tobytes()
    return [
        StoredVector(
            gallery_id, slot, side, checksum, crop_id, contents.get((gallery_id, slot, side))
        )
        for gallery_id, slot, side, checksum, crop_id in rows
    ]


def read_since(source: CopySource, machine: Path) -> Deletion | None:
    """Return the first line of the log of a machine that has served a record."""
    path = DeletionLog(machine).path
    since = read_beginning(path)
    ((record_id,),) = source.tuples(RECORD_ID)
    if since and since.id != record_id:
        raise InputProblem(
            f"{machine}: its deletions.log is that of another record; name the data directory of a "
            "machine that has served this one with --data-dir"
        )
    return since


def lines_of(path: Path) -> Iterator[bytes]:
    for line in read_lines(path):
        deletion = parse_line(line)
        # Nobody knows what a damaged line says, and a restore names it.
        if deletion is None or deletion.kind != "since":
            yield line
