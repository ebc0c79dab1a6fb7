"""Reading and changing the record within one transaction."""

from __future__ import annotations

import functools
import itertools
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

from pydantic_core import to_json

from service.errors import ServiceError
from service.record.schema import CHECKSUMS, Table
from service.record.vectors import Vector, VectorFiles, vector_crc

Item = TypeVar("Item")
ChangeKind = Literal[
    "gallery_created",
    "gallery_changed",
    "gallery_deleted",
    "calibration",
    "added",
    "removed",
    "relabelled",
    "replaced",
    "jobs",
    "keys",
]

# Compares a column with many texts or numbers, which `as_json` writes for its placeholder.
AMONG = "(SELECT value FROM json_each(?))"


@dataclass(frozen=True)
class Change:
    """One committed change.

    Attributes:
        sequence: its number in the gallery's feed; 0 until it is committed.
        kind: what happened. `replaced` stands for a restore and for a reindex: every crop is to be
            read again. `gallery_changed` is of the gallery's settings, embedder, and staged
            vectors.
        gallery_id: where; 0 for none.
        version: the gallery's, once this had happened.
        row_ids: slots of the changed crops, which may have changed again or gone since; of
            `replaced` the slots of the removed ones.
        token: random bytes, by which the feed of another copy of the record is told apart.
    """

    sequence: int
    kind: ChangeKind
    gallery_id: int
    version: int
    row_ids: tuple[int, ...] = ()
    token: bytes = b""


def batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    left = iter(items)
    while batch := list(itertools.islice(left, size)):
        yield batch


def as_json(values: Iterable[str | int]) -> str:
    """Write values as the JSON that `AMONG` compares with."""
    return to_json(list(values)).decode()


def marks_of(values: Sequence[object]) -> str:
    """Return placeholders for the values of an `IN (…)`."""
    return ",".join("?" * len(values))


class _Cursor(sqlite3.Cursor):
    """A cursor that raises `DamagedRecord` for damage that SQLite meets on a later row."""

    def __init__(self, database: Source, connection: sqlite3.Connection) -> None:
        super().__init__(connection)
        self._database = database

    def __next__(self) -> Any:
        with self._database.naming_errors():
            return super().__next__()

    def fetchall(self) -> list[Any]:
        with self._database.naming_errors():
            return super().fetchall()


class Source(Protocol):
    """A record that is read: one that is open, or the one of an archive."""

    folder: Path
    vectors: VectorFiles

    def connection(self) -> sqlite3.Connection:
        """Return this thread's connection."""

    def naming_errors(self) -> AbstractContextManager[None]:
        """Raise `DamagedRecord` for errors of a damaged file."""

    def damage(self, what: str) -> ServiceError:
        """Return the error for a part that is not as it was written."""


@dataclass
class Reader:
    """Reads the record: by a thread's own connection, or within a transaction."""

    database: Source
    _held: sqlite3.Connection | None = None

    def execute(self, statement: str, values: Sequence[Any] = ()) -> sqlite3.Cursor:
        """Run a statement whose columns are computed, such as a count.

        Raises:
            DamagedRecord: the file is damaged.
        """
        connection = self._held or self.database.connection()
        cursor = connection.cursor(functools.partial(_Cursor, self.database))
        with self.database.naming_errors():
            return cursor.execute(statement, values)

    def tuples(self, statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Run a statement for many rows, which are plain tuples: that takes half the time."""
        cursor = (self._held or self.database.connection()).cursor()
        cursor.row_factory = None
        with self.database.naming_errors():
            return cursor.execute(statement, values).fetchall()

    def value(self, statement: str, values: Sequence[Any] = ()) -> Any:
        """Return the first column of the first row; None where there is no row."""
        row = self.execute(statement, values).fetchone()
        return None if row is None else row[0]

    def rows(self, table: Table, rest: str = "", values: Sequence[Any] = ()) -> list[sqlite3.Row]:
        """Read rows of a table, each held against its checksum.

        Args:
            rest: what follows the table in the statement, such as `WHERE … ORDER BY …`; a joined
                table's rows are not checked.

        Raises:
            DamagedRecord: a row differs from its checksum.
        """
        return list(self.each(table, rest, values))

    def each(
        self, table: Table, rest: str = "", values: Sequence[Any] = ()
    ) -> Iterator[sqlite3.Row]:
        statement = f"SELECT {table.checked} FROM {table.name} {rest}"
        with self.database.naming_errors():
            for row in (self._held or self.database.connection()).execute(statement, values):
                if not row["intact"]:
                    raise self.database.damage(f"a row of {table.name} is not what was written")
                yield row

    def row(self, table: Table, rest: str = "", values: Sequence[Any] = ()) -> sqlite3.Row | None:
        return next(iter(self.rows(table, f"{rest} LIMIT 1", values)), None)


@dataclass
class Transaction(Reader):
    """Reads and changes the record for a rule.

    Attributes:
        notes: the changes that followers of the record learn.
        vectors: to be written, by gallery, side and dimension, then by slot.
        removes: something was deleted for good, and has to leave SQLite's log too.
        deleted: the ids of crops that no older copy of the record may bring back.
        earlier: the transactions of the same commit before this one; None for one that failed.
    """

    notes: list[Change] = field(default_factory=list)
    vectors: dict[tuple[int, int, int], dict[int, Vector]] = field(default_factory=dict)
    removes: bool = False
    deleted: list[str] = field(default_factory=list)
    earlier: Sequence[Transaction | None] = ()

    def change(self, statement: str, values: Sequence[Any] = ()) -> int:
        return self.execute(statement, values).rowcount

    def change_many(self, statement: str, rows: Iterable[Sequence[Any]]) -> None:
        with self.database.naming_errors():
            (self._held or self.database.connection()).executemany(statement, rows)

    def insert(self, table: Table, *rows: Mapping[str, Any], instead: bool = False) -> None:
        """Insert rows given as values by column.

        Args:
            instead: a row takes the place of one that has its key.
        """
        if rows:
            columns = ", ".join(rows[0])
            verb = "INSERT OR REPLACE" if instead else "INSERT"
            self.change_many(
                f"{verb} INTO {table.name} ({columns}) VALUES ({marks_of(list(rows[0]))})",
                [tuple(row.values()) for row in rows],
            )

    def unwritten_vectors(self, place: tuple[int, int, int]) -> dict[int, Vector]:
        """Return the vectors by slot that earlier rules of this commit have for a file."""
        vectors: dict[int, Vector] = {}
        for transaction in self.earlier:
            if transaction is not None:
                vectors.update(transaction.vectors.get(place, {}))
        return vectors

    def note(
        self, kind: ChangeKind, gallery_id: int = 0, version: int = 0, rows: Sequence[int] = ()
    ) -> None:
        self.notes.append(Change(0, kind, gallery_id, version, tuple(rows)))

    def write_vectors(
        self, gallery_id: int, side: int, vectors: Mapping[int, tuple[str, Vector]]
    ) -> None:
        """Write vectors `(d,)` by slot, each with its crop's id, to the disk before the commit."""
        rows = []
        for slot, (crop_id, vector) in vectors.items():
            self.vectors.setdefault((gallery_id, side, len(vector)), {})[slot] = vector
            values = {"gallery_id": gallery_id, "slot": slot, "side": side}
            rows.append(values | {"checksum": vector_crc(crop_id, vector)})
        self.insert(CHECKSUMS, *rows, instead=True)
