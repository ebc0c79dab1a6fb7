"""The record of everything: its parts over one database."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from service.errors import DamagedRecord
from service.record.calibrations import StoredCalibrations
from service.record.crops import Crops
from service.record.database import Database
from service.record.deleted_rows import DeleteRows, rows_of
from service.record.deletions import newest_number, read_deletions
from service.record.files import StrayFiles, UnneededFiles
from service.record.galleries import Galleries, Runtimes
from service.record.jobs import Jobs
from service.record.keys import Keys, ask_for_keys, delete_keys
from service.record.people import People
from service.record.replacing import StagedVectors
from service.record.schema import TABLES
from service.record.tracks import Tracks
from service.record.transaction import Connection, Reader, Transaction, batches

CROPS_PER_CHECK = 200
DELETIONS_AT_ONCE = 10_000
# Kinds of lines of the log besides those of `DELETED_ROWS`.
OTHER_KINDS = frozenset({"since", "crop", "gallery", "key", "secret", "keyless"})
DELETED_ROWS: Mapping[str, DeleteRows] = {
    "merge": rows_of("merges", "merge_id"),
    "job": rows_of("jobs", "job_id"),
}


class Record:
    """The galleries, crops, keys and jobs of a data directory.

    Writes are durable when they return. Each write that changes a gallery's crops increments its
    version in the same commit. Any thread may read.

    Args:
        deleted_rows: what deletes rows of the slices' tables, by the kinds of their deletions.
    """

    def __init__(self, database: Database, deleted_rows: Mapping[str, DeleteRows]) -> None:
        self.database = database
        self._deleted_rows = {**DELETED_ROWS, **deleted_rows}
        # The connection of a check of the pages that is under way.
        self._checking: Connection | None = None
        self.galleries = Galleries(database)
        self.crops = Crops(database)
        self.staged = StagedVectors(database)
        self.jobs = Jobs(database)
        self.keys = Keys(database)
        self.people = People(database)
        self.tracks = Tracks(database)
        self.runtimes = Runtimes(database)
        self.stray_files = StrayFiles(database)
        self.unneeded_files = UnneededFiles(database)
        self.calibrations = StoredCalibrations(database)
        if (known := database.unapplied_after) is not None:
            self.apply_log(database.deletions.path, known)
        self.galleries.finish_deletions()

    @property
    def deletion_kinds(self) -> frozenset[str]:
        """The kinds that a line of the log of deletions may have."""
        return OTHER_KINDS | self._deleted_rows.keys()

    def check(self, pause: Callable[[], bool] = lambda: False) -> None:
        """Verify the vectors of all crops, and note the damaged crops in the database.

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
        """Verify the pages of each table and its indexes, and note damage in the database.

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
            return self.database.check_pages(table)
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

    def apply_log(self, log: Path, known: int) -> None:
        """Delete again what an older state brought back.

        Args:
            log: a log of deletions.
            known: number of its newest line that the record has.
        """
        deletions = (line for line in read_deletions(log) if line.number > known)
        for batch in batches(deletions, DELETIONS_AT_ONCE):
            ids: dict[str, list[str]] = defaultdict(list)
            crops: dict[int | None, list[str]] = defaultdict(list)
            for deletion in batch:
                ids[deletion.kind].append(deletion.id)
                if deletion.kind == "crop":
                    crops[deletion.gallery].append(deletion.id)
            self.database.write(self._delete_rows, ids)
            self.keys.end_secrets(ids["secret"])
            for gallery in self.galleries.all():
                if gallery.deletion_id in ids["gallery"]:
                    self.galleries.delete(gallery.gallery_id)
                elif crop_ids := crops[gallery.gallery_id] + crops[None]:
                    self.crops.remove(gallery.gallery_id, crop_ids)
        self.database.note_applied(max(known, newest_number(log)))

    def _delete_rows(self, transaction: Transaction, ids: Mapping[str, Sequence[str]]) -> None:
        """Delete items that belong to no crop, given as ids by the kind of deletion."""
        delete_keys(transaction, ids["key"])
        if ids["keyless"]:
            ask_for_keys(transaction)
        for kind, delete in self._deleted_rows.items():
            delete(transaction, ids[kind])
        # The number of a deleted gallery is not given to another one.
        numbers = [int(deletion_id.partition("-")[0]) for deletion_id in ids["gallery"]]
        next_gallery = max(numbers, default=0) + 1
        transaction.change(
            "UPDATE record SET value = :next "
            "WHERE name = 'next_gallery' AND CAST(value AS BIGINT) < :next",
            {"next": next_gallery},
        )

    def close(self) -> None:
        self.database.close()
