"""Backups of a data directory, and restoring them without the items that were deleted later.

A backup is a folder with a copy of the record, its vector files, its log of deletions and the audit
log. A restore is that copy with the newest log of deletions, whose later lines are applied to it.
Nothing that a backup contains is used as a path, and no link in it is followed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import sqlite3
import stat
import time
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from model.problems import InputProblem
from service.errors import DamagedRecord, RecordUnavailable, StorageFailed
from service.opening import open_folder
from service.ops.audit import audit_files
from service.ops.data_directory import (
    MEBIBYTE,
    UNFINISHED,
    hold,
    make_folder,
    open_regular,
    put_in_place,
    sync,
    sync_below,
    unfinished_folder,
)
from service.record.database import GENERATIONS, RECORD_ID, Database
from service.record.deletions import (
    LOG_NAME,
    newest_number,
    parse_line,
    read_beginning,
    read_lines,
)
from service.record.galleries import put_index_owners, read_index_owners
from service.record.keys import NO_HASH
from service.record.schema import FORMAT
from service.record.sqlite import OtherFormat
from service.record.transaction import FILE, Reader, Transaction
from service.record.values import new_crop_id
from service.record.vectors import PRIVATE_FILE, VectorFiles, vectors_name
from service.settings import Settings
from service.store.formats import change_tables, open_any_format
from service.store.verify import RecordFound, UntouchedRecord, verify
from service.watch.tables.lists import stop_watching

NAME = re.compile(r"\d{8}T\d{6}Z")
NAME_FORMAT = "%Y%m%dT%H%M%SZ"
PART = f"new{UNFINISHED}"
# Prefix of backups being written or removed; other programs have files with the same suffix.
WRITING = "gmn-backup"
# Files that `Database` makes beside a record, and that a backup does not need.
OPEN_RECORD_FILES = ("record.turn", "record.lock")
COPIED_BYTES = 4 * MEBIBYTE
# An id of a crop begins with the time of its enrollment.
ID_MILLISECONDS_DIGITS = 12
MOST_DIMENSIONS = 65_536
VECTORS = (
    f"SELECT gallery_id, generation, dimension, next_slot FROM {GENERATIONS} "
    "WHERE name IS NOT NULL AND dimension IS NOT NULL"
)


@dataclass(frozen=True)
class Written:
    """A backup, and a line for each damaged crop in it, which its record has as well."""

    path: Path
    damaged_crops: list[str]


@dataclass
class Restored:
    """The outcome of a restore.

    Attributes:
        crops: numbers of crops by gallery.
        secrets: ids of keys whose secret was replaced since; they need a new one.
        unknown_after: later deletions are not known, as the log of the data directory before is
            missing; None if it was there.
        lacks_lines: lines of the log are missing or damaged, so that not all deletions are known.
        damaged_crops: a line for each crop that is damaged in the backup.
    """

    crops: dict[str, int] = field(default_factory=dict)
    secrets: list[str] = field(default_factory=list)
    unknown_after: datetime | None = None
    lacks_lines: bool = False
    damaged_crops: list[str] = field(default_factory=list)


def kept_backups(folder: Path) -> list[Path]:
    paths = folder.iterdir() if os.access(folder, os.R_OK | os.X_OK) else ()
    return [path for path in sorted(paths) if NAME.fullmatch(path.name)]


def has_unfinished_backup(folder: Path) -> bool:
    return os.access(folder, os.R_OK | os.X_OK) and any(folder.glob(f"{WRITING}.*{UNFINISHED}"))


def backups_with(settings: Settings, crop_ids: Sequence[str]) -> list[tuple[Path, datetime]]:
    """Find backups with any of these crops, and when they are removed; blocks."""
    if not crop_ids:
        return []
    first_enrolled = min(int(crop_id[:ID_MILLISECONDS_DIGITS], 16) for crop_id in crop_ids) / 1000
    backups = kept_backups(settings.backup_dir) if settings.backup_dir else []
    interval = timedelta(hours=settings.backup_every)
    found = [
        (
            backup,
            taken_at(backups[-1]) + interval * (position + 1 + settings.backup_keep - len(backups)),
        )
        for position, backup in enumerate(backups)
    ]
    return [
        (backup, until)
        for backup, until in found
        if taken_at(backup).timestamp() + 1 >= first_enrolled
    ]


def own_backups(folder: Path, database: Database) -> Iterator[Path]:
    """Yield the backups of a record, the newest first, without those from the future."""
    record_id = _read_record_id(database)
    now = datetime.now(UTC)
    for backup in reversed(kept_backups(folder)):
        if taken_at(backup) <= now and _belongs_to(backup, record_id):
            yield backup


def taken_at(backup: Path) -> datetime:
    """Return the time in the name of a backup.

    None of its crops were enrolled later, except in the same second.
    """
    time_of_name, _, _ = backup.stem.partition("-")
    return datetime.strptime(time_of_name, NAME_FORMAT).replace(tzinfo=UTC)


def remove_oldest(folder: Path, keep: int, database: Database) -> list[Path]:
    old = list(own_backups(folder, database))[keep:][::-1]
    for backup in old:
        remove_backup(backup)
    return old


def remove_backup(backup: Path) -> None:
    # Rename first: if this is interrupted, the next backup deletes the rest.
    shutil.rmtree(backup.rename(backup.with_name(f"{WRITING}.{backup.name}{UNFINISHED}")))


def write_backup(database: Database, folder: Path, reserved: int = 0) -> Written:
    """Copy a data directory, which may be in use, verify the copy, and give it its final name.

    A damaged crop is copied as it is.

    Args:
        folder: folder of the backups; created if missing.
        reserved: bytes to keep free on its disk.

    Raises:
        DamagedRecord: more than crops is damaged.
        InputProblem: another backup is being written.
        RecordUnavailable: a gallery was reindexed in the meantime.
        StorageFailed: there is too little disk space; nothing is left of the backup.
    """
    try:
        make_folder(folder)
        with hold(folder):
            for unfinished in folder.glob(f"{WRITING}.*{UNFINISHED}"):
                shutil.rmtree(unfinished)
            _require_room(_bytes_to_back_up(database), folder, reserved)
            with unfinished_folder(folder / WRITING) as part:
                damaged_crops = _copy_record(database, part)
                _copy_audit_log(database.folder, part)
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
    return Written(path, damaged_crops)


def restore_backup(backup: Path, into: Path, replaced: Path) -> Restored:
    """Create a data directory from a backup; cancels unfinished jobs and disarms watch lists.

    Args:
        into: a folder that has no record.
        replaced: the data directory before, which no service may be using; it is only read, and may
            be missing.

    Raises:
        InputProblem: the backup is damaged.
        StorageFailed: the disk has too little space.
    """
    try:
        return _restore(backup, into, replaced)
    except DamagedRecord as error:
        raise InputProblem(f"{backup}: is damaged ({error.why}); restore another one") from error
    except (OSError, sqlite3.OperationalError) as error:
        if isinstance(error, OSError) and error.errno == errno.ELOOP:
            raise InputProblem(
                f"{error.filename}: is a link, and a backup has none; restore another one"
            ) from error
        raise StorageFailed(
            f"{backup} could not be restored to {into} ({error}); empty that directory, free space "
            "there and try again"
        ) from error


def _restore(backup: Path, into: Path, replaced: Path) -> Restored:
    with _new_data_directory(into) as part:
        restored = Restored(damaged_crops=_copy_backup(backup, part))
        folders = _folders_of_record(backup, part, replaced)
        longest = max(folders, key=lambda folder: newest_number(folder / LOG_NAME))
        if longest != replaced:
            restored.unknown_after = taken_at(longest)
        restored.lacks_lines = not _apply_log(part, longest / LOG_NAME)
        with contextlib.closing(open_folder(part)) as record:
            for job in record.jobs.open():
                record.jobs.cancel(job.job_id)
            record.database.write(stop_watching)
            record.database.write(_begin_anew, _list_index_owners(folders[0]))
            restored.crops = {entry.name: entry.crops for entry in record.galleries.all()}
            keys = record.keys.all()
            restored.secrets = [key.key_id for key in keys if key.secret_sha256 == NO_HASH]
            # Free space of the file may have copies of rows that were left out.
            record.database.connection().execute("VACUUM")
        for folder in folders:
            if audit_files(folder):
                _copy_audit_log(folder, part)
                break
    return restored


@contextlib.contextmanager
def _new_data_directory(into: Path) -> Iterator[Path]:
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


def _copy_record(database: Database, part: Path) -> list[str]:
    """Copy a record that may be in use, without items deleted during the copy; verify it.

    Returns:
        A line for each damaged crop.
    """
    # SQLite fills an empty file, and creates others so that everybody may read them.
    (part / FILE).touch(mode=PRIVATE_FILE)
    with database.naming_errors():
        database.connection().execute("VACUUM main INTO ?", (str(part / FILE),))
    gone = []
    with contextlib.closing(VectorFiles(database.folder, only_read=True)) as files:
        for gallery_id, generation, dimension, next_slot in _read_vector_files(part):
            try:
                file = files.open(gallery_id, generation, dimension)
            except FileNotFoundError:
                gone.append((gallery_id, generation))
                continue
            # Slots are written once: the file has the vectors of all rows that were copied before.
            file.copy_to(part / vectors_name(gallery_id, generation), next_slot)
    # Copied last: it has all crops whose vectors were overwritten before they were copied.
    _apply_log(part, database.deletions.path)
    with contextlib.closing(sqlite3.connect(part / FILE)) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")
    for name in OPEN_RECORD_FILES:
        (part / name).unlink(missing_ok=True)
    left = {(gallery_id, generation) for gallery_id, generation, *_ in _read_vector_files(part)}
    if lost := left.intersection(gone):
        numbers = ", ".join(str(gallery_id) for gallery_id, _ in sorted(lost))
        raise RecordUnavailable(f"the vectors of gallery {numbers} were replaced by a reindex")
    found = verify(part)
    damage = found.damage_beside_crops
    if found.damaged_crops:
        # Damage in the copy alone comes from the copying.
        already = verify(database.folder).damaged_crops
        damage += [line for crop, line in found.damaged_crops.items() if crop not in already]
    if damage:
        raise DamagedRecord(database.path, damage[0])
    return list(found.damaged_crops.values())


def _copy_backup(backup: Path, part: Path) -> list[str]:
    """Copy the record of a backup and verify it; only the names that this program makes count.

    Returns:
        A line for each damaged crop.
    """
    try:
        files = [path for path in backup.iterdir() if stat.S_ISREG(path.lstat().st_mode)]
        _require_room(sum(path.stat().st_size for path in files), part, 0)
        if (backup / f"{FILE}-wal").exists() or (backup / f"{FILE}-journal").exists():
            raise DamagedRecord(backup / FILE, "another program has opened and changed it")
        _copy_file(backup / FILE, part / FILE)
        with open_any_format(part) as record:
            change_tables(record)
        for gallery_id, generation, *_ in _read_vector_files(part):
            name = vectors_name(gallery_id, generation)
            _copy_file(backup / name, part / name)
        found = verify(part)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise
        found = RecordFound(problems=[str(error)])
    except sqlite3.DatabaseError as error:
        if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
            raise
        found = RecordFound(problems=[str(error)])
    except DamagedRecord as error:
        found = RecordFound(problems=[error.why])
    except OtherFormat as error:
        raise InputProblem(
            f"{backup}: its tables are not those of format {FORMAT}, which this program reads; "
            "restore it by the program version that wrote it, or restore another one"
        ) from error
    if damage := found.damage_beside_crops:
        raise InputProblem(f"{backup}: is damaged ({damage[0]}); restore another one")
    return list(found.damaged_crops.values())


def _read_vector_files(folder: Path) -> list[tuple[int, int, int, int]]:
    """Return gallery, generation, dimension and next slot of each vector file of a copy."""
    with contextlib.closing(UntouchedRecord(folder)) as copy:
        rows = Reader(copy).tuples(VECTORS)
    for row in rows:
        # Numbers that a stranger wrote are neither paths nor more memory than there is.
        if not all(isinstance(number, int) for number in row) or row[2] > MOST_DIMENSIONS:
            raise DamagedRecord(folder / FILE, "a gallery is not what was written")
    return rows


def _folders_of_record(backup: Path, part: Path, replaced: Path) -> list[Path]:
    """Return the folders whose logs name deletions from the record of a backup, newest first.

    Args:
        part: the copy of the backup.
    """
    record_id = _read_record_id_in(part)
    newer = [other for other in kept_backups(backup.parent) if other > backup]
    folders = [backup]
    for folder in (*newer, replaced):
        beginning = read_beginning(folder / LOG_NAME)
        is_other = beginning is not None and beginning.id != record_id
        if (folder / LOG_NAME).exists() and not is_other:
            folders.insert(0, folder)
    return folders


def _apply_log(part: Path, log: Path) -> bool:
    """Give a copied record a log of deletions, and delete what later lines of it name.

    Returns:
        False if lines are missing or damaged, so that not all later deletions are known.
    """
    with contextlib.closing(UntouchedRecord(part)) as copy:
        known = copy.newest_deletion()
    copied = part / "copied.log"
    _copy_file(log, copied)
    with contextlib.closing(open_folder(part)) as record:
        record.apply_log(copied, known)
        kinds = record.deletion_kinds
    # The record has begun another log, whose lines are in this one.
    copied.replace(part / LOG_NAME)
    beginning = read_beginning(part / LOG_NAME)
    is_whole = all(_is_of_kinds(line, kinds) for line in read_lines(part / LOG_NAME))
    return is_whole and beginning is not None and beginning.number <= known


def _is_of_kinds(line: bytes, kinds: Container[str]) -> bool:
    deletion = parse_line(line)
    return deletion is not None and deletion.kind in kinds


def _begin_anew(transaction: Transaction, index_owners: list[str]) -> None:
    # The collections in Milvus belong to the backed-up service.
    transaction.change("DELETE FROM collections")
    put_index_owners(transaction, index_owners)
    # No version that was answered since the backup is answered again: no gallery changes more often
    # than once a millisecond.
    now = time.time_ns() // 1_000_000
    transaction.change(
        "UPDATE galleries SET version = CASE WHEN version < ? THEN ? ELSE version + 1 END",
        (now, now),
    )


def _list_index_owners(newest: Path) -> list[str]:
    owners = [new_crop_id()]
    with (
        contextlib.suppress(DamagedRecord, sqlite3.DatabaseError, OSError),
        contextlib.closing(UntouchedRecord(_require_file(newest))) as stored,
    ):
        owners += read_index_owners(Reader(stored))
    return owners


def _copy_audit_log(source: Path, part: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        _copy_file(source / "audit.key", part / "audit.key")
    files: set[Path] = set()
    # A full file may be renamed in the meantime.
    while remaining := set(audit_files(source)) - files:
        for path in remaining:
            with contextlib.suppress(FileNotFoundError):
                _copy_file(path, part / path.name)
        files |= remaining


def _copy_file(path: Path, to: Path) -> None:
    """Copy a file that is no link, with its permissions to read and write; raises `OSError`."""
    with open_regular(path) as file, to.open("xb") as copy:
        # Only the owner may read the audit log's key.
        os.fchmod(copy.fileno(), os.fstat(file.fileno()).st_mode & 0o666)
        while body := file.read(COPIED_BYTES):
            copy.write(body)


def _bytes_to_back_up(database: Database) -> int:
    data_dir = database.folder
    files = [*data_dir.glob("vectors-*"), *audit_files(data_dir)]
    files += data_dir.glob(LOG_NAME)
    return sum(path.stat().st_size for path in files) + database.stored_bytes()


def _require_room(needed: int, folder: Path, reserved: int) -> None:
    free = shutil.disk_usage(folder).free
    if free - needed < reserved:
        raise StorageFailed(
            f"the disk of {folder} has {free // MEBIBYTE} MiB left; the backup needs "
            f"{needed // MEBIBYTE} MiB, and {reserved // MEBIBYTE} MiB must stay free "
            "(GMN_RESERVED_DISK_BYTES); nothing was written, free space there"
        )


def _require_file(folder: Path) -> Path:
    """Return a folder whose record is no link, or raise `OSError`."""
    open_regular(folder / FILE).close()
    return folder


def _belongs_to(backup: Path, record_id: str) -> bool:
    return _read_record_id_in(backup) == record_id


def _read_record_id_in(folder: Path) -> str | None:
    """Return the id of the record in a folder; None if it is missing or damaged."""
    with (
        contextlib.suppress(DamagedRecord, sqlite3.DatabaseError, OSError),
        contextlib.closing(UntouchedRecord(_require_file(folder))) as stored,
    ):
        return _read_record_id(stored)
    return None


def _read_record_id(database: Database) -> str:
    record_id: str = Reader(database).value(RECORD_ID)
    return record_id
