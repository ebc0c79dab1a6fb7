"""The mark of the last commit that was acknowledged, by which a lost end is found out."""

from __future__ import annotations

import fcntl
import logging
import os
import zlib
from dataclasses import dataclass
from pathlib import Path

log = logging.getLogger(__name__)
ACKNOWLEDGED_SUFFIX = ".acknowledged"


@dataclass(frozen=True)
class LastCommitMark:
    """A file beside a log, which every process writes that appends to the log.

    An end that was cut off looks like the rest of a power cut. The mark distinguishes the two: it
    is written once the end is on the disk, and is not synced, so that it never exceeds the data
    that a power cut left.
    """

    path: Path

    def read(self) -> tuple[str, int]:
        """Read the name of the record and the number of the commit that was noted last.

        Returns:
            No name and 0 where none was noted, or where a power cut took the note.
        """
        content = self.path.read_bytes() if self.path.exists() else b""
        if not content.strip(b"\0"):
            return "", 0
        body, _, checksum = content.rpartition(b" ")
        if checksum != b"%08x\n" % zlib.crc32(body):
            log.warning("%s is not what was written; the next write writes it anew", self.path)
            return "", 0
        record, _, number = body.decode().rpartition(" ")
        return record, int(number)

    def clear(self) -> None:
        self.path.unlink(missing_ok=True)

    def note(self, number: int, record: str = "record") -> None:
        """Note a commit that is on the disk; never raises, as it has happened.

        Of several processes one may come late: a later commit stays noted, and so does one of
        another record.
        """
        try:
            file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(file, fcntl.LOCK_EX)
                noted, newest = self.read()
                if noted in ("", record) and newest < number:
                    body = f"{record} {number:020d}".encode()
                    os.pwrite(file, b"%s %08x\n" % (body, zlib.crc32(body)), 0)
            finally:
                os.close(file)
        except OSError as error:
            log.warning("%s could not be written: %s", self.path, error)
