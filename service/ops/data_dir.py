"""The data directory: made, locked against processes that may not share it, and never filled up."""

from __future__ import annotations

import contextlib
import fcntl
import shutil
from collections.abc import Iterator
from pathlib import Path

from model.problems import InputProblem
from service.errors import DamagedRecord, StorageFailed
from service.ops.durable import make_folder
from service.settings import Settings

DATABASE_NAME = "galleries.sqlite3"
SNAPSHOTS = "snapshots"
SNAPSHOT_SUFFIX = ".gmn"
MEBIBYTE = 1024 * 1024


@contextlib.contextmanager
def lock_data_directory(path: Path, shared: bool = False) -> Iterator[None]:
    """Makes a data directory and locks it; the operating system unlocks it when the process dies.

    Args:
        path: of the directory.
        shared: with processes that share it too, as the record is elsewhere.

    Raises:
        InputProblem: where the directory cannot be made or written, or another process holds it.
    """
    try:
        make_folder(path)
        lock = (path / "lock").open("ab")
    except OSError as error:
        raise InputProblem(
            f"data directory {path}: cannot be used ({error.strerror}); name a directory that "
            "this user may write, with --data-dir or GMN_DATA_DIR"
        ) from error
    with lock:
        try:
            fcntl.flock(lock, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except OSError as error:
            raise InputProblem(
                f"data directory {path}: another process is serving it; stop that one, or name "
                "another directory with --data-dir (processes share one where all of them have the "
                "same GMN_REDIS_URL)"
            ) from error
        yield


def require_record(path: Path) -> None:
    """Refuses to begin anew beside the snapshots of a record that is gone.

    Files of an unknown record would be removed as strays.

    Raises:
        DamagedRecord: where there are snapshots and no database.
    """
    snapshots = list(path.glob(f"{SNAPSHOTS}/*/*{SNAPSHOT_SUFFIX}"))
    if snapshots and not (path / DATABASE_NAME).exists():
        raise DamagedRecord(
            path / DATABASE_NAME, f"it is gone, and {len(snapshots)} snapshots are left"
        )


def require_free_disk(settings: Settings) -> None:
    """Raises `StorageFailed` where the disk has no more room than deletions may need."""
    free = shutil.disk_usage(settings.data_dir).free
    if free < settings.reserved_disk_bytes:
        raise StorageFailed(
            f"the disk of {settings.data_dir} has {free // MEBIBYTE} MiB left, which are kept for "
            "deletions; nothing was stored, free space there, delete crops, or lower "
            "GMN_RESERVED_DISK_BYTES"
        )
