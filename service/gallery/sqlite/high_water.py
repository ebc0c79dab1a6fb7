"""Up to which commit a database was acknowledged, noted beside it.

SQLite takes a log whose end is damaged or cut off for one that a power cut has left, and opens
without what was in it. The note tells the one from the other: it is written after the commit is on
the disk, and not synced, so that it costs nothing and never promises what a power cut may take.
"""

from __future__ import annotations

import logging
import os
import zlib
from pathlib import Path

log = logging.getLogger(__name__)
SUFFIX = ".acknowledged"


class HighWaterMark:
    """A file beside a database; the processes that write the database write it too."""

    def __init__(self, database: Path) -> None:
        """Opens nothing yet.

        Args:
            database: the SQLite file.
        """
        self.path = database.with_suffix(SUFFIX)

    def read(self) -> int:
        """The commit that was noted last; 0 where none was, or where a power cut took the note."""
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            return 0
        if not content.strip(b"\0"):
            return 0
        number = content.partition(b" ")[0]
        if content != _line(number):
            log.warning("%s is not what was written; the next write writes it anew", self.path)
            return 0
        return int(number)

    def note(self, number: int) -> None:
        """Notes a commit that is on the disk; never raises, as it has happened."""
        try:
            file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.pwrite(file, _line(b"%020d" % number), 0)
            finally:
                os.close(file)
        except OSError as error:
            log.warning("%s could not be written: %s", self.path, error)


def _line(number: bytes) -> bytes:
    return b"%s %08x\n" % (number, zlib.crc32(number))
