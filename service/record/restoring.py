"""Backups of a data directory, and restoring them without what was deleted later.

A backup is an archive of everything, in a folder named by its time, with the
audit log. Later deletions are found in a later record: the current data directory or, if that is
unreadable, the newest backup beside the restored one.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sqlite3
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from model.problems import InputProblem
from service.errors import DamagedRecord, StorageFailed
from service.ops.audit import audit_files
from service.ops.data_directory import (
    MEBIBYTE,
    UNFINISHED,
    copy_file,
    hold,
    make_folder,
    put_in_place,
    sync,
    sync_below,
    unfinished_folder,
)
from service.record.archive import (
    DamagedArchive,
    check_archive,
    fill_archive,
    open_archive,
    read_record_id,
)
from service.record.database import Database
from service.record.galleries import put_index_owners, read_index_owners
from service.record.keys import ASKED_FOR, delete_keys
from service.record.marks import DeletedIds
from service.record.record import Record
from service.record.transaction import AMONG, FILE, Reader, Transaction
from service.record.values import new_crop_id
from service.record.verify import verify
from service.record.watch import NEWEST_ALERT, stop_watching

NAME = re.compile(r"\d{8}T\d{6}Z")
NAME_FORMAT = "%Y%m%dT%H%M%SZ"
PART = f"new{UNFINISHED}"
# Prefix of backups being written or removed; other programs have files with the same suffix.
WRITING = "gmn-backup"
# Key columns of tables whose rows stay deleted if a later record lacks them, with dependent rows.
STAYS_GONE = {
    "merges": "merge_id",
    "cases": "case_id",
    "searches": "query_id",
    "alerts": "number",
    "webhooks": "webhook_id",
    "jobs": "job_id",
}
# Single values of which the larger one counts. A record that asks for a key continues to do so.
INCREASING = ("next_gallery", NEWEST_ALERT, ASKED_FOR)


@dataclass
class Restored:
    """The outcome of a restore.

    Attributes:
        by: directory of the later record that shows which crops to leave out; None if there is no
            readable one.
        crops, left_out: numbers of crops restored and left out, by gallery.
        galleries, keys: names of galleries and ids of keys that were left out.
    """

    by: Path | None
    crops: dict[str, int] = field(default_factory=dict)
    left_out: dict[str, int] = field(default_factory=dict)
    galleries: list[str] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)


def kept_backups(folder: Path) -> list[Path]:
    paths = folder.iterdir() if os.access(folder, os.R_OK | os.X_OK) else ()
    return [path for path in sorted(paths) if NAME.fullmatch(path.name)]


def has_unfinished_backup(folder: Path) -> bool:
    return os.access(folder, os.R_OK | os.X_OK) and any(folder.glob(f"{WRITING}.*{UNFINISHED}"))


def own_backups(folder: Path, database: Database) -> Iterator[Path]:
    record_id = read_record_id(Reader(database))
    now = datetime.now(UTC)
    for backup in reversed(kept_backups(folder)):
        if taken_at(backup) <= now and _belongs_to(backup, record_id):
            yield backup


def taken_at(archive: Path) -> datetime:
    """Return the time in the name of a backup.

    None of its crops were enrolled later, except in the same second.
    """
    time_of_name, _, _ = archive.stem.partition("-")
    return datetime.strptime(time_of_name, NAME_FORMAT).replace(tzinfo=UTC)


def remove_oldest(folder: Path, keep: int, database: Database) -> list[Path]:
    old = list(own_backups(folder, database))[keep:][::-1]
    for backup in old:
        # Rename first: if this is interrupted, the next backup deletes the rest.
        shutil.rmtree(backup.rename(folder / f"{WRITING}.{backup.name}{UNFINISHED}"))
    return old


def write_backup(database: Database, folder: Path, reserved: int = 0) -> Path:
    """Copy a data directory, which may be in use, verify the copy, and give it its final name.

    Args:
        folder: folder of the backups; created if missing.
        reserved: bytes to keep free on its disk.

    Raises:
        InputProblem: the record is damaged, or another backup is being written.
        StorageFailed: there is too little disk space; nothing is left of the backup.
    """
    try:
        make_folder(folder)
        with hold(folder):
            for unfinished in folder.glob(f"{WRITING}.*{UNFINISHED}"):
                shutil.rmtree(unfinished)
            _require_room(database, folder, reserved)
            with unfinished_folder(folder / WRITING) as part:
                fill_archive(database, part)
                _copy_files(database, part)
                # Two backups of the same second would have the same name.
                while (path := folder / f"{datetime.now(UTC):{NAME_FORMAT}}").exists():
                    time.sleep(0.1)
                put_in_place(part, path)
    except BlockingIOError as error:
        raise InputProblem(f"{folder}: another backup is being written; wait for it") from error
    except (OSError, sqlite3.OperationalError) as error:
        raise StorageFailed(
            f"the backup could not be written to {folder} ({error}); nothing is left of it, free "
            "space there, or name another folder that this user may write"
        ) from error
    return path


def restore_backup(
    backup: Path, into: Path, current: Path, removed: Collection[str] = ()
) -> Restored:
    """Create a data directory from a backup; cancels unfinished jobs and disarms watch lists.

    Args:
        into: a folder that has no record.
        current: the current data directory, which no service may be using; it is only read, and may
            be missing.
        removed: ids of crops known to be deleted.

    Raises:
        InputProblem: the backup is damaged, or belongs to another record than the current one.
    """
    try:
        check_archive(backup)
    except DamagedArchive as error:
        reason = f"is damaged ({error.why}); restore another one"
        raise InputProblem(f"{backup}: {reason}") from error
    restored = Restored(_find_later(backup, current))
    deleted = {*removed, *DeletedIds(current / "deleted.ids").read()}
    with new_data_directory(into) as part:
        for path in (backup / FILE, *backup.glob("vectors-*")):
            copy_file(path, part / path.name)
        with contextlib.closing(Record(part)) as record:
            backed_up = record.galleries.all()
            missing = record.database.write_from(restored.by or part, _leave_out, restored)
            record.delete_again(deleted | missing)
            for job in record.jobs.open():
                record.jobs.cancel(job.job_id)
            record.database.write(stop_watching)
            owners = [new_crop_id()]
            # The newest backup stands for a lost data directory in whose place it is restored.
            is_lost = into.resolve() == current.resolve()
            replaced = (restored.by or backup) if is_lost else current
            with contextlib.suppress(DamagedArchive), open_archive(replaced) as reader:
                owners += read_index_owners(reader)
            record.database.write(put_index_owners, owners)
            restored.crops = {entry.name: entry.crops for entry in record.galleries.all()}
            for entry in backed_up:
                if entry.name in restored.crops:
                    restored.left_out[entry.name] = entry.crops - restored.crops[entry.name]
                else:
                    restored.galleries.append(entry.name)
        for path in (restored.by or backup).glob("audit*"):
            copy_file(path, part / path.name)
    return restored


@contextlib.contextmanager
def new_data_directory(into: Path) -> Iterator[Path]:
    """Create a folder to be filled; at the end, move its contents into the data directory.

    A directory with such a folder is never served, because it may still contain deleted crops.
    """
    part = into / PART
    shutil.rmtree(part, ignore_errors=True)
    make_folder(part)
    yield part
    sync_below(part)
    # Move the record last: with it the directory can be served.
    for path in sorted(part.iterdir(), key=lambda path: path.name == FILE):
        path.rename(into / path.name)
    part.rmdir()
    sync(into)


def _copy_files(database: Database, part: Path) -> None:
    data_dir = database.folder
    # Copy the number of acknowledged lines before the log, which must not have fewer.
    for path in (*data_dir.glob("audit*.acknowledged"), *data_dir.glob("audit.key")):
        copy_file(path, part / path.name)
    files: set[Path] = set()
    # A full file may be renamed in the meantime.
    while remaining := set(audit_files(data_dir)) - files:
        for path in remaining:
            with contextlib.suppress(FileNotFoundError):
                copy_file(path, part / path.name)
        files |= remaining


def _require_room(database: Database, folder: Path, reserved: int) -> None:
    data_dir = database.folder
    files = [*data_dir.glob("vectors-*"), *audit_files(data_dir)]
    needed = sum(path.stat().st_size for path in files) + database.stored_bytes()
    free = shutil.disk_usage(folder).free
    if free - needed < reserved:
        raise StorageFailed(
            f"the disk of {folder} has {free // MEBIBYTE} MiB left; the backup needs "
            f"{needed // MEBIBYTE} MiB, and {reserved // MEBIBYTE} MiB must stay free "
            "(GMN_RESERVED_DISK_BYTES); nothing was written, delete old backups there"
        )


def _belongs_to(backup: Path, record_id: str) -> bool:
    with contextlib.suppress(DamagedArchive), open_archive(backup) as reader:
        return read_record_id(reader) == record_id
    return False


def _find_later(backup: Path, current: Path) -> Path | None:
    with open_archive(backup) as reader:
        record_id = read_record_id(reader)
    backups = kept_backups(backup.parent)
    newer = [other for other in backups if other > backup and _belongs_to(other, record_id)]
    for folder in (current, *reversed(newer)):
        try:
            if (folder / FILE).is_file() and not verify(folder).damage:
                return folder
        except DamagedRecord:
            continue
        except InputProblem as problem:
            with (folder / FILE).open("rb") as file:
                is_database = file.read(16).startswith(b"SQLite format 3")
            if folder == current and is_database:
                raise InputProblem(
                    f"{problem}, or move {folder} away to restore this backup without it, "
                    "which brings back later deletions"
                ) from problem
    return None


def _leave_out(transaction: Transaction, restored: Restored) -> set[str]:
    """Delete what the later record, `other`, no longer has, except for crops and galleries.

    Returns:
        These crops and galleries, as in `DeletedIds`; `restored` gets the deleted keys.
    """
    is_same = "SELECT 1 FROM record JOIN other.record USING (name, value) WHERE name = 'record_id'"
    if transaction.value(is_same) is None:
        raise InputProblem(
            f"{restored.by}: is another record than the backup's; name the backup's own data "
            "directory with --data-dir or, if it is lost, a directory that does not exist"
        )
    transaction.removes = True
    # The collections in Milvus belong to the backed-up service.
    transaction.change("DELETE FROM remote_indexes")
    tables = transaction.column("SELECT name FROM other.sqlite_master WHERE type = 'table'")
    # A record last written by an earlier version lacks some of them.
    for table in STAYS_GONE.keys() & tables:
        key = STAYS_GONE[table]
        transaction.change(
            f"DELETE FROM {table} WHERE {key} NOT IN (SELECT {key} FROM other.{table})"
        )
    transaction.change(
        "INSERT OR REPLACE INTO case_deletions (case_id, day, searches) SELECT case_id, day, "
        "searches FROM other.case_deletions WHERE case_id IN (SELECT case_id FROM cases)"
    )
    transaction.change(
        "INSERT OR IGNORE INTO tombstones (gallery_id, crop_id, removed_at) SELECT gallery_id, "
        "crop_id, removed_at FROM other.tombstones "
        "WHERE gallery_id IN (SELECT gallery_id FROM galleries)"
    )
    transaction.change(
        "UPDATE galleries SET version = 1 + max(version, coalesce((SELECT version FROM "
        "other.galleries AS later WHERE later.gallery_id = galleries.gallery_id), 0))"
    )
    transaction.change(
        "INSERT OR REPLACE INTO record (name, value) SELECT name, max(value) FROM "
        "(SELECT name, value FROM main.record UNION ALL SELECT name, value FROM other.record) "
        f"WHERE name IN {AMONG} GROUP BY name",
        (INCREASING,),
    )
    # The later reports do not name people who were forgotten since.
    transaction.change(
        "UPDATE jobs SET parameters = later.parameters, detail = later.detail "
        "FROM other.jobs AS later WHERE later.job_id = jobs.job_id"
    )
    transaction.change(
        "INSERT OR REPLACE INTO job_problems (job_id, number, problem) SELECT job_id, number, "
        "problem FROM other.job_problems "
        "WHERE (job_id, number) IN (SELECT job_id, number FROM job_problems)"
    )
    # A secret that was replaced since must not be accepted again.
    transaction.change(
        "UPDATE api_keys SET body = later.body FROM other.api_keys AS later "
        "WHERE later.key_id = api_keys.key_id"
    )
    restored.keys = transaction.column(
        "SELECT key_id FROM api_keys WHERE key_id NOT IN (SELECT key_id FROM other.api_keys)"
    )
    delete_keys(transaction, restored.keys)
    missing = transaction.column(
        "SELECT crop_id FROM crops WHERE (gallery_id, crop_id) NOT IN "
        "(SELECT gallery_id, crop_id FROM other.crops) "
        "UNION ALL SELECT 'gallery ' || gallery_id || ' ' || created_at FROM galleries "
        "WHERE gallery_id NOT IN (SELECT gallery_id FROM other.galleries WHERE name IS NOT NULL)"
    )
    return set(missing)
