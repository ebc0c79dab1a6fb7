"""Records that are opened read-only."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from pathlib import Path

from service.ops.threads import heartbeat
from service.record.database import FILE, STEPS_PER_BEAT, Database, stored_uri
from service.record.schema import EARLIEST_FORMAT, missing_tables, row_crc
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
        connection = sqlite3.connect(
            stored_uri(self.path),
            uri=True,
            isolation_level=None,
            check_same_thread=False,
        )
        connection.row_factory = sqlite3.Row
        connection.create_function("row_crc", -1, row_crc, deterministic=True)
        connection.set_progress_handler(heartbeat, STEPS_PER_BEAT)
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
