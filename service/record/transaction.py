"""Connections to the record, and reads and changes over them."""

from __future__ import annotations

import contextlib
import itertools
import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
from pydantic_core import from_json

from service.errors import DamagedRecord, ServiceError
from service.record.dialect import Dialect
from service.record.schema import TABLES, StoredRow, as_moment
from service.record.values import JsonObject
from service.record.vectors import Vector, VectorFile, VectorFiles, vector_crc

log = logging.getLogger(__name__)
FILE = "record.sqlite3"
# Upper bound on the problems of a file that are kept for its operator.
MOST_PROBLEMS = 100
Item = TypeVar("Item")
# Values of placeholders, in order or by name.
Values = Sequence[Any] | Mapping[str, Any]
# Columns by name, with times as datetimes and JSON but metadata parsed.
Row = dict[str, Any]
# Columns with these ends contain times.
TIMES = ("_at", "_seen", "_until")
# Columns of text that contain JSON.
JSON_COLUMNS = {
    "answer",
    "box",
    "cameras",
    "identities",
    "parameters",
    "progress",
    "promised",
    "request",
    "settings",
    "visits",
    "zones",
}


def batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    remaining = iter(items)
    while batch := list(itertools.islice(remaining, size)):
        yield batch


def all_of(conditions: Mapping[str, Any]) -> tuple[str, list[Any]]:
    """Join the SQL conditions whose value is not None; return the text and these values."""
    given = {condition: value for condition, value in conditions.items() if value is not None}
    return " AND ".join(["TRUE", *given]), list(given.values())


def _as_values(row: StoredRow) -> Row:
    values = dict(row)
    for name, value in values.items():
        if value is not None and name.endswith(TIMES):
            values[name] = as_moment(value)
        elif isinstance(value, str) and name in JSON_COLUMNS:
            values[name] = from_json(value)
        elif value is not None and name == "metadata":
            values[name] = JsonObject(value)
    return values


def settings_of(names: Iterable[str]) -> str:
    return ", ".join(f"{name} = :{name}" for name in names)


def upsert(table: str, columns: Iterable[str], source: str, setting: str | None = None) -> str:
    """Return a statement that inserts rows, or changes those that have the same primary key.

    Args:
        source: `VALUES (…)`, or a query with a `WHERE`: without it SQLite takes `ON` for a join's.
        setting: assignments to the present row, whose columns must be qualified by the table;
            None replaces the given columns.
    """
    names = list(columns)
    key = TABLES[table].key
    if setting is None:
        setting = ", ".join(f"{name} = excluded.{name}" for name in names if name not in key)
    action = f"UPDATE SET {setting}" if setting else "NOTHING"
    return (
        f"INSERT INTO {table} ({', '.join(names)}) {source} "
        f"ON CONFLICT ({', '.join(key)}) DO {action}"
    )


class Changed(Protocol):
    """The number of rows that a statement changed."""

    @property
    def rowcount(self) -> int: ...


class Cursor(Changed, Protocol):
    """The rows of a statement."""

    def fetchall(self) -> list[Any]: ...

    def fetchone(self) -> Any: ...

    def __iter__(self) -> Iterator[Any]: ...


class Connection(Protocol):
    """A connection of one thread to the record, as every engine has one."""

    @property
    def in_transaction(self) -> bool: ...

    @property
    def total_changes(self) -> int: ...

    def execute(self, statement: str, values: Any = ..., /) -> Cursor: ...

    def executemany(self, statement: str, rows: Any, /) -> Changed: ...

    def interrupt(self) -> None: ...

    def close(self) -> None: ...


