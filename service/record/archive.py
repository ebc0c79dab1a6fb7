"""Archives: copies of a record, written while the record is served.

An archive is a folder with a record: its tables and its vector files.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from model.problems import InputProblem
from service.errors import DamagedRecord, RecordUnavailable
from service.ops.threads import heartbeat
from service.record.crops import Crops
from service.record.database import SIDES, Database
from service.record.marks import PRIVATE_FILE, Mark
from service.record.transaction import AMONG, FILE, Reader, Transaction, batches
from service.record.vectors import VectorFiles
from service.record.verify import StoredRecord, verify
from service.record.wiping import PAGE_BYTES, PageFile

ALL_SIDES = (
    f"SELECT gallery_id, side, dimension, next_slot FROM {SIDES} "
    "WHERE name IS NOT NULL AND dimension IS NOT NULL"
)
# `Database` creates these files beside an open record; the lock shows an interrupted change.
LOCK = "record.lock"
OPEN_RECORD_FILES = ("record.acknowledged", "record.turn", "deleted.ids", LOCK)
PAGES_AT_ONCE = 100_000


class DamagedArchive(InputProblem):
    """An archive that cannot be read.

    Attributes:
        why: what is damaged.
    """

    def __init__(self, folder: Path, why: str) -> None:
        self.why = why
        super().__init__(f"{folder}: is damaged or gone: {why}")


def fill_archive(database: Database, part: Path) -> None:
    """Copy the current state of a record into an empty folder, and verify the copy.

    Crops removed during the copy are omitted.

    Raises:
        DamagedRecord: the record is damaged.
        OSError: the disk is full or fails.
        RecordUnavailable: a gallery was reindexed in the meantime.
    """
    _copy_record(database, part)
    database.overwrite_log()
    with contextlib.closing(StoredRecord(part)) as stored:
        sides = Reader(stored).tuples(ALL_SIDES)
    _copy_vectors(database, part, sides)
    with open_to_change(part) as copy:
        for gallery_id, newest in Reader(copy).feeds().items():
            _remove_deleted(copy, database, gallery_id, newest)
    _wipe(part / FILE)
    if damage := verify(part).damage:
        raise DamagedRecord(database.path, damage[0])


def check_archive(folder: Path) -> None:
    """Verify all contents of an archive.

    Raises:
        DamagedArchive: names the first row or vector that differs from its checksum.
    """
    if damage := _find_damage(folder):
        raise DamagedArchive(folder, damage)


@contextlib.contextmanager
def open_archive(folder: Path) -> Iterator[Reader]:
    """Open an archive read-only; raises `DamagedArchive`."""
    try:
        with contextlib.closing(StoredRecord(folder)) as stored:
            yield Reader(stored)
    except (DamagedRecord, sqlite3.DatabaseError) as error:
        raise DamagedArchive(folder, getattr(error, "why", str(error))) from error


def read_record_id(reader: Reader) -> str:
    record_id: str = reader.value("SELECT value FROM record WHERE name = 'record_id'")
    return record_id


@contextlib.contextmanager
def open_to_change(folder: Path) -> Iterator[Database]:
    """Open the record of an archive to change it, and then merge SQLite's log into its file."""
    with contextlib.closing(Database(folder)) as archive:
        yield archive
    with contextlib.closing(sqlite3.connect(folder / FILE)) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")
    for name in OPEN_RECORD_FILES:
        (folder / name).unlink(missing_ok=True)


def _find_damage(folder: Path) -> str | None:
    try:
        return next(iter(verify(folder).damage), None)
    except (InputProblem, sqlite3.DatabaseError) as error:
        return str(getattr(error, "why", error))


def _copy_record(database: Database, part: Path) -> None:
    with contextlib.closing(sqlite3.connect(part / FILE)) as copy:
        (part / FILE).chmod(PRIVATE_FILE)
        with database.naming_errors():
            database.connection().backup(copy)


def _wipe(path: Path) -> None:
    # Free space may contain copies of rows. Their later removal overwrites only the pages that it
    # changes.
    with contextlib.closing(PageFile(path)) as file:
        for numbers in batches(range(1, path.stat().st_size // PAGE_BYTES + 1), PAGES_AT_ONCE):
            file.wipe(numbers)
            heartbeat()


def _copy_vectors(
    database: Database, part: Path, sides: Iterable[tuple[int, int, int, int]]
) -> None:
    with contextlib.closing(VectorFiles(database.folder, only_read=True)) as files:
        for gallery_id, side, dimension, next_slot in sides:
            try:
                vectors = files.open(gallery_id, side, dimension)
            except FileNotFoundError as error:
                raise RecordUnavailable(
                    f"the vectors of gallery {gallery_id} were removed when it was restored or "
                    "reindexed"
                ) from error
            vectors.copy_to(part / vectors.path.name, next_slot)


def _remove_deleted(copy: Database, source: Database, gallery_id: int, since: Mark) -> None:
    slots = Reader(source).removed_slots(gallery_id, since)
    statement = f"SELECT crop_id FROM crops WHERE gallery_id = ? AND slot IN {AMONG}"
    crop_ids = Reader(copy).column(statement, (gallery_id, slots))
    if crop_ids:
        _remove_crops(copy, gallery_id, crop_ids)


def _remove_crops(archive: Database, gallery_id: int, crop_ids: Sequence[str]) -> None:
    statement = "SELECT version FROM galleries WHERE gallery_id = ?"
    version = Reader(archive).value(statement, (gallery_id,))
    Crops(archive).remove(gallery_id, crop_ids)
    # An archive shows the version of which it is a copy.
    statement = "UPDATE galleries SET version = ? WHERE gallery_id = ?"
    archive.write(Transaction.change, statement, (version, gallery_id))
