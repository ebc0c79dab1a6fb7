"""The data directory: its lock, and how its files survive a power cut.

Syncing a file does not make its name durable: after a file is created, renamed or removed, its
folder must be synced too, and after a folder is created, the folder above it.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import logging
import os
import re
import shutil
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from secrets import token_hex
from typing import BinaryIO

from model.problems import InputProblem
from service.errors import StorageFailed
from service.ops.threads import heartbeat
from service.settings import Settings

PRIVATE = 0o700
IMPORTS = "imports"
# Name of the machine among those that share a record in PostgreSQL.
MACHINE = "machine"
EXPORTS = "exports"
LOCK = "lock"
# Suffix of files and folders that get their final name when they are complete.
UNFINISHED = ".part"
# Files unknown to the record are moved into a folder of this name beside them.
STRAY = "stray"
MEBIBYTE = 1024 * 1024
# A file whose space is released for deletions when the disk is full.
RESERVE = "reserve"
NETWORK_FILE_SYSTEMS = frozenset(
    ("nfs", "nfs4", "cifs", "smb3", "9p", "ceph", "glusterfs", "fuse.glusterfs", "fuse.sshfs")
)
MOUNTS = Path("/proc/self/mounts")
LOCKS = Path("/proc/locks")
# The kernel escapes spaces and backslashes of mount points as octal numbers.
ESCAPED = re.compile(r"\\(\d{3})")
MAX_RESERVE_BYTES = 256 * MEBIBYTE
# Enough for what a deletion writes to the record's journal and the audit log.
DELETION_BYTES = 8 * MEBIBYTE
log = logging.getLogger(__name__)


def failpoint(name: str) -> None:
    """Mark a place at which tests make the process die, fail or wait.

    Args:
        name: the operation, a dot, and the step that has just happened or comes next. A hook of the
            tests acts on this audit event; without one it costs nothing.
    """
    sys.audit(f"gmn.{name}")


def sync(path: Path) -> None:
    """Make a file's content, or a folder's names, survive a power cut; raises `OSError`."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_file(path: Path, content: bytes) -> None:
    """Write a small private file, of which a power cut leaves the former content or this one.

    Raises:
        OSError: the disk is full or fails; the file is as it was.
    """
    part = path.with_name(f"{path.name}.{token_hex(4)}{UNFINISHED}")
    try:
        write_private(part, content)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    sync(path.parent)


def write_private(path: Path, content: bytes) -> None:
    """Create a private file and sync its content; raises `OSError`, also if it is there."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def make_folder(path: Path) -> None:
    """Create a private folder and its parents durably; raises `OSError`."""
    if path.is_dir():
        return
    make_folder(path.parent)
    path.mkdir(exist_ok=True, mode=PRIVATE)
    # A folder that is writable but not readable cannot be opened, and so cannot be synced.
    if os.access(path.parent, os.R_OK):
        sync(path.parent)


def open_regular(path: Path) -> BinaryIO:
    """Open a file to read it; links are not followed, and other kinds of files are refused.

    Raises:
        OSError: it is missing, a link, a folder, a pipe or a device.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "is no ordinary file", str(path))
    return os.fdopen(descriptor, "rb")


def sync_below(folder: Path) -> None:
    """Sync a folder with everything in it, and its name; raises `OSError`."""
    for parent, _, names in os.walk(folder):
        for name in names:
            sync(Path(parent) / name)
        sync(Path(parent))
    sync(folder.parent)


def remove_folder(folder: Path) -> None:
    """Remove a folder that may have a million files, with heartbeats; raises `OSError`."""
    for parent, _, names in os.walk(folder):
        for name in names:
            heartbeat()
            # Files that stay are named when the folder is removed.
            with contextlib.suppress(OSError):
                (Path(parent) / name).unlink()
    shutil.rmtree(folder)


