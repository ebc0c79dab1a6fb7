"""Connections to the SQLite file, and transactions that are durable once they are committed."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

from service.failpoints import Failpoint, passed
from service.gallery.sqlite.checksums import register
from service.gallery.sqlite.telling import TellingConnection
from service.gallery.stored_values import contains_text
from service.high_water import SUFFIX, HighWaterMark
from service.problems import StorageFailed
from service.pulse import beat

# FULL: a commit is on the disk, not in a cache, before it is acknowledged.
PRAGMAS = ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON", "secure_delete = ON")
COUNTED = "UPDATE commits SET number = number + 1 RETURNING number"

# Of SQLite's machine: some tenths of a second.
STEPS_PER_BEAT = 1_000_000


class Database:
    """One SQLite file; every thread gets a connection of its own."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._local = threading.local()
        self._opened: list[sqlite3.Connection] = []
        self._opening = threading.Lock()
        self._moments = 0
        self._log_is_to_be_emptied = False
        self._acknowledged = HighWaterMark(path.with_suffix(SUFFIX))

    @property
    def connection(self) -> sqlite3.Connection:
        """This thread's connection; every statement outside `transaction` commits by itself."""
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._open()
            self._local.connection = connection
        return connection

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Commits what the block writes, or nothing of it.

        Raises:
            StorageFailed: where the disk does not take it.
        """
        connection = self.connection
        try:
            connection.execute("BEGIN IMMEDIATE")
            yield connection
            passed(Failpoint.SQLITE__BEFORE_COMMIT)
            number = connection.execute(COUNTED).fetchone()[0]
            connection.execute("COMMIT")
        except sqlite3.OperationalError as error:
            _roll_back(connection)
            raise StorageFailed(
                f"the record store could not write ({error}); nothing was stored, free space in "
                "the data directory and send the request again"
            ) from error
        except BaseException:
            _roll_back(connection)
            raise
        self._acknowledged.note(number)

    @contextlib.contextmanager
    def moment(self) -> Iterator[sqlite3.Connection]:
        """A connection of its own that sees the file as it is now, whatever is written later."""
        with self._opening:
            self._moments += 1
        connection = self._open()
        try:
            connection.execute("BEGIN")
            yield connection
        finally:
            connection.close()
            with self._opening:
                self._opened.remove(connection)
                self._moments -= 1
                owed = self._log_is_to_be_emptied
            if owed:
                self.empty_log()

    def empty_log(self) -> None:
        """Overwrites the write-ahead log, which still holds pages with what was just deleted.

        A moment that somebody looks at is kept in the log: then it is emptied once that ends.
        """
        with self._opening:
            self._log_is_to_be_emptied = self._moments > 0
            if self._log_is_to_be_emptied:
                return
        with contextlib.suppress(sqlite3.OperationalError):
            self.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def close(self) -> None:
        """Closes every connection."""
        with self._opening:
            for connection in self._opened:
                connection.close()
            self._opened.clear()

    def _open(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self.path,
            isolation_level=None,
            check_same_thread=False,
            timeout=30.0,
            factory=TellingConnection,
        )
        with self._opening:
            self._opened.append(connection)
        # A statement over a large gallery may take minutes, which a disk that hangs looks like.
        connection.set_progress_handler(_get_on, STEPS_PER_BEAT)
        for pragma in PRAGMAS:
            connection.execute(f"PRAGMA {pragma}")
        register(connection)
        connection.create_function("contains_text", 2, contains_text, deterministic=True)
        return connection


def _get_on() -> int:
    beat()
    return 0


def _roll_back(connection: sqlite3.Connection) -> None:
    if connection.in_transaction:
        connection.execute("ROLLBACK")
