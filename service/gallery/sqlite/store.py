"""The store of record on SQLite, all of it."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from model.problems import InputProblem
from service.gallery.sqlite.crops import SqliteCrops
from service.gallery.sqlite.database import Database
from service.gallery.sqlite.galleries import SqliteGalleries
from service.gallery.sqlite.jobs import SqliteJobs
from service.gallery.sqlite.keys import SqliteKeys
from service.gallery.sqlite.schema import migrate
from service.gallery.sqlite.snapshots import SqliteSnapshots
from service.gallery.sqlite.staged import SqliteStagedVectors


class SqliteStore:
    """Implements `RecordStore`.

    Raises:
        InputProblem: where the file is not a database that this program can use.
    """

    def __init__(self, path: Path) -> None:
        self._database = Database(path)
        # One process holds the file, and knows what it did.
        self.changes = None
        try:
            migrate(self._database.connection, path)
            # A process that was killed may have left in it what it had deleted.
            self._database.empty_log()
        except sqlite3.Error as error:
            self.close()
            raise InputProblem(
                f"{path}: cannot be used as the galleries' database ({error}); restore it from a "
                "copy, or name another directory with --data-dir"
            ) from error
        self.galleries = SqliteGalleries(self._database)
        self.crops = SqliteCrops(self._database)
        self.staged = SqliteStagedVectors(self._database)
        self.jobs = SqliteJobs(self._database)
        self.keys = SqliteKeys(self._database)
        self.snapshots = SqliteSnapshots(self._database)

    def close(self) -> None:
        """Closes every connection."""
        self._database.close()
