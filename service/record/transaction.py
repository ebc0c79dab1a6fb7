"""Reads and changes of the record within one transaction."""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

from pydantic_core import to_json

from service.errors import ServiceError
from service.record.schema import CHECKSUMS, Table, as_moment
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
    "alerts",
]

# Subquery for `IN`: compares a column with many values, passed as one JSON text by `as_json`.
AMONG = "(SELECT value FROM json_each(?))"
# Columns with these ends contain times.
TIMES = ("_at", "_seen", "_until")


@dataclass(frozen=True)
class Change:
    """One committed change.

    Attributes:
        sequence: number in the gallery's feed; 0 until it is committed.
        kind: what happened. `replaced` is a restore or reindex, after which every crop must be
            read again. `gallery_changed` is a change of settings, embedder or staged vectors.
        gallery_id: the gallery; 0 for none.
        version: version of the gallery after the change.
        row_ids: slots of the changed crops, which may since have changed again or been removed;
            for `replaced`, slots of the removed crops.
        token: random bytes that tell this feed from the feed of another copy of the record.
    """

    sequence: int
    kind: ChangeKind
    gallery_id: int
    version: int
    row_ids: tuple[int, ...] = ()
    token: bytes = b""


def batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    remaining = iter(items)
    while batch := list(itertools.islice(remaining, size)):
        yield batch


def all_of(conditions: Mapping[str, Any]) -> tuple[str, list[Any]]:
    """Return the SQL condition that joins those with a value other than None, and the values."""
    asked = {condition: value for condition, value in conditions.items() if value is not None}
    return " AND ".join(["TRUE", *asked]), list(asked.values())


def as_json(values: Iterable[str | int]) -> str:
    """Return values as the JSON text that `AMONG` takes as its parameter."""
    return to_json(list(values)).decode()


def marks_of(values: Sequence[object]) -> str:
    """Return one placeholder for each value of an `IN (…)`."""
    return ",".join("?" * len(values))


class Source(Protocol):
    """A record that can be read: the open one, or the one of an archive."""

    folder: Path
    vectors: VectorFiles

    def connection(self) -> sqlite3.Connection:
        """Return this thread's connection."""

    def naming_errors(self) -> AbstractContextManager[None]:
        """Raise `DamagedRecord` for SQLite errors caused by a damaged file."""

    def damage(self, what: str) -> ServiceError:
        """Return the error for a part that differs from what was written."""


@dataclass
class Reader:
    """Reads of the record over the thread's own connection, also within a transaction."""

    database: Source

    def execute(self, statement: str, values: Sequence[Any] = ()) -> list[sqlite3.Row]:
        """Run a statement with computed columns, such as a count, and return its rows.

        Raises:
            DamagedRecord: the file is damaged.
        """
        with self.database.naming_errors():
            return self.database.connection().execute(statement, values).fetchall()

    def tuples(self, statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Return the rows of a statement as plain tuples, which is twice as fast for many rows."""
        cursor = self.database.connection().cursor()
        cursor.row_factory = None
        with self.database.naming_errors():
            return cursor.execute(statement, values).fetchall()

    def value(self, statement: str, values: Sequence[Any] = ()) -> Any:
        """Return the first column of the first row, or None if there is no row."""
        rows = self.execute(statement, values)
        return rows[0][0] if rows else None

    def rows(
        self, table: Table, clauses: str = "", values: Sequence[Any] = ()
    ) -> list[sqlite3.Row]:
        """Read rows of a table and verify the checksum of each.

        Args:
            clauses: what follows the table name, such as `WHERE … ORDER BY …`; rows of a joined
                table are not verified.

        Raises:
            DamagedRecord: a row does not match its checksum.
        """
        rows = self.execute(f"SELECT {table.checked} FROM {table.name} {clauses}", values)
        if not all(row["intact"] for row in rows):
            raise self.database.damage(f"a row of {table.name} is not what was written")
        return rows

    def row(
        self, table: Table, clauses: str = "", values: Sequence[Any] = ()
    ) -> sqlite3.Row | None:
        return next(iter(self.rows(table, f"{clauses} LIMIT 1", values)), None)

    def joined(
        self, table: Table, key: str, more: str, clauses: str, values: Sequence[Any] = ()
    ) -> list[dict[str, Any]]:
        """Read rows as in `rows`, and add further columns to each; rows without any are left out.

        Times are returned as datetimes.

        Args:
            key: column whose value is in both queries.
            more: query of the further columns and the key, up to its `WHERE …`, to which a
                condition on the key is added.
        """
        rows = self.rows(table, clauses, values)
        added = self.execute(f"{more} AND {key} IN {AMONG}", [as_json(row[key] for row in rows)])
        found = {row[key]: row for row in added}
        joined = [{**row, **found[row[key]]} for row in rows if row[key] in found]
        for row in joined:
            times = [name for name in row if name.endswith(TIMES)]
            row.update({name: as_moment(row[name]) for name in times})
        return joined


@dataclass
class Transaction(Reader):
    """Reads and changes that a rule makes in the record.

    Attributes:
        notes: changes to announce to the followers of the record.
        vectors: vectors to write, by (gallery, side, dimension), then by slot.
        removes: something was deleted for good and must be wiped from SQLite's log too.
        deleted: ids of crops that no older copy of the record may bring back.
        earlier: the preceding transactions of the same commit; None for a failed rule.
    """

    notes: list[Change] = field(default_factory=list)
    vectors: dict[tuple[int, int, int], dict[int, Vector]] = field(default_factory=dict)
    removes: bool = False
    deleted: list[str] = field(default_factory=list)
    earlier: Sequence[Transaction | None] = ()

    def change(self, statement: str, values: Sequence[Any] = ()) -> int:
        with self.database.naming_errors():
            return self.database.connection().execute(statement, values).rowcount

    def change_many(self, statement: str, rows: Iterable[Sequence[Any]]) -> None:
        with self.database.naming_errors():
            self.database.connection().executemany(statement, rows)

    def insert(self, table: Table, *rows: Mapping[str, Any], instead: bool = False) -> None:
        """Insert rows, given as mappings of column to value.

        Args:
            instead: replace the row that has the same key.
        """
        if rows:
            columns = ", ".join(rows[0])
            verb = "INSERT OR REPLACE" if instead else "INSERT"
            self.change_many(
                f"{verb} INTO {table.name} ({columns}) VALUES ({marks_of(list(rows[0]))})",
                [tuple(row.values()) for row in rows],
            )

    def unwritten_vectors(self, place: tuple[int, int, int]) -> dict[int, Vector]:
        """Return vectors by slot that earlier rules of this commit will write to a file."""
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
        """Write vectors `(d,)`, given by slot with their crop's id, to disk before the commit."""
        rows = []
        for slot, (crop_id, vector) in vectors.items():
            self.vectors.setdefault((gallery_id, side, len(vector)), {})[slot] = vector
            values = {"gallery_id": gallery_id, "slot": slot, "side": side}
            rows.append(values | {"checksum": vector_crc(crop_id, vector)})
        self.insert(CHECKSUMS, *rows, instead=True)
