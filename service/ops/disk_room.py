"""Room on the disk that nothing new takes: a deletion has to be written as well."""

from __future__ import annotations

import contextlib
import errno
import shutil
from collections.abc import Iterator
from pathlib import Path

from service.errors import StorageFailed

MEBIBYTE = 1024 * 1024
FULL = (errno.ENOSPC, errno.EDQUOT)


class DiskRoom:
    """What is kept free on the disk of a directory, so that who runs full can still delete."""

    def __init__(self, path: Path, reserved_bytes: int) -> None:
        """Keeps room.

        Args:
            path: any directory of the disk.
            reserved_bytes: how much is kept free; 0 for nothing.
        """
        self._path = path
        self._reserved = reserved_bytes

    def require(self) -> None:
        """Raises `StorageFailed` where less is free than is kept for deletions."""
        free = shutil.disk_usage(self._path).free
        if free < self._reserved:
            raise StorageFailed(
                f"the disk of {self._path} has {free // MEBIBYTE} MiB left, which are kept for "
                "deletions; nothing was stored, free space there, delete crops, or lower "
                "GMN_RESERVED_DISK_BYTES"
            )


@contextlib.contextmanager
def full_disk_told() -> Iterator[None]:
    """Raises `StorageFailed` for what the block could not write because the disk is full."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise StorageFailed(
            f"{error.filename or 'a file'} could not be written ({error.strerror}); free space on "
            "its disk"
        ) from error
