"""Connections to the record, and reads and changes over them."""

from __future__ import annotations

import contextlib
import itertools
import logging
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pydantic_core import from_json, to_json

from model.crops.texts import fold, nfc
from service.errors import DamagedRecord, ServiceError, ServiceStopping
from service.ops.threads import heartbeat
from service.record.schema import TABLES, as_moment, natural_order, row_crc
from service.record.spellings import Spellings, TextKind
from service.record.values import JsonObject, new_crop_id
from service.record.vectors import Vector, VectorFile, VectorFiles, vector_crc

log = logging.getLogger(__name__)
FILE = "record.sqlite3"
# Connections wait this long for a reader that recovers a log; writers wait for the lock file.
BUSY_SECONDS = 30.0
# Virtual machine instructions of SQLite between two heartbeats; they take tenths of a second.
STEPS_PER_BEAT = 1_000_000
NOT_A_DATABASE = (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT)
# A flipped bit can leave invalid UTF-8, which SQLite returns and Python refuses to decode, or JSON
# that SQLite cannot read.
UNREADABLE = (
    "could not decode",
    "user-defined function raised",
    "malformed json",
    "json cannot hold",
)
# Upper bound on the rows that a rule of a batch changes; each may have a picture of megabytes.
PICTURES_IN_BATCH = 10
# Beginnings of statements that overwrite no name, picture or note, but counts, times and states.
# They run with every enrollment, sighting or heartbeat.
COUNTING = (
    "UPDATE record ",
    "UPDATE galleries ",
    "UPDATE api_keys SET used_at ",
    "UPDATE cameras ",
    "UPDATE jobs SET state ",
    "UPDATE watch_trials ",
    "UPDATE webhooks SET dropped ",
    "INSERT OR REPLACE INTO camera_traffic ",
    "INSERT OR REPLACE INTO checksums ",
    "INSERT OR REPLACE INTO remote_indexes ",
    "INSERT OR REPLACE INTO requests ",
    "INSERT OR REPLACE INTO stray_pictures ",
    "INSERT OR REPLACE INTO tombstones ",
    "INSERT OR REPLACE INTO unneeded_files ",
    "INSERT OR REPLACE INTO watch_traffic ",
    "DELETE FROM requests ",
    "DELETE FROM stray_pictures ",
    "DELETE FROM counted_tracks ",
)
# Upper bound on the problems of a file that are kept for its operator.
MOST_PROBLEMS = 100
Item = TypeVar("Item")
# Subquery for `IN`: compares a column with the values of a collection.
AMONG = "(SELECT value FROM json_each(?))"
# Values of placeholders, in order or by name.
Values = Sequence[Any] | Mapping[str, Any]
# Columns by name, with times as datetimes and JSON but metadata parsed.
Row = dict[str, Any]
# Columns with these ends contain times.
TIMES = ("_at", "_seen", "_until")
# Columns of text that contain JSON.
JSON_COLUMNS = {
    "answer",
    "best",
    "cameras",
    "case_ids",
    "deleted_searches",
    "identities",
    "parameters",
    "progress",
    "promised",
    "request",
    "results",
    "settings",
}


def batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    remaining = iter(items)
    while batch := list(itertools.islice(remaining, size)):
        yield batch


def all_of(conditions: Mapping[str, Any]) -> tuple[str, list[Any]]:
    """Join the SQL conditions whose value is not None; return the text and these values."""
    given = {condition: value for condition, value in conditions.items() if value is not None}
    return " AND ".join(["TRUE", *given]), list(given.values())


def _as_json(value: Any) -> str:
    return to_json(value if isinstance(value, dict) else list(value)).decode()


# Statements take collections as values: each is one JSON text.
for kind in (dict, list, tuple, set, frozenset, range):
    sqlite3.register_adapter(kind, _as_json)
sqlite3.register_adapter(JsonObject, lambda stored: stored.text)


def _as_values(row: sqlite3.Row) -> Row:
    values = dict(row)
    if not values.get("intact", True):
        # Damaged values may not be times or JSON; the caller raises `DamagedRecord`.
        return values
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


