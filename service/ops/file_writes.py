"""Notices of writes to a file, by the kernel (inotify)."""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress
from pathlib import Path

# A file was written or cut; from sys/inotify.h.
IN_MODIFY = 2
NOTICES_BYTES = 4096


class FileWrites:
    """Tells when any process of this machine writes to a file.

    It opens no descriptor of the file, whose closing would drop locks of this process on it.

    Raises:
        OSError: the file does not exist, or the limits of the machine on notices are reached.

    Attributes:
        descriptor: is readable once the file was written.
    """

    def __init__(self, path: Path) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self.descriptor = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self.descriptor < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        if libc.inotify_add_watch(self.descriptor, os.fsencode(path), IN_MODIFY) < 0:
            error = ctypes.get_errno()
            self.close()
            raise OSError(error, os.strerror(error), str(path))

    def take(self) -> bool:
        """Return whether the file was written since the last call."""
        with suppress(BlockingIOError):
            return bool(os.read(self.descriptor, NOTICES_BYTES))
        return False

    def close(self) -> None:
        os.close(self.descriptor)
