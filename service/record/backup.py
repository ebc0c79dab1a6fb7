"""Backups of a record and its data directory, made also while it is served.

A backup is a folder named by its time. It holds the record at one moment in a SQLite file, from
wherever it is kept, what lies at GMN_IMAGES_URL, the snapshots, and the audit log. Indexes are left
out, as they are filled from the record; so are uploads of imports, as jobs end with a restore.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from model.problems import InputProblem
from service.errors import ServiceError, StorageFailed
from service.ops.audit import audit_files
from service.ops.data_directory import (
    DATABASE_NAME,
    MEBIBYTE,
    SNAPSHOTS,
    UNFINISHED,
    copy_file,
    hold_folder,
    make_folder,
    snapshot_name,
    sync,
    sync_below,
)
from service.record.engine import Engine, Reader, batches
from service.record.entries import Generation, every_crop, find_generation, vector_name
from service.record.galleries import SECRET, Galleries
from service.record.picture_folder import IMAGES, PictureFolder
from service.record.record import Record
from service.record.sqlite_engine import SqliteEngine
from service.record.verification import verify_file

CROPS_AT_ONCE = 500
FILES_AT_ONCE = 200
# Of a file outside the record; most vectors are shorter.
VECTOR_BYTES = 8192
NAME = re.compile(r"\d{8}T\d{6}Z")
NAME_FORMAT = "%Y%m%dT%H%M%SZ"


@dataclass(frozen=True)
class Backup:
    """A backup that is complete."""

    path: Path

    @property
    def taken_at(self) -> datetime:
        """No crop that was enrolled in a later second is in it."""
        return datetime.strptime(self.path.name, NAME_FORMAT).replace(tzinfo=UTC)

    def is_of(self, secret: str | None) -> bool:
        """Return whether it holds the record with this secret, or one that has none yet."""
        database = self.path / DATABASE_NAME
        try:
            with contextlib.closing(SqliteEngine(database, only_read=True)) as copy:
                return Reader(copy).json(SECRET) in (None, secret)
        except (InputProblem, ServiceError):
            return False

    def require_whole(self, remedy: str) -> None:
        """Raises `InputProblem` where anything in it is not what was written."""
        found = verify_file(self.path / DATABASE_NAME)
        if not found.whole:
            damage = [line for gallery in found.galleries for line in gallery.damage]
            files = [one.problem for one in found.snapshots if one.problem]
            first = next(iter([*found.problems, *damage, *files]))
            raise InputProblem(f"{self.path}: is damaged ({first}); {remedy}")


def kept_backups(folder: Path) -> list[Backup]:
    """The complete backups in a folder, oldest first."""
    found = folder.iterdir() if os.access(folder, os.R_OK | os.X_OK) else ()
    return [Backup(one) for one in sorted(found) if NAME.fullmatch(one.name)]


def own_backups(folder: Path, engine: Engine) -> Iterator[Backup]:
    """Yield the complete backups of a record, newest first, without those from the future."""
    secret = Reader(engine).json(SECRET)
    now = datetime.now(UTC)
    for backup in reversed(kept_backups(folder)):
        if backup.taken_at <= now and backup.is_of(secret):
            yield backup


def remove_oldest(folder: Path, keep: int, engine: Engine) -> list[Backup]:
    """Remove the oldest backups of a record until so many are left; return those removed."""
    old = list(own_backups(folder, engine))[keep:][::-1]
    for backup in old:
        # Out of sight first: what is cut off is removed with the next backup.
        shutil.rmtree(backup.path.rename(backup.path.with_suffix(UNFINISHED)))
    return old


def write_backup(engine: Engine, data_dir: Path, folder: Path, reserved: int = 0) -> Backup:
    """Copies a record and its data directory, reads the copy, and only then gives it its name.

    Args:
        engine: of the record, with what lies outside of it.
        data_dir: of its services.
        folder: of the backups; it is made.
        reserved: bytes that have to stay free on its disk.

    Raises:
        InputProblem: the record is damaged, or another backup is being written.
        RecordUnavailable: Redis does not answer, or another copy of its record was begun.
        StorageFailed: the disk has too little room; nothing is left there.
    """
    try:
        make_folder(folder)
        with hold_folder(folder):
            for unfinished in folder.glob(f"*{UNFINISHED}"):
                shutil.rmtree(unfinished)
            _require_room(engine, data_dir, folder, reserved)
            # Two of one second would have one name.
            while (path := folder / f"{datetime.now(UTC):{NAME_FORMAT}}").exists():
                time.sleep(0.1)
            part = path.with_suffix(UNFINISHED)
            try:
                copied_at = _fill(engine, data_dir, part)
                backup = Backup(part.rename(folder / f"{copied_at:{NAME_FORMAT}}"))
            except BaseException:
                shutil.rmtree(part, ignore_errors=True)
                raise
            sync(folder)
    except BlockingIOError as error:
        raise InputProblem(f"{folder}: another backup is being written; wait for it") from error
    except OSError as error:
        raise StorageFailed(
            f"the backup could not be written to {folder} ({error.strerror}); nothing is left of "
            "it, free space there, or name another folder that this user may write"
        ) from error
    return backup


def copy_outside(engine: Engine, source: PictureFolder, target: PictureFolder) -> None:
    """Copies the files of a record's crops that lie outside of it, as far as they are there."""
    for entry in Galleries(engine).all():
        for crops in every_crop(Reader(engine), Generation.searched(entry), FILES_AT_ONCE):
            names = [one.crop_id for one in crops if one.elsewhere]
            for side in entry.outside_sides:
                names += [vector_name(one.crop_id, side) for one in crops]
            found = zip(names, source.get_all(entry.gallery_id, names), strict=True)
            there = {name: content for name, content in found if content is not None}
            target.put(entry.gallery_id, there)


