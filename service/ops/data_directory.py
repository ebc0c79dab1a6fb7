"""The data directory: its lock, its files, and what of it is still there after a power cut.

A file that was synced can be lost all the same: its name is kept by the folder, and a folder has to
be synced too, when a file is made, renamed or removed in it, and when it is made itself.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from secrets import token_hex

from model.problems import InputProblem
from service.errors import StorageFailed
from service.settings import Settings

PRIVATE = 0o700
DATABASE_NAME = "galleries.sqlite3"
SNAPSHOTS = "snapshots"
IMPORTS = "imports"
# The ending of files and folders that get their names once they are complete.
UNFINISHED = ".part"
INDEXES = "indexes"
# Files that no record names are moved into a folder of this name beside them.
STRAY = "stray"
SNAPSHOT_SUFFIX = ".gmn"
MEBIBYTE = 1024 * 1024
# The file whose space deletions get on a full disk, and how much of it at once: the journal of the
# record and the lines in the audit log have room in it.
RESERVE = "reserve"
WORKERS = "workers"
NETWORK_FILE_SYSTEMS = frozenset(
    ("nfs", "nfs4", "cifs", "smb3", "9p", "ceph", "glusterfs", "fuse.glusterfs", "fuse.sshfs")
)
MAX_RESERVE_BYTES = 256 * MEBIBYTE
DELETION_BYTES = 8 * MEBIBYTE
log = logging.getLogger(__name__)


def sync(path: Path) -> None:
    """Make a file's content, or a folder's names, survive a power cut; raises `OSError`."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(path: Path) -> None:
    """Make a private folder and those above it, durably; raises `OSError`."""
    if path.is_dir():
        return
    make_folder(path.parent)
    path.mkdir(exist_ok=True, mode=PRIVATE)
    # A folder that may be written but not read cannot be opened, and so not be synced.
    if os.access(path.parent, os.R_OK):
        sync(path.parent)


def copy_file(path: Path, to: Path) -> None:
    """Copy a file into a folder, which is made, durably; raises `OSError`."""
    make_folder(to.parent)
    # With its rights: the key of the audit log is its owner's alone.
    shutil.copy(path, to)
    sync(to)
    sync(to.parent)


def sync_below(folder: Path) -> None:
    """Sync a folder with everything in it, and its name; raises `OSError`."""
    for place, _, names in os.walk(folder):
        for name in names:
            sync(Path(place) / name)
        sync(Path(place))
    sync(folder.parent)


@contextlib.contextmanager
def unfinished_folder(path: Path) -> Iterator[Path]:
    """Make a folder beside `path`, to be put there once it is filled; removed where that fails."""
    part = path.with_name(f"{path.name}.{token_hex(8)}{UNFINISHED}")
    try:
        make_folder(part)
        yield part
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def put_in_place(part: Path, path: Path) -> None:
    sync_below(part)
    part.rename(path)
    sync(path.parent)


