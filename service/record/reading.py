"""Records that are opened read-only."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from pathlib import Path

from service.record.database import Database, stored_uri
from service.record.schema import EARLIEST_FORMAT, missing_tables
from service.record.transaction import Source


class StoredRecord(Database):
    """A record opened read-only: a copy, or one that others may write."""

    close = Source.close

    def __init__(self, folder: Path) -> None:
        Source.__init__(self, folder, only_read=True)
        self.connection()

    def overwrite_log(self) -> None:
        # The program that writes the record does this.
        pass

    def _connect(self, uri: str | None = None) -> sqlite3.Connection:
        _finish_rollback(self.path)
        connection = Source._connect(self, uri or stored_uri(self.path))
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
