"""The file beside the record that reveals an older copy: the number of the newest commit."""

from __future__ import annotations

import logging
import os
import zlib
from pathlib import Path

log = logging.getLogger(__name__)
PRIVATE_FILE = 0o600
NAME = "record.commit"
DIGITS = 20


class AcknowledgedCommit:
    """A file with the number of the newest commit that was acknowledged, and a checksum of it.

    The holder of the record's lock writes it after a commit is on the disk and before that is
    acknowledged. It is not synced: that would cost time, and after a power cut an older number
    refuses nothing.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / NAME

    def read(self) -> int | None:
        """Return the number; None if the file is missing or damaged."""
        if not self.path.exists():
            return None
        content = self.path.read_bytes()
        digits = content[:DIGITS]
        if digits.isdigit() and content == _as_line(int(digits)):
            return int(digits)
        log.warning("%s is not what was written", self.path)
        return None

    def write(self, number: int) -> None:
        """Write the number; never raises."""
        try:
            file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, PRIVATE_FILE)
            try:
                os.pwrite(file, _as_line(number), 0)
            finally:
                os.close(file)
        except OSError as error:
            log.warning("%s could not be written: %s", self.path, error)


def _as_line(number: int) -> bytes:
    digits = b"%0*d" % (DIGITS, number)
    return b"%b %08x\n" % (digits, zlib.crc32(digits))
