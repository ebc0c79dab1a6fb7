"""Records that are opened read-only."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from pathlib import Path

from service.record.database import FILE, Database, open_connection, stored_uri
from service.record.schema import EARLIEST_FORMAT, missing_tables
from service.record.vectors import VectorFiles


class StoredRecord(Database):
    """A record opened read-only over one connection: a copy, or one that others may write."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / FILE
        self._log = folder / f"{FILE}-wal"
        self.vectors = VectorFiles(folder, only_read=True)
        self._connections_lock = threading.Lock()
        self._connections = []
        self._log_has_deleted = False
        self._connection = self._connect()

    def connection(self) -> sqlite3.Connection:
        return self._connection

    def close(self) -> None:
        self._connection.close()
        self.vectors.close()

    def _connect(self) -> sqlite3.Connection:
        _finish_rollback(self.path)
        connection = open_connection(stored_uri(self.path))
        # Code that reads the file reports the damage.
        with contextlib.suppress(sqlite3.DatabaseError):
            if connection.execute("PRAGMA user_version").fetchone()[0] >= EARLIEST_FORMAT:
                for table in missing_tables(connection):
                    table.create_stand_in(connection)
        return connection


def _finish_rollback(path: Path) -> None:
    """Roll back a transaction that was interrupted while an archive was closed.

    A read-only connection cannot do that.
    """
    if path.with_name(f"{path.name}-journal").exists() and os.access(path.parent, os.W_OK):
        with contextlib.closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA user_version")
