"""A connection that says by name which file is damaged, wherever SQLite comes upon it."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any, Self

from service.problems import DamagedRecord

UNREADABLE = "Could not decode"
CODES = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


class TellingCursor(sqlite3.Cursor):
    """Raises `DamagedRecord` in the place of what SQLite says of a damaged page or text."""

    def execute(self, *arguments: Any) -> Self:
        """As `sqlite3.Cursor` does."""
        try:
            super().execute(*arguments)
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
            _tell(self.connection, error)
            raise
        return self

    def __next__(self) -> Any:
        try:
            return super().__next__()
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
            _tell(self.connection, error)
            raise

    def fetchone(self) -> Any:
        """As `sqlite3.Cursor` does."""
        try:
            return super().fetchone()
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
            _tell(self.connection, error)
            raise

    def fetchall(self) -> list[Any]:
        """As `sqlite3.Cursor` does."""
        try:
            return super().fetchall()
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
            _tell(self.connection, error)
            raise


class TellingConnection(sqlite3.Connection):
    """Its cursors tell."""

    def execute(self, *arguments: Any) -> sqlite3.Cursor:
        """As `sqlite3.Connection` does."""
        return self.cursor(TellingCursor).execute(*arguments)


def _tell(connection: sqlite3.Connection, error: Exception) -> None:
    """Raises `DamagedRecord` where an error is one of a damaged file."""
    damaged = isinstance(error, UnicodeDecodeError) or UNREADABLE in str(error)
    if not damaged and getattr(error, "sqlite_errorcode", None) not in CODES:
        return
    place = sqlite3.Connection.execute(connection, "PRAGMA database_list").fetchone()[2]
    raise DamagedRecord(Path(place), str(error)) from error
