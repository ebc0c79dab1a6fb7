"""A folder in memory for what tests write: they kill processes and no machine."""

import os
import shutil
from pathlib import Path

MEMORY = Path("/dev/shm")
GIBIBYTE = 1024**3


def memory_folder(free_bytes=GIBIBYTE):
    """Return a file system in memory with enough room; None if there is none that runs programs.

    Args:
        free_bytes: upper bound on what will be written there.
    """
    if not MEMORY.is_dir() or shutil.disk_usage(MEMORY).free < free_bytes:
        return None
    return None if os.statvfs(MEMORY).f_flag & os.ST_NOEXEC else MEMORY
