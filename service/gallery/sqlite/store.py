"""The store of record on SQLite, all of it."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from model.problems import InputProblem
from service.gallery.sqlite.calibrations import SqliteCalibrations
from service.gallery.sqlite.checksums import broken_indexes, changed_rows
from service.gallery.sqlite.crops import SqliteCrops
from service.gallery.sqlite.database import Database
from service.gallery.sqlite.galleries import SqliteGalleries
from service.gallery.sqlite.jobs import SqliteJobs
from service.gallery.sqlite.keys import SqliteKeys
from service.gallery.sqlite.runtimes import SqliteRuntimes
from service.gallery.sqlite.schema import migrate
from service.gallery.sqlite.snapshots import SqliteSnapshots
from service.gallery.sqlite.staged import SqliteStagedVectors
from service.high_water import SUFFIX, HighWaterMark
from service.problems import DamagedRecord

NAMED = 3


class SqliteStore:
    """Implements `RecordStore`.

    Raises:
        InputProblem: where the file is not a database that this program can use.
        DamagedRecord: where something that was acknowledged is not in it any more.
    """

    def __init__(self, path: Path) -> None:
        acknowledged = HighWaterMark(path.with_suffix(SUFFIX))
        number = acknowledged.read()
        if number and not (path.is_file() and path.stat().st_size):
            raise DamagedRecord(path, f"it is gone, and {number} commits were acknowledged")
        self._database = Database(path)
        # One process holds the file, and knows what it did.
        self.changes = None
        try:
            migrate(self._database.connection, path)
            held = self._database.connection.execute("SELECT number FROM commits").fetchone()[0]
            damage = [
                *broken_indexes(self._database.connection),
                *changed_rows(self._database.connection),
            ]
            if damage:
                raise DamagedRecord(path, "; ".join(damage[:NAMED]))
        except sqlite3.OperationalError as error:
            self.close()
            raise InputProblem(
                f"{path}: cannot be used as the galleries' database ({error}); make it readable "
                "and writable, see what is whole of it with gmn store verify --data-dir "
                f"{path.parent}, or name another directory with --data-dir"
            ) from error
        except (sqlite3.DatabaseError, TypeError) as error:
            self.close()
            raise DamagedRecord(path, str(error)) from error
        except BaseException:
            self.close()
            raise
        if held < number:
            self.close()
            raise DamagedRecord(
                path,
                f"it holds commits up to {held}, and {number} were acknowledged: its end "
                f"({path.name}-wal) was cut off or damaged, or an older copy was put back. To go "
                f"on with what it holds, remove {acknowledged.path.name}. Otherwise",
            )
        # A process that was killed may have left in it what it had deleted.
        self._database.empty_log()
        self.galleries = SqliteGalleries(self._database)
        self.crops = SqliteCrops(self._database)
        self.staged = SqliteStagedVectors(self._database)
        self.jobs = SqliteJobs(self._database)
        self.keys = SqliteKeys(self._database)
        self.runtimes = SqliteRuntimes(self._database)
        self.snapshots = SqliteSnapshots(self._database)
        self.calibrations = SqliteCalibrations(self._database)

    def close(self) -> None:
        """Closes every connection."""
        self._database.close()
