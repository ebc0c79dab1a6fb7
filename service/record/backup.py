"""Backups of a data directory with SQLite, made also while it is served.

A backup is a folder named by its time. It holds the record at one moment, the snapshots that this
names, and the audit log. Indexes are left out, as they are filled from the record; so are uploads
of imports, as jobs end with a restore, and images at GMN_IMAGES_URL, which has tools of its own.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from model.problems import InputProblem
from service.errors import StorageFailed
from service.ops.audit import audit_files
from service.ops.data_directory import (
    DATABASE_NAME,
    MEBIBYTE,
    SNAPSHOTS,
    copy_file,
    hold_folder,
    make_folder,
    snapshot_name,
    sync,
    sync_below,
)
from service.record.files import Snapshots
from service.record.galleries import Galleries
from service.record.sqlite_engine import SqliteEngine
from service.record.verification import verify_file

NAME, NAME_FORMAT = re.compile(r"\d{8}T\d{6}Z"), "%Y%m%dT%H%M%SZ"
UNFINISHED = ".part"


@dataclass(frozen=True)
class Backup:
    """A backup that is complete."""

    path: Path

    @property
    def taken_at(self) -> datetime:
        """No crop that was enrolled in a later second is in it."""
        return datetime.strptime(self.path.name, NAME_FORMAT).replace(tzinfo=UTC)

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
    names = (one.name for one in folder.iterdir()) if folder.is_dir() else ()
    return [Backup(folder / name) for name in sorted(names) if NAME.fullmatch(name)]


def remove_oldest(folder: Path, keep: int) -> list[Backup]:
    """Removes the oldest backups of a folder until so many are left; answers those removed."""
    old = kept_backups(folder)[:-keep]
    for one in old:
        # Out of sight first: what is cut off is removed with the next backup.
        shutil.rmtree(one.path.rename(one.path.with_suffix(UNFINISHED)))
    return old


def write_backup(data_dir: Path, folder: Path, reserved: int = 0) -> Backup:
    """Copies a data directory, reads the copy, and only then gives it its name.

    Args:
        folder: of the backups; it is made.
        reserved: bytes that have to stay free on its disk.

    Raises:
        InputProblem: there is no record, or it is damaged, or another backup is being written.
        StorageFailed: the disk has too little room; nothing is left there.
    """
    database = data_dir / DATABASE_NAME
    if not database.is_file():
        raise InputProblem(f"{database}: there is no record; name the service's with --data-dir")
    try:
        make_folder(folder)
        with hold_folder(folder):
            for unfinished in folder.glob(f"*{UNFINISHED}"):
                shutil.rmtree(unfinished)
            _require_room(data_dir, folder, reserved)
            # Two of one second would have one name.
            while (path := folder / f"{datetime.now(UTC):{NAME_FORMAT}}").exists():
                time.sleep(0.1)
            part = path.with_suffix(UNFINISHED)
            try:
                copied_at = _fill(data_dir, part)
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


def _fill(data_dir: Path, part: Path) -> datetime:
    """Writes everything of a backup; answers a moment after that of the record."""
    make_folder(part)
    with contextlib.closing(SqliteEngine(data_dir / DATABASE_NAME, only_read=True)) as engine:
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
    with contextlib.closing(SqliteEngine(part / DATABASE_NAME, only_read=True)) as engine:
        for gallery in Galleries(engine).all():
            for one in Snapshots(engine).all(gallery.gallery_id):
                name = snapshot_name(gallery.gallery_id, one.snapshot_id)
                # One that was deleted meanwhile is gone.
                with contextlib.suppress(FileNotFoundError):
                    copy_file(data_dir / name, part / name)
    Backup(part).require_whole(f"it is not kept; gmn store verify --data-dir {data_dir} has more")
    sync_below(part)
    return copied_at


def _require_room(data_dir: Path, folder: Path, reserved: int) -> None:
    files = [*data_dir.glob(f"{DATABASE_NAME}*"), *data_dir.glob(f"{SNAPSHOTS}/*/*")]
    needed = sum(one.stat().st_size for one in [*files, *audit_files(data_dir)])
    free = shutil.disk_usage(folder).free
    if free - needed < reserved:
        raise StorageFailed(
            f"the disk of {folder} has {free // MEBIBYTE} MiB left; the backup needs "
            f"{needed // MEBIBYTE} MiB, and {reserved // MEBIBYTE} MiB stay free "
            "(GMN_RESERVED_DISK_BYTES); nothing was written, delete old backups there"
        )