@contextlib.contextmanager
def unfinished_folder(path: Path) -> Iterator[Path]:
    """Create a folder beside `path` to be renamed to it once filled; removed if the block fails."""
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
    """Sync the whole file system that contains a path, in one call; raises `OSError`."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if ctypes.CDLL(None, use_errno=True).syncfs(descriptor) != 0:
            raise OSError(ctypes.get_errno(), "not synced", str(path))
    finally:
        os.close(descriptor)


def move_aside(path: Path, folder: Path, name: str) -> None:
    """Move an unknown file into a folder, under a free name; never raises."""
    try:
        make_folder(folder)
        target = folder / name
        if target.exists():
            target = folder / f"{token_hex(4)}-{name}"
        path.rename(target)
        log.warning("%s is in no record; moved to %s, look at it and delete it", path, target)
    except OSError as error:
        log.error("%s is in no record, and cannot be moved to %s: %s", path, folder, error)


@contextlib.contextmanager
def lock_data_directory(path: Path, shared: bool = False) -> Iterator[None]:
    """Create a data directory and lock it; the operating system unlocks it when the process dies.

    Args:
        shared: lock it together with other services; otherwise exclusively.

    Raises:
        InputProblem: the directory cannot be created or written, is on a network file system, or is
            locked by another process.
    """
    require_local_disk(path)
    try:
        make_folder(path)
        (path / LOCK).touch()
    except OSError as error:
        raise InputProblem(
            f"data directory {path}: cannot be used ({error.strerror}); name a directory that "
            "this user may write, with --data-dir or GMN_DATA_DIR"
        ) from error
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(hold(path / LOCK, shared))
        except BlockingIOError as error:
            raise InputProblem(
                f"data directory {path}: another process is serving it; stop it, or name another"
            ) from error
        yield


def require_local_disk(path: Path) -> None:
    """Raise `InputProblem` on a network file system, where SQLite's shared log does not work."""
    resolved = path.resolve()
    mounted: tuple[int, str] = (0, "")
    for line in MOUNTS.read_bytes().splitlines():
        _, mount_point, file_system, *_ = os.fsdecode(line).split(" ")
        mount_point = ESCAPED.sub(lambda match: chr(int(match[1], 8)), mount_point)
        # A later mount at the same place hides an earlier one.
        if resolved.is_relative_to(mount_point) and len(mount_point) >= mounted[0]:
            mounted = (len(mount_point), file_system)
    if mounted[1] in NETWORK_FILE_SYSTEMS:
        raise InputProblem(
            f"data directory {path}: lies on the network file system {mounted[1]}, on which "
            "processes cannot share a record; name a directory on a disk of this machine with "
            "--data-dir or GMN_DATA_DIR"
        )


def require_permission(path: Path, changes: bool) -> None:
    """Require that this user may use the files of a data directory, which may not exist yet.

    Args:
        changes: whether they are written, too.

    Raises:
        InputProblem: they may not be read, or not be written.
    """
    mode = os.R_OK | os.W_OK if changes else os.R_OK
    with contextlib.suppress(FileNotFoundError):
        is_usable = os.access(path, mode | os.X_OK) or not path.exists()
        files = [file for file in path.iterdir() if file.is_file()] if is_usable else []
        if is_usable and all(os.access(file, mode) for file in files):
            return
        raise InputProblem(
            f"data directory {path}: user {os.getuid()} may not {'write' if changes else 'read'} "
            f"it, which belongs to user {path.stat().st_uid}; run the command as the user of the "
            "service, such as with sudo -u"
        )


def is_held(path: Path) -> bool:
    """Return whether another process has locked a file, as far as this machine's kernel tells.

    A lock taken to find out would be in the way of a service that starts meanwhile.
    """
    with contextlib.suppress(OSError):
        status = path.stat()
        device = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}"
        return f" {device}:{status.st_ino} " in LOCKS.read_text()
    return False


@contextlib.contextmanager
def hold(path: Path, shared: bool = False) -> Iterator[None]:
    """Lock a file or folder; raises `BlockingIOError` if another process holds it."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def export_lock(data_dir: Path, gallery_id: int) -> Path:
    """Return the lock file that serialises changes of a gallery's exports across processes."""
    return data_dir / "locks" / f"exports-{gallery_id}"


def left_for_deletions(data_dir: Path) -> int:
    """Return the free bytes on the disk and the size of the reserve.

    Raises:
        StorageFailed: the disk does not answer.
    """
    try:
        return shutil.disk_usage(data_dir).free + file_bytes(data_dir / RESERVE)
    except OSError as error:
        raise StorageFailed(
            f"the disk of {data_dir} does not answer ({error.strerror}); nothing was stored, see "
            "dmesg for its errors"
        ) from error


def hold_reserve(settings: Settings) -> bool:
    """Reserve disk space for deletions in a file, as far as others leave enough for a deletion.

    Returns:
        False if the file cannot be written, which is logged.
    """
    path = settings.data_dir / RESERVE
    held = file_bytes(path)
    free = shutil.disk_usage(settings.data_dir).free
    # A deletion under way may have been given what is free.
    spare = min(free // 2, free - DELETION_BYTES)
    wanted = min(settings.reserved_disk_bytes // 2, MAX_RESERVE_BYTES, held + spare)
    if wanted <= held:
        return True
    try:
        with path.open("ab") as file:
            os.posix_fallocate(file.fileno(), 0, wanted)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            # Another program was faster.
            return True
        log.warning("%s: no space could be reserved for deletions (%s)", path, error.strerror)
        return False
    return True


def give_up_reserve(data_dir: Path) -> None:
    """Release as much of the reserve as the disk lacks for a deletion; never raises."""
    path = data_dir / RESERVE
    with contextlib.suppress(OSError):
        lacking = DELETION_BYTES - shutil.disk_usage(data_dir).free
        if lacking > 0:
            os.truncate(path, max(0, file_bytes(path) - lacking))


def file_bytes(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def require_free_disk(settings: Settings) -> None:
    """Raise `StorageFailed` if the free space is needed for deletions."""
    left = left_for_deletions(settings.data_dir)
    if left < settings.reserved_disk_bytes:
        raise StorageFailed(
            f"the disk of {settings.data_dir} has {left // MEBIBYTE} MiB left, which are kept for "
            "deletions; nothing was stored, free space there, delete crops, or lower "
            "GMN_RESERVED_DISK_BYTES"
        )