class Source(ABC):
    """The tables and the vector files of a record; each thread has its own connection.

    Attributes:
        dialect: how the engine writes what engines write differently.
        path: the record, as messages about it name it.
        damaged: the ids of crops that were found damaged and are left out of every answer, by
            gallery and slot; None for an id that cannot be read.
        problems: damage that was found beside them.
    """

    dialect: Dialect
    # Begins a transaction that only reads.
    BEGIN = "BEGIN"
    # Rules of slices, which remove in the same commit what they keep of deleted crops. They take
    # the transaction, the gallery and the ids of the crops.
    removal_rules: Sequence[Callable[[Transaction, int, Sequence[str]], None]] = ()

    def __init__(self, folder: Path, only_read: bool = False) -> None:
        self.folder = folder
        self.path = folder / FILE
        self.vectors: VectorFiles = VectorFiles(folder, only_read)
        self.damaged: dict[tuple[int, int], str | None] = {}
        self.problems: list[str] = []
        self._local = threading.local()
        self._connections: list[Connection] = []
        self._connections_lock = threading.Lock()

    def connection(self) -> Connection:
        """Return the connection of this thread."""
        connection: Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = self._open_connection()
        return connection

    def close_connection(self) -> None:
        """Close this thread's connection; call it before the thread ends."""
        connection = getattr(self._local, "connection", None)
        if connection is not None:
            self._local.connection = None
            with self._connections_lock:
                self._connections.remove(connection)
            connection.close()

    def close(self) -> None:
        with self._connections_lock:
            for connection in self._connections:
                connection.close()
            self._connections.clear()
        self.vectors.close()

    @contextlib.contextmanager
    def read(self) -> Iterator[Reader]:
        """Read a consistent state of the record while others may write it."""
        connection = self.connection()
        if connection.in_transaction:
            yield Reader(self)
            return
        with self.naming_errors():
            connection.execute(self.BEGIN)
        try:
            yield Reader(self)
        finally:
            with self.naming_errors():
                connection.execute("ROLLBACK")

    def leave_out(self, gallery_id: int, slot: int, crop_id: str | None, what: str) -> None:
        """Leave a damaged crop out of every later answer of this process."""
        if (gallery_id, slot) not in self.damaged:
            self.damaged[gallery_id, slot] = crop_id
            log.error(
                "the %s of crop %s (gallery %d, slot %d) is damaged; it is left out",
                *(what, crop_id, gallery_id, slot),
            )

    def note_problem(self, problem: str) -> None:
        if problem not in self.problems and len(self.problems) < MOST_PROBLEMS:
            self.problems.append(problem)
            log.error("%s is damaged: %s", self.path, problem)

    def damage(self, what: str) -> ServiceError:
        return DamagedRecord(self.path, what)

    @abstractmethod
    def naming_errors(self) -> AbstractContextManager[None]:
        """Raise the engine's errors as those of the service.

        Raises:
            DamagedRecord: the record is damaged.
            ServiceStopping: the statement was ended, because the process stops.
        """

    @abstractmethod
    def fetch_tuples(self, statement: str, values: Values = ()) -> list[tuple[Any, ...]]:
        """Return the rows of a statement as plain tuples."""

    def fetch_columns(
        self, names: Sequence[str], query: str, values: Values = ()
    ) -> list[list[Any]]:
        """Return each column of a query as a list."""
        # Python parses one JSON array in a third of the time needed for rows.
        arrays = ", ".join(self.dialect.gathered(name) for name in names)
        (texts,) = self.fetch_tuples(f"SELECT {arrays} FROM ({query}) AS part", values)
        return [from_json(text) for text in texts]

    def _open_connection(self) -> Connection:
        """Return a connection that is closed with the others."""
        connection = self._connect()
        with self._connections_lock:
            self._connections.append(connection)
        return connection

    @abstractmethod
    def _connect(self) -> Connection: ...


@dataclass
class Reader:
    """Reads of the record over the thread's own connection, also within a transaction."""

    database: Source

    @property
    def dialect(self) -> Dialect:
        return self.database.dialect

    def execute(self, statement: str, values: Values = ()) -> list[Row]:
        """Run a statement with computed columns, such as a count, and return its rows.

        Raises:
            DamagedRecord: the file is damaged.
        """
        return self.as_values(self.stored(statement, values))

    def stored(self, statement: str, values: Values = ()) -> list[StoredRow]:
        """Run a statement and return its rows as they are stored."""
        with self.database.naming_errors():
            return self.database.connection().execute(statement, values).fetchall()

    def as_values(self, rows: Iterable[StoredRow]) -> list[Row]:
        """Convert the times and JSON of rows; raises `DamagedRecord` if they are none."""
        try:
            return [_as_values(row) for row in rows]
        except (OverflowError, ValueError) as error:
            raise self.database.damage(
                f"a time or JSON is not what was written ({error})"
            ) from error

    def tuples(self, statement: str, values: Values = ()) -> list[tuple[Any, ...]]:
        """Return the rows of a statement as plain tuples, which is twice as fast for many rows."""
        with self.database.naming_errors():
            return self.database.fetch_tuples(statement, values)

    def columns(self, names: Sequence[str], query: str, values: Values = ()) -> list[list[Any]]:
        """Return each column of a query as a list."""
        with self.database.naming_errors():
            return self.database.fetch_columns(names, query, values)

    def column(self, statement: str, values: Values = ()) -> list[Any]:
        return [value for (value,) in self.tuples(statement, values)]

    def value(self, statement: str, values: Values = ()) -> Any:
        """Return the first column of the first row, or None if there is no row."""
        rows = self.tuples(statement, values)
        return rows[0][0] if rows else None

    def rows(self, table: str, clauses: str = "", values: Values = (), more: str = "") -> list[Row]:
        """Read rows of a table.

        Args:
            clauses: SQL after the table name, such as `WHERE … ORDER BY …`.
            more: further columns, each after a comma.

        Raises:
            DamagedRecord: a time or JSON of a row is none.
        """
        columns = TABLES[table].selection
        return self.execute(f"SELECT {columns}{more} FROM {table} {clauses}", values)

    def row(self, table: str, clauses: str = "", values: Values = ()) -> Row | None:
        return next(iter(self.rows(table, f"{clauses} LIMIT 1", values)), None)

    def newest_commit(self) -> int:
        for row in self.rows("record", "WHERE name = 'commit'"):
            return int(row["value"])
        raise self.database.damage("the number of its last commit is missing")

    def newest_changes(self) -> dict[int, int]:
        """Return the number of the commit that last changed each gallery, by gallery."""
        statement = "SELECT gallery_id, changed FROM galleries WHERE name IS NOT NULL"
        return dict(self.tuples(statement))

    def newest_change_of(self, gallery_id: int) -> int | None:
        """Return the number of the commit that last changed a gallery; None if it is deleted."""
        statement = "SELECT changed FROM galleries WHERE gallery_id = ? AND name IS NOT NULL"
        changed: int | None = self.value(statement, (gallery_id,))
        return changed