class Source:
    """The SQLite file and the vector files of a record; each thread has its own connection.

    Attributes:
        damaged: the ids of crops that were found damaged and are left out of every answer, by
            gallery and slot; None for an id that cannot be read.
        problems: damage that was found beside them.
    """

    def __init__(self, folder: Path, only_read: bool = False) -> None:
        self.folder = folder
        self.path = folder / FILE
        self._log = folder / f"{FILE}-wal"
        self.vectors = VectorFiles(folder, only_read)
        self.spellings = Spellings()
        self.damaged: dict[tuple[int, int], str | None] = {}
        self.problems: list[str] = []
        self._local = threading.local()
        self._connections: list[sqlite3.Connection] = []
        self._connections_lock = threading.Lock()

    def connection(self) -> sqlite3.Connection:
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = self._connect()
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
            connection.execute("BEGIN")
        try:
            yield Reader(self)
        finally:
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

    @contextlib.contextmanager
    def naming_errors(self) -> Iterator[None]:
        """Raise `DamagedRecord` for errors by which SQLite reports a damaged file.

        Raises:
            ServiceStopping: `heartbeat` ended the statement, because the process stops.
        """
        try:
            yield
        except sqlite3.DatabaseError as error:
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF
            if code == sqlite3.SQLITE_INTERRUPT:
                raise ServiceStopping(
                    "the service is shutting down; nothing was stored, send the request again later"
                ) from error
            message = str(error)
            if code in NOT_A_DATABASE or message.lower().startswith(UNREADABLE):
                raise self.damage(message) from error
            raise
        except UnicodeDecodeError as error:
            # SQLite's own message quotes the text that could not be decoded.
            raise self.damage(error.object.decode(errors="replace")) from error

    def _connect(self, uri: str | None = None) -> sqlite3.Connection:
        connection = sqlite3.connect(
            uri or self.path,
            isolation_level=None,
            check_same_thread=False,
            timeout=BUSY_SECONDS,
            uri=True,
        )
        with self._connections_lock:
            self._connections.append(connection)
        connection.row_factory = sqlite3.Row
        connection.create_function("row_crc", -1, row_crc, deterministic=True)
        # Statements may compare texts that are NULL.
        connection.create_function("nfc", 1, lambda text: text and nfc(text), deterministic=True)
        connection.create_function("fold", 1, fold, deterministic=True)
        connection.create_function("natural_order", 1, natural_order, deterministic=True)
        connection.create_function("from_hex", 1, bytes.fromhex, deterministic=True)
        connection.create_function("new_id", 0, new_crop_id)
        # A statement over a large gallery may run for minutes, which looks like a hanging disk.
        connection.set_progress_handler(heartbeat, STEPS_PER_BEAT)
        return connection


@dataclass
class Reader:
    """Reads of the record over the thread's own connection, also within a transaction."""

    database: Source

    def execute(self, statement: str, values: Values = ()) -> list[Row]:
        """Run a statement with computed columns, such as a count, and return its rows.

        Raises:
            DamagedRecord: the file is damaged.
        """
        with self.database.naming_errors():
            rows = self.database.connection().execute(statement, values).fetchall()
        try:
            return [_as_values(row) for row in rows]
        except (OverflowError, ValueError) as error:
            # The checksums of rows behind a computed column are not verified.
            raise self.database.damage(
                f"a time or JSON is not what was written ({error})"
            ) from error

    def tuples(self, statement: str, values: Values = ()) -> list[tuple[Any, ...]]:
        """Return the rows of a statement as plain tuples, which is twice as fast for many rows."""
        cursor = self.database.connection().cursor()
        cursor.row_factory = None
        with self.database.naming_errors():
            return cursor.execute(statement, values).fetchall()

    def column(self, statement: str, values: Values = ()) -> list[Any]:
        return [value for (value,) in self.tuples(statement, values)]

    def value(self, statement: str, values: Values = ()) -> Any:
        """Return the first column of the first row, or None if there is no row."""
        rows = self.tuples(statement, values)
        return rows[0][0] if rows else None

    def rows(self, table: str, clauses: str = "", values: Values = (), more: str = "") -> list[Row]:
        """Read rows of a table and verify the checksum of each.

        Args:
            clauses: SQL after the table name, such as `WHERE … ORDER BY …`; rows of a joined table
                are not verified.
            more: further columns, each after a comma.

        Raises:
            DamagedRecord: a row does not match its checksum.
        """
        columns = TABLES[table].checked
        rows = self.execute(f"SELECT {columns}{more} FROM {table} {clauses}", values)
        if not all(row["intact"] for row in rows):
            raise self.database.damage(f"a row of {table} is not what was written")
        return rows

    def intact_rows(
        self, table: str, clauses: str = "", values: Values = (), more: str = ""
    ) -> list[Row]:
        """Read rows of a table, and note those that do not match their checksums as a problem."""
        statement = f"SELECT {TABLES[table].checked}{more} FROM {table} {clauses}"
        rows = self.execute(statement, values)
        intact = [row for row in rows if row["intact"]]
        if len(intact) < len(rows):
            self.database.note_problem(f"a row of {table} is not what was written")
        return intact

    def row(self, table: str, clauses: str = "", values: Values = ()) -> Row | None:
        return next(iter(self.rows(table, f"{clauses} LIMIT 1", values)), None)

    def spellings(self, gallery_id: int, kind: TextKind, texts: Iterable[str]) -> list[str]:
        """Return the Unicode forms in which a gallery may have stored texts, their NFC first."""
        return self.database.spellings.of(self.tuples, gallery_id, kind, texts)

    def newest_commit(self) -> int:
        for row in self.rows("record", "WHERE name = 'commit'"):
            return int(row["value"])
        raise self.database.damage("the number of its last commit is missing")

    def newest_change_of_alerts(self) -> int:
        """Return the number of the commit that last changed alerts or their deliveries."""
        statement = "SELECT value FROM record WHERE name = 'alerts_changed'"
        return int(self.value(statement) or 0)

    def newest_changes(self) -> dict[int, int]:
        """Return the number of the commit that last changed each gallery, by gallery."""
        statement = "SELECT gallery_id, changed FROM galleries WHERE name IS NOT NULL"
        return dict(self.tuples(statement))

    def newest_change_of(self, gallery_id: int) -> int | None:
        """Return the number of the commit that last changed a gallery; None if it is deleted."""
        statement = "SELECT changed FROM galleries WHERE gallery_id = ? AND name IS NOT NULL"
        changed: int | None = self.value(statement, (gallery_id,))
        return changed


