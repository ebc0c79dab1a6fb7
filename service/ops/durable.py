"""Files and folders that are still there after a power cut.

A file that was synced can be lost all the same: its name is kept by the folder, and a folder has to
be synced too, when a file is made, renamed or removed in it, and when it is made itself.
"""

from __future__ import annotations

import os
from pathlib import Path

PRIVATE = 0o700


def sync(path: Path) -> None:
    """Returns once a file's content, or a folder's names, would survive a power cut.

    Raises:
        OSError: where the disk does not take it.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(path: Path) -> None:
    """Makes a folder for its owner alone, with those above it, to survive a power cut.

    Raises:
        OSError: where it cannot be made.
    """
    if path.is_dir():
        return
    make_folder(path.parent)
    path.mkdir(exist_ok=True, mode=PRIVATE)
    # A folder that may be written but not read cannot be opened, and so not be synced.
    if os.access(path.parent, os.R_OK):
        sync(path.parent)


def sync_below(folder: Path) -> None:
    """Syncs a folder with everything in it, and its name.

    Raises:
        OSError: where the disk does not take it.
    """
    for place, _, names in os.walk(folder):
        for name in names:
            sync(Path(place) / name)
        sync(Path(place))
    sync(folder.parent)