@dataclass
class Transaction(Reader):
    """Reads and changes that a rule makes in the record.

    Attributes:
        commit: the number of its commit.
        unsynced: vector files to be synced before the commit.
        overwrites: rows were changed or deleted, whose former values SQLite's log may contain.
        dropped: gallery and generation of vector files to be removed after the commit.
    """

    commit: int = 0
    unsynced: set[VectorFile] = field(default_factory=set)
    overwrites: bool = False
    dropped: list[tuple[int, int]] = field(default_factory=list)

    def change(self, statement: str, values: Values = (), is_private: bool = True) -> int:
        """Run a statement that changes rows, and return their number.

        Args:
            is_private: the former values may be names, pictures or notes, which leave SQLite's log
                with the commit. Counts, times and states may stay there for a while, which spares
                each enrollment, sighting and heartbeat a sync of the disk.
        """
        count = self.database.connection().execute(statement, values).rowcount
        self.overwrites |= is_private and count > 0
        return count

    def change_many(self, statement: str, rows: Iterable[Values], is_private: bool = True) -> None:
        """Run a statement for each of several rows of values; `is_private` as for `change`."""
        cursor = self.database.connection().executemany(statement, rows)
        # An engine may send the rows with a later statement, unless it is asked for their number.
        if is_private and cursor.rowcount > 0:
            self.overwrites = True

    def change_returning(
        self, statement: str, values: Values = (), is_private: bool = True
    ) -> list[tuple[Any, ...]]:
        """Run a statement with `RETURNING`, and return its rows; `is_private` as for `change`."""
        rows = self.tuples(statement, values)
        self.overwrites |= is_private and bool(rows)
        return rows

    def insert(
        self,
        table: str,
        *rows: Mapping[str, Any],
        instead: bool = False,
        is_private: bool = True,
    ) -> None:
        """Insert rows, given as mappings of column to value.

        Args:
            instead: replace these columns of the row that has the same primary key.
            is_private: as for `change`, of the replaced values.
        """
        if not rows:
            return
        columns = list(rows[0])
        source = f"VALUES ({', '.join(f':{name}' for name in columns)})"
        statement = f"INSERT INTO {table} ({', '.join(columns)}) {source}"
        if instead:
            statement = upsert(table, columns, source)
        self.change_many(statement, rows, is_private=instead and is_private)

    def note_unneeded(self, paths: Sequence[str]) -> None:
        """Note files of the data directory that nothing refers to any more, by relative path."""
        self.insert("unneeded_files", *({"path": path} for path in paths), instead=True)

    def write_vectors(
        self, gallery_id: int, generation: int, vectors: Mapping[int, tuple[str, Vector]]
    ) -> None:
        """Write vectors `(d,)`, given by slot with their crop's id."""
        if not vectors:
            return
        rows: list[Row] = [
            {
                "gallery_id": gallery_id,
                "generation": generation,
                "slot": slot,
                "checksum": vector_crc(*named),
            }
            for slot, named in vectors.items()
        ]
        by_slot = {slot: vector for slot, (_, vector) in vectors.items()}
        dimension = len(next(iter(by_slot.values())))
        file = self.database.vectors.open(gallery_id, generation, dimension)
        if file.is_copy:
            for row, vector in zip(rows, by_slot.values(), strict=True):
                row["content"] = np.asarray(vector, "<f4").tobytes()
        else:
            file.write(by_slot)
            self.unsynced.add(file)
        self.insert("checksums", *rows, instead=True, is_private=False)