class RunAlone(Exception):
    """A rule is too large for a batch, and has to be run by itself."""


@dataclass
class Transaction(Reader):
    """Reads and changes that a rule makes in the record.

    Attributes:
        commit: the number of its commit.
        unsynced: vector files to be synced before the commit.
        overwrites: rows were changed or deleted, whose former values SQLite's log may contain.
        dropped: gallery and side of vector files to be removed after the commit.
        in_batch: other rules are committed with this one.
    """

    commit: int = 0
    unsynced: set[VectorFile] = field(default_factory=set)
    overwrites: bool = False
    dropped: list[tuple[int, int]] = field(default_factory=list)
    in_batch: bool = False

    def limit_batch(self, pictures: int) -> None:
        """Raise `RunAlone` if a rule of a batch changes many rows that have pictures.

        The rule is then repeated by itself, since SQLite copies the pages that a rule of a batch
        changes, with all pictures, into memory.
        """
        if self.in_batch and pictures > PICTURES_IN_BATCH:
            raise RunAlone

    def change(self, statement: str, values: Values = ()) -> int:
        count = self.database.connection().execute(statement, values).rowcount
        self._note_overwriting(statement, count)
        return count

    def change_many(self, statement: str, rows: Iterable[Values]) -> None:
        count = self.database.connection().executemany(statement, rows).rowcount
        self._note_overwriting(statement, count)

    def tuples(self, statement: str, values: Values = ()) -> list[tuple[Any, ...]]:
        rows = super().tuples(statement, values)
        if "RETURNING" in statement:
            self._note_overwriting(statement, len(rows))
        return rows

    def _note_overwriting(self, statement: str, count: int) -> None:
        if count > 0 and not statement.lstrip().startswith(("INSERT INTO ", *COUNTING)):
            self.overwrites = True

    def insert(self, table: str, *rows: Mapping[str, Any], instead: bool = False) -> None:
        """Insert rows, given as mappings of column to value.

        Args:
            instead: replace the row that has the same key.
        """
        if rows:
            columns = ", ".join(rows[0])
            values = ", ".join(f":{name}" for name in rows[0])
            verb = "INSERT OR REPLACE" if instead else "INSERT"
            self.change_many(f"{verb} INTO {table} ({columns}) VALUES ({values})", rows)

    def add(self, other: Transaction) -> None:
        """Add the changes of another rule of the same commit."""
        self.unsynced |= other.unsynced
        self.overwrites |= other.overwrites
        self.dropped += other.dropped

    def note_alerts(self) -> None:
        """Have every process look for changed alerts and deliveries."""
        self.change(
            "INSERT INTO record (name, value) VALUES ('alerts_changed', ?1) "
            "ON CONFLICT DO UPDATE SET value = ?1",
            (self.commit,),
        )

    def note_unneeded(self, paths: Sequence[str]) -> None:
        """Note files of the data directory that nothing refers to any more, by relative path."""
        statement = "INSERT OR REPLACE INTO unneeded_files (path) SELECT value FROM json_each(?)"
        self.change(statement, (paths,))

    def write_vectors(
        self, gallery_id: int, side: int, vectors: Mapping[int, tuple[str, Vector]]
    ) -> None:
        """Write vectors `(d,)`, given by slot with their crop's id."""
        if not vectors:
            return
        self.change_many(
            "INSERT OR REPLACE INTO checksums (gallery_id, side, slot, checksum) "
            "VALUES (?, ?, ?, ?)",
            [(gallery_id, side, slot, vector_crc(*named)) for slot, named in vectors.items()],
        )
        by_slot = {slot: vector for slot, (_, vector) in vectors.items()}
        dimension = len(next(iter(by_slot.values())))
        file = self.database.vectors.open(gallery_id, side, dimension)
        file.write(by_slot)
        self.unsynced.add(file)
