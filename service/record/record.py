"""The record of everything: its parts over one database."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Collection
from pathlib import Path

from service.errors import DamagedRecord
from service.ops.threads import waiting
from service.record.calibrations import StoredCalibrations
from service.record.cameras import Cameras
from service.record.crops import Crops
from service.record.database import Database
from service.record.desk import KeptQueries, StoredCases
from service.record.files import Snapshots, StrayFiles, UnneededFiles
from service.record.galleries import Galleries, RemoteIndexes, Runtimes, deleted_name
from service.record.jobs import Jobs
from service.record.keys import Keys
from service.record.people import Groups, People
from service.record.replacing import StagedVectors
from service.record.schema import TABLES
from service.record.tracks import Tracks
from service.record.transaction import Reader
from service.record.watch import Watches
from service.record.webhooks import Webhooks

CROPS_PER_CHECK = 200


class Record:
    """The record of everything in a folder.

    Writes are durable when they return. Each write that changes a gallery's crops increments its
    version in the same commit. Any thread may read.
    """

    def __init__(self, folder: Path) -> None:
        database = Database(folder)
        self.database = database
        # The connection of a check of the pages that is under way.
        self._checking: sqlite3.Connection | None = None
        self.galleries = Galleries(database)
        self.crops = Crops(database)
        self.staged = StagedVectors(database)
        self.jobs = Jobs(database)
        self.keys = Keys(database)
        self.people = People(database)
        self.groups = Groups(database)
        self.tracks = Tracks(database)
        self.kept = KeptQueries(database)
        self.cases = StoredCases(database)
        self.watches = Watches(database)
        self.webhooks = Webhooks(database)
        self.cameras = Cameras(database)
        self.runtimes = Runtimes(database)
        self.snapshots = Snapshots(database)
        self.stray_files = StrayFiles(database)
        self.unneeded_files = UnneededFiles(database)
        self.calibrations = StoredCalibrations(database)
        self.remote_indexes = RemoteIndexes(database)
        deleted = database.deleted.read()
        statement = "SELECT 1 FROM tombstones WHERE crop_id = ?"
        if deleted and not Reader(database).value(statement, deleted[-1:]):
            # An older copy of the record was put in place.
            self.delete_again(deleted)
        self.galleries.finish_deletions()

    def check(self, pause: Callable[[], bool] = lambda: False) -> None:
        """Verify the checksums of all crops, and note the damaged ones in the database.

        Args:
            pause: called every few hundred crops; the check ends when it returns True.
        """
        for gallery in self.galleries.all():
            try:
                for number, _ in enumerate(self.crops.vectors(gallery.gallery_id)):
                    if number % CROPS_PER_CHECK == 0 and pause():
                        return
            except DamagedRecord as damage:
                self.database.note_problem(f"crops of gallery {gallery.name}: {damage.why}")

    def check_pages(self, pause: Callable[[], bool] = lambda: False) -> None:
        """Verify the pages of each table and its indexes, and note what is wrong in the database.

        Args:
            pause: called before each table; the check ends when it returns True.

        Raises:
            ServiceStopping: `end_check` was called.
        """
        self._checking = self.database.connection()
        try:
            for table in TABLES:
                if pause():
                    return
                for line in self._check_table(table):
                    if line != "ok":
                        self.database.note_problem(line)
        finally:
            self._checking = None

    def end_check(self) -> None:
        """Interrupt a check of the pages, which may take minutes; any thread may call this."""
        if (connection := self._checking) is not None:
            connection.interrupt()

    def _check_table(self, table: str) -> list[str]:
        try:
            # SQLite gives no heartbeat while it reads a table.
            with waiting():
                return Reader(self.database).column(f"PRAGMA quick_check({table})")
        except DamagedRecord as damage:
            return [damage.why]

    def damaged_crops(self) -> dict[int, list[str]]:
        """Return the damaged crops that were found and not deleted since, by gallery."""
        damaged: dict[int, list[str]] = {}
        statement = "SELECT 1 FROM crops WHERE gallery_id = ? AND slot = ?"
        for (gallery_id, slot), crop_id in list(self.database.damaged.items()):
            with contextlib.suppress(DamagedRecord):
                if not Reader(self.database).value(statement, (gallery_id, slot)):
                    continue
            damaged.setdefault(gallery_id, []).append(crop_id or f"in slot {slot}")
        return damaged

    def delete_again(self, deleted: Collection[str]) -> None:
        """Delete crops and galleries that were deleted before and that an older copy brought back.

        Args:
            deleted: ids of crops, and galleries as named by `deleted_name`.
        """
        for gallery in self.galleries.all():
            if deleted_name(gallery) in deleted:
                self.galleries.delete(gallery.gallery_id)
                continue
            self.crops.remove(gallery.gallery_id, deleted)

    def close(self) -> None:
        self.database.close()
