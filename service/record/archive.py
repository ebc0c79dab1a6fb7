"""Snapshots: copies of one gallery's crops, written while the record is served.

A snapshot is a folder with a record of one gallery, without keys, searches and jobs. It gets its
final name only when it is complete.
"""

from __future__ import annotations

import contextlib
import hashlib
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from pathlib import Path

from gmn_client.models import Snapshot
from model.problems import InputProblem
from service.errors import DamagedRecord, DamagedSnapshot, RecordUnavailable, StorageFailed
from service.ops.data_directory import failpoint, put_in_place, snapshot_name, unfinished_folder
from service.record.crops import Crops
from service.record.database import SIDES, Database
from service.record.deletions import LOG_NAME
from service.record.galleries import require_entry
from service.record.marks import Mark
from service.record.replacing import end_staging
from service.record.schema import TABLES
from service.record.transaction import AMONG, FILE, Reader, Transaction
from service.record.vectors import VectorFiles
from service.record.verify import StoredRecord, verify

SNAPSHOT_TABLES = ("feeds", "galleries", "people", "crops", "tracks", "checksums", "pictures")
ALL_SIDES = (
    f"SELECT gallery_id, side, dimension, next_slot FROM {SIDES} "
    "WHERE name IS NOT NULL AND dimension IS NOT NULL"
)
# `Database` creates these files beside an open record; the lock shows an interrupted change.
LOCK = "record.lock"
OPEN_RECORD_FILES = ("record.acknowledged", "record.turn", LOG_NAME, LOCK)


def write_archive(database: Database, folder: Path, gallery_id: int) -> None:
    """Copy the current state of a gallery's crops to a new folder.

    Crops removed during the copy are omitted. The copy is verified before the folder gets its final
    name.

    Raises:
        UnknownGallery: the gallery was deleted.
        DamagedRecord: the record is damaged.
        StorageFailed: the archive could not be written; nothing is left of it.
        RecordUnavailable: the gallery was reindexed in the meantime.
    """
    try:
        with unfinished_folder(folder) as part:
            _fill_archive(database, part, gallery_id)
            failpoint("snapshot.written")
            put_in_place(part, folder)
    except (OSError, sqlite3.OperationalError) as error:
        raise StorageFailed(
            f"the snapshot could not be written ({error}); nothing is left of it, free space there "
            "and try again"
        ) from error


def _fill_archive(database: Database, part: Path, gallery_id: int) -> None:
    _copy_gallery(database, part, gallery_id)
    with contextlib.closing(StoredRecord(part)) as stored:
        sides = Reader(stored).tuples(ALL_SIDES)
    _copy_vectors(database, part, sides)
    with open_to_change(part) as copy:
        for gallery_id, newest in Reader(copy).feeds().items():
            _remove_deleted(copy, database, gallery_id, newest)
    if damage := verify(part).damage:
        raise DamagedRecord(database.path, damage[0])


def check_archive(folder: Path) -> None:
    """Verify all contents of an archive.

    Raises:
        DamagedSnapshot: names the first row or vector that differs from its checksum.
    """
    if damage := _find_damage(folder):
        raise DamagedSnapshot(folder, damage)


def check_snapshots(data_dir: Path) -> dict[Path, str | None]:
    # Ids of snapshots begin with their time.
    folders = sorted(data_dir.glob(snapshot_name("[0-9]*", "*")))
    return {folder: _find_damage(folder) for folder in folders}


def describe_snapshot(folder: Path, created_at: datetime) -> Snapshot:
    """Return the record's entry for a snapshot's archive; raises `DamagedSnapshot`."""
    statement = "SELECT group_concat(checksum) FROM (SELECT checksum FROM checksums ORDER BY slot)"
    with open_archive(folder) as reader:
        (gallery,) = reader.rows("galleries")
        checksums = reader.value(statement) or ""
    return Snapshot(
        snapshot_id=folder.stem,
        version=gallery["version"],
        embedding_fingerprint=gallery["embedder"],
        crops=gallery["crops"],
        bytes=sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()),
        sha256=hashlib.sha256(checksums.encode()).hexdigest(),
        created_at=created_at,
    )


@contextlib.contextmanager
def open_archive(folder: Path) -> Iterator[Reader]:
    """Open an archive read-only; raises `DamagedSnapshot`."""
    try:
        with contextlib.closing(StoredRecord(folder)) as stored:
            yield Reader(stored)
    except (DamagedRecord, sqlite3.DatabaseError) as error:
        raise DamagedSnapshot(folder, getattr(error, "why", str(error))) from error


def archived_ids(folder: Path, identity: str | None = None) -> list[str]:
    """Return the crop ids of a snapshot or of one identity in it; raises `DamagedSnapshot`."""
    with open_archive(folder) as reader:
        return reader.column(
            "SELECT crop_id FROM crops LEFT JOIN people USING (person_id) "
            "WHERE ?1 IS NULL OR nfc(people.name) = nfc(?1) ORDER BY slot",
            (identity,),
        )


def remove_from_archive(folder: Path, gallery_id: int, crop_ids: Sequence[str]) -> None:
    """Remove crops with their vectors and pictures from an archive.

    After a power cut the crops are either present or removed; nothing of them is left when this
    returns. An interrupted removal is finished, even if `crop_ids` is empty.

    Raises:
        DamagedSnapshot: the archive cannot be read.
        StorageFailed: the disk fails, or another process reads the archive.
    """
    if not crop_ids and not (folder / LOCK).exists():
        return
    failpoint("snapshot-rewrite.begun")
    try:
        with open_to_change(folder) as archive:
            _remove_crops(archive, gallery_id, crop_ids)
            failpoint("snapshot-rewrite.removed")
    except (OSError, InputProblem, sqlite3.OperationalError) as error:
        cause = error.__cause__ or error
        if isinstance(cause, (OSError, sqlite3.OperationalError)):
            raise StorageFailed(
                f"snapshot {folder.stem} could not be rewritten ({cause}); free space in the data "
                "directory, or wait for a gmn store verify to end, and try again"
            ) from error
        raise DamagedSnapshot(folder, getattr(error, "why", str(error))) from error


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


def _copy_gallery(database: Database, part: Path, gallery_id: int) -> None:
    with contextlib.closing(Database(part)) as copy:
        connection = copy.connection()
        # Without a write-ahead log, the rows are not written twice.
        connection.execute("PRAGMA journal_mode = DELETE")
        # Damaged rows are left out; the verification of the copy then names missing ones.
        connection.execute("PRAGMA foreign_keys = OFF")
        copy.write_from(database.folder, _insert_gallery, gallery_id)


def _insert_gallery(transaction: Transaction, gallery_id: int) -> None:
    for name in SNAPSHOT_TABLES:
        table = TABLES[name]
        columns = ", ".join(table.columns)
        transaction.change(
            f"INSERT INTO {name} ({columns}) SELECT {columns} FROM other.{name} "
            f"AS {name} WHERE gallery_id = ? AND {table.is_intact}",
            (gallery_id,),
        )
    end_staging(transaction, require_entry(transaction, gallery_id))


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