def sync_disk(path: Path) -> None:
    """Sync all of the file system that holds a path, by one call; raises `OSError`."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if ctypes.CDLL(None, use_errno=True).syncfs(descriptor) != 0:
            raise OSError(ctypes.get_errno(), "not synced", str(path))
    finally:
        os.close(descriptor)


def move_aside(path: Path, folder: Path, name: str, why: str = "is in no record") -> None:
    """Move a useless file into a folder, under a name that is free; never raises."""
    try:
        make_folder(folder)
        target = folder / name
        if target.exists():
            target = folder / f"{token_hex(4)}-{name}"
        path.rename(target)
        log.warning("%s %s; moved to %s, look at it and delete it", path, why, target)
    except OSError as error:
        log.error("%s %s, and cannot be moved to %s: %s", path, why, folder, error)


@contextlib.contextmanager
def lock_data_directory(path: Path, shared: bool = False) -> Iterator[None]:
    """Make a data directory and lock it; the operating system unlocks it when the process dies.

    Args:
        shared: with services, which share it with each other; else with nobody.

    Raises:
        InputProblem: the directory cannot be made or written, lies on a network file system, or
            another process holds it.
    """
    require_local_disk(path)
    try:
        make_folder(path)
        (path / "lock").touch()
    except OSError as error:
        raise InputProblem(
            f"data directory {path}: cannot be used ({error.strerror}); name a directory that "
            "this user may write, with --data-dir or GMN_DATA_DIR"
        ) from error
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(hold(path / "lock", shared))
        except BlockingIOError as error:
            raise InputProblem(
                f"data directory {path}: another process is serving it; stop that one, or name "
                "another directory with --data-dir"
            ) from error
        yield


def require_local_disk(path: Path) -> None:
    """Raise `InputProblem` for a network file system, on which SQLite's shared log cannot work."""
    resolved = path.resolve()
    mounted: tuple[int, str] = (0, "")
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, place, kind, *_ = line.split(" ")
        place = place.encode().decode("unicode_escape")
        if resolved.is_relative_to(place):
            mounted = max(mounted, (len(place), kind))
    if mounted[1] in NETWORK_FILE_SYSTEMS:
        raise InputProblem(
            f"data directory {path}: lies on the network file system {mounted[1]}, on which "
            "processes cannot share a record; name a directory on a disk of this machine with "
            "--data-dir or GMN_DATA_DIR"
        )


@contextlib.contextmanager
def hold_worker(data_dir: Path, worker: str) -> Iterator[None]:
    """Show other processes that a worker lives; the operating system ends that with the process."""
    path = data_dir / WORKERS / worker
    make_folder(path.parent)
    path.touch()
    with hold(path):
        yield
        path.unlink(missing_ok=True)


def is_alive(data_dir: Path, worker: str) -> bool:
    """Return whether the process of a worker is there, on this machine or in its containers."""
    path = data_dir / WORKERS / worker
    try:
        with hold(path, shared=True):
            path.unlink(missing_ok=True)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        pass
    return False


@contextlib.contextmanager
def hold(path: Path, shared: bool = False) -> Iterator[None]:
    """Lock a file, or a folder such as an upload's; raises `BlockingIOError` where it is locked."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def snapshot_name(gallery_id: int | str, snapshot_id: str) -> str:
    return f"{SNAPSHOTS}/{gallery_id}/{snapshot_id}{SNAPSHOT_SUFFIX}"


def left_for_deletions(data_dir: Path) -> int:
    """Return the free bytes of the disk and those of the reserve; raises `OSError`."""
    return shutil.disk_usage(data_dir).free + _size(data_dir / RESERVE)


def hold_reserve(settings: Settings) -> None:
    """Take disk space for deletions, up to half of the free space, in a file of its own."""
    path = settings.data_dir / RESERVE
    held = _size(path)
    free = shutil.disk_usage(settings.data_dir).free
    wanted = min(settings.reserved_disk_bytes // 2, MAX_RESERVE_BYTES, held + free // 2)
    if wanted <= held:
        return
    try:
        with path.open("ab") as file:
            os.posix_fallocate(file.fileno(), 0, wanted)
    except OSError as error:
        log.warning("%s: no space could be reserved for deletions (%s)", path, error.strerror)


def give_up_reserve(data_dir: Path) -> None:
    """Free a part of the reserve where the disk has less than a deletion may need; never raises."""
    path = data_dir / RESERVE
    with contextlib.suppress(OSError):
        if shutil.disk_usage(data_dir).free < DELETION_BYTES:
            os.truncate(path, max(0, _size(path) - DELETION_BYTES))


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def require_free_disk(settings: Settings) -> None:
    """Raise `StorageFailed` where the disk has no more room than deletions may need."""
    left = left_for_deletions(settings.data_dir)
    if left < settings.reserved_disk_bytes:
        raise StorageFailed(
            f"the disk of {settings.data_dir} has {left // MEBIBYTE} MiB left, which are kept for "
            "deletions; nothing was stored, free space there, delete crops, or lower "
            "GMN_RESERVED_DISK_BYTES"
        )
