"""The record in a SQLite file: one table of keys and values."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from model.problems import InputProblem
from service.errors import DamagedRecord, ServiceError, StorageFailed
from service.ops.commit_mark import ACKNOWLEDGED_SUFFIX, LastCommitMark
from service.ops.failpoints import failpoint
from service.ops.health import heartbeat
from service.record.engine import Conflict, Scan, Transaction, another_format, batches
from service.record.picture_folder import PictureFolder

# FULL: a commit is on the disk, not in a cache, before it is acknowledged.
PRAGMAS = ("journal_mode = WAL", "synchronous = FULL", "secure_delete = ON")
TABLES = (
    "CREATE TABLE entries (key BLOB PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID",
    "CREATE TABLE commits (number INTEGER NOT NULL)",
    "INSERT INTO commits VALUES (0)",
)
PRIVATE_FILE = 0o600
# Of SQLite's machine: some tenths of a second.
STEPS_PER_BEAT = 1_000_000
BUSY_SECONDS = 30.0
LOG_BUSY_MS = 1000
KEYS_AT_ONCE = 500
KEYS_PER_BEAT = 10_000
# Where damage made a text of a key, it is sorted before all others.
ALL_KEYS = "SELECT CASE typeof(key) WHEN 'blob' THEN key END FROM entries"
NOT_A_DATABASE = (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT)


class SqliteEngine:
    """Implements `Engine` for one process, on a file.

    Raises:
        InputProblem: where the file is not a record that this program can use.
        DamagedRecord: where something that was acknowledged is not in it any more.
    """

    FORMAT = 7
    changes = None
    outside: PictureFolder | None = None

    def __init__(self, path: Path, only_read: bool = False) -> None:
        """Opens a file, and creates it where there is none.

        Args:
            path: of the file; beside it is noted up to which commit was acknowledged.
            only_read: nothing is written, also where something that was acknowledged is missing.
        """
        self.path = path
        self._only_read = only_read
        self._local = threading.local()
        self._opened: list[sqlite3.Connection] = []
        self._opening = threading.Lock()
        self._log_has_deleted = False
        self._moments = 0
        self._acknowledged = LastCommitMark(path.with_suffix(ACKNOWLEDGED_SUFFIX))
        number = 0 if only_read else self._acknowledged.read()[1]
        if number and not (path.is_file() and path.stat().st_size):
            raise DamagedRecord(path, f"it is gone, and {number} commits were acknowledged")
        if not only_read:
            # SQLite gives the files beside it the same rights. What is wrong is named below.
            with contextlib.suppress(OSError):
                path.touch(mode=PRIVATE_FILE)
                path.chmod(PRIVATE_FILE)
        try:
            held = self._create()
            if held < number:
                raise DamagedRecord(
                    path,
                    f"it holds commits up to {held}, and {number} were acknowledged: its end "
                    f"({path.name}-wal) was cut off or damaged, or an older copy was put back. To "
                    f"go on with what it holds, remove {self._acknowledged.path.name}. Otherwise",
                )
        except sqlite3.OperationalError as error:
            self.close()
            raise InputProblem(
                f"{path}: cannot be used as the galleries' database ({error}); make it readable "
                "and writable, see what is whole of it with gmn store verify --data-dir "
                f"{path.parent}, or name another directory with --data-dir"
            ) from error
        except BaseException:
            self.close()
            raise
        if not only_read:
            # A process that was killed may have left in the log what it had deleted.
            self._truncate_log()

    def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The values of keys, of one moment."""
        with self._transaction("BEGIN") as connection:
            return _values(connection, keys)

    def scan(self, scans: Sequence[Scan]) -> list[list[tuple[bytes, bytes]]]:
        """The keys and values of each range."""
        with self._transaction("BEGIN") as connection:
            return [
                connection.execute(
                    "SELECT key, value FROM entries WHERE key >= ? AND key < ? "
                    f"ORDER BY key {'DESC' if one.reverse else 'ASC'} LIMIT ?",
                    (one.start, one.end, one.limit),
                ).fetchall()
                for one in scans
            ]

    def commit(self, transaction: Transaction) -> None:
        """Makes a transaction's changes; they are on the disk when this returns."""
        puts = [item for item in sorted(transaction.puts.items()) if item[1] is not None]
        deletes = [(key,) for key, value in transaction.puts.items() if value is None]
        try:
            with self._transaction("BEGIN IMMEDIATE") as connection:
                if _values(connection, list(transaction.guards)) != list(
                    transaction.guards.values()
                ):
                    raise Conflict
                connection.executemany("INSERT OR REPLACE INTO entries VALUES (?, ?)", puts)
                connection.executemany("DELETE FROM entries WHERE key = ?", deletes)
                failpoint("sqlite.before-commit")
                number = connection.execute(
                    "UPDATE commits SET number = number + 1 RETURNING number"
                ).fetchone()[0]
        except sqlite3.OperationalError as error:
            raise StorageFailed(
                f"the record store could not write ({error}); nothing was stored, free space "
                "in the data directory and send the request again"
            ) from error
        self._acknowledged.note(number)
        if transaction.removes or self._log_has_deleted:
            self._truncate_log()

    def require_order(self, stopped: Callable[[], bool] = lambda: False) -> None:
        """Raises `DamagedRecord` for a key out of order; takes a second for 100,000 crops.

        Args:
            stopped: called now and then; ends this where it is true.
        """
        before = b""
        with self.moment() as held, held._transaction("BEGIN") as connection:
            for number, (own,) in enumerate(connection.execute(ALL_KEYS)):
                if not isinstance(own, bytes) or own <= before:
                    raise DamagedRecord(self.path, "its keys are not in order")
                if number % KEYS_PER_BEAT == 0:
                    heartbeat()
                    if stopped():
                        return
                before = own

    def page_problems(self, most: int) -> list[str]:
        """What SQLite finds wrong with the file's pages, up to so many lines."""
        rows = self._connection.execute(f"PRAGMA integrity_check({most})").fetchall()
        return [line.decode() for (line,) in rows if line != b"ok"]

    def damage(self, what: str) -> ServiceError:
        """The error for something that is not what was written."""
        return DamagedRecord(self.path, what)

    def require_same(self) -> None:
        """A file stays the same one while it is open."""

    def stored_bytes(self) -> int:
        """Bytes of the file and its log."""
        log = self.path.with_name(f"{self.path.name}-wal")
        return sum(one.stat().st_size for one in (self.path, log) if one.exists())

    def now_ms(self) -> int:
        """This machine's clock, in milliseconds."""
        return time.time_ns() // 1_000_000

    @contextlib.contextmanager
    def moment(self) -> Iterator[SqliteEngine]:
        """The record as it is now; what is deleted meanwhile leaves the log once this has ended."""
        held = SqliteEngine(self.path, only_read=True)
        held.outside = self.outside
        with self._opening:
            self._moments += 1
        try:
            with held._transaction("BEGIN"):
                yield held
        finally:
            held.close()
            with self._opening:
                self._moments -= 1
            if self._log_has_deleted:
                self._truncate_log()

    def copy_to(self, path: Path) -> None:
        """Copies the file as it is at this moment into a new one, which has no log beside it."""
        path.touch(mode=PRIVATE_FILE)
        try:
            with self.moment() as held, contextlib.closing(sqlite3.connect(path)) as copy:
                held._connection.backup(copy)
                copy.execute("PRAGMA journal_mode = DELETE")
        except sqlite3.OperationalError as error:
            raise StorageFailed(f"the record could not be copied to {path} ({error})") from error

    def leave_no_log(self) -> None:
        """Makes the file whole without one beside it; this process alone has it open."""
        self._connection.execute("PRAGMA journal_mode = DELETE")
        self._acknowledged.clear()

    def close(self) -> None:
        """Closes every connection."""
        with self._opening:
            for connection in self._opened:
                connection.close()
            self._opened.clear()

    @property
    def _connection(self) -> sqlite3.Connection:
        """This thread's connection."""
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = sqlite3.connect(
                f"{self.path.resolve().as_uri()}?mode={'ro' if self._only_read else 'rwc'}",
                uri=True,
                isolation_level=None,
                check_same_thread=False,
                timeout=BUSY_SECONDS,
            )
            with self._opening:
                self._opened.append(connection)
            # Damage may make a text of bytes, which are then refused by their checksum.
            connection.text_factory = bytes
            # A statement over a large gallery may take minutes, which a hanging disk looks like.
            connection.set_progress_handler(heartbeat, STEPS_PER_BEAT)
            for pragma in () if self._only_read else PRAGMAS:
                connection.execute(f"PRAGMA {pragma}")
            self._local.connection = connection
        return connection

    def _create(self) -> int:
        """Makes the tables where there are none; answers how many commits they hold."""
        with self._transaction("BEGIN") as connection:
            version = int(connection.execute("PRAGMA user_version").fetchone()[0])
            if version == 0 and not self._only_read:
                for statement in (*TABLES, f"PRAGMA user_version = {self.FORMAT}"):
                    connection.execute(statement)
            elif version != self.FORMAT:
                raise another_format(str(self.path), version, self.FORMAT)
            return int(connection.execute("SELECT number FROM commits").fetchone()[0])

    @contextlib.contextmanager
    def _transaction(self, begin: str) -> Iterator[sqlite3.Connection]:
        """One moment, committed whole or not at all; raises `DamagedRecord` for a damaged file."""
        try:
            connection = self._connection
            if connection.in_transaction:
                # Of a moment.
                yield connection
                return
            try:
                connection.execute(begin)
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
        except sqlite3.DatabaseError as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF in NOT_A_DATABASE:
                raise DamagedRecord(self.path, str(error)) from error
            raise

    def _truncate_log(self) -> None:
        """Overwrites the write-ahead log, which still holds pages with what was just deleted.

        Another process that reads an earlier moment prevents it; the next commit tries again.
        """
        self._log_has_deleted = True
        if self._moments:
            return
        with contextlib.suppress(sqlite3.OperationalError):
            # A backup by another process may read for minutes, and no deletion waits for its log.
            self._connection.execute(f"PRAGMA busy_timeout = {LOG_BUSY_MS}")
            busy = self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
            self._log_has_deleted = bool(busy)
        self._connection.execute(f"PRAGMA busy_timeout = {int(BUSY_SECONDS * 1000)}")


def _values(connection: sqlite3.Connection, keys: Sequence[bytes]) -> list[bytes | None]:
    found: dict[bytes, bytes] = {}
    for part in batches(keys, KEYS_AT_ONCE):
        marks = ",".join("?" * len(part))
        found |= connection.execute(
            f"SELECT key, value FROM entries WHERE key IN ({marks})", part
        ).fetchall()
    return [found.get(key) for key in keys]