def remove_gone(
    record: Record, later: Reader | None, removed: Collection[str] = ()
) -> dict[int, list[str]]:
    """Deletes crops that a later record has not got, and those of ids; answers ids by gallery."""
    gone: dict[int, list[str]] = {}
    for entry in record.galleries.all():
        number = entry.gallery_id
        there = find_generation(later, number) if later else Generation(number, 0)
        ids = gone[number] = list[str]()
        for crops in every_crop(Reader(record.engine), Generation.searched(entry), CROPS_AT_ONCE):
            keys = [there.lookup("crop id", one.crop_id) for one in crops]
            found = zip(crops, later.get(keys) if later else keys, strict=True)
            ids += [one.crop_id for one, own in found if own is None or one.crop_id in removed]
        for some in batches(ids, CROPS_AT_ONCE):
            record.crops.remove(number, some)
    return gone


def _fill(engine: Engine, data_dir: Path, part: Path) -> datetime:
    """Writes everything of a backup; answers a moment after that of the record."""
    make_folder(part)
    engine.copy_to(part / DATABASE_NAME)
    copied_at = datetime.now(UTC)
    # What counts the lines of the log first, as it must not be ahead of them.
    for path in (*data_dir.glob("audit*.acknowledged"), *data_dir.glob("audit.key")):
        copy_file(path, part / path.name)
    files: set[Path] = set()
    # A file that is full is renamed meanwhile.
    while left := set(audit_files(data_dir)) - files:
        for path in left:
            with contextlib.suppress(FileNotFoundError):
                copy_file(path, part / path.name)
        files |= left
    with contextlib.closing(SqliteEngine(part / DATABASE_NAME)) as copy:
        record = Record(copy)
        for gallery in record.galleries.all():
            for one in record.snapshots.all(gallery.gallery_id):
                name = snapshot_name(gallery.gallery_id, one.snapshot_id)
                # One that was deleted meanwhile is gone.
                with contextlib.suppress(FileNotFoundError):
                    copy_file(data_dir / name, part / name)
        if engine.outside:
            copy_outside(copy, engine.outside, PictureFolder(str(part / IMAGES)))
            # What was deleted meanwhile may lack its files.
            remove_gone(record, Reader(engine))
        copy.leave_no_log()
    Backup(part).require_whole(f"it is not kept; gmn store verify --data-dir {data_dir} has more")
    sync_below(part)
    return copied_at


def _require_room(engine: Engine, data_dir: Path, folder: Path, reserved: int) -> None:
    files = [*data_dir.glob(f"{SNAPSHOTS}/*/*"), *audit_files(data_dir)]
    needed = sum(one.stat().st_size for one in files) + engine.stored_bytes()
    if engine.outside:
        galleries = Galleries(engine).all()
        needed += sum(one.image_bytes + VECTOR_BYTES * one.crops for one in galleries)
    free = shutil.disk_usage(folder).free
    if free - needed < reserved:
        raise StorageFailed(
            f"the disk of {folder} has {free // MEBIBYTE} MiB left; the backup needs "
            f"{needed // MEBIBYTE} MiB, and {reserved // MEBIBYTE} MiB stay free "
            "(GMN_RESERVED_DISK_BYTES); nothing was written, delete old backups there"
        )
