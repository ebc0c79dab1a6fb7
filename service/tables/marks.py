"""What was acknowledged, noted beside the record: by it an older copy in its place is found out."""

from __future__ import annotations

import logging
import os
import struct
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

log = logging.getLogger(__name__)
PRIVATE_FILE = 0o600
ENTRY = struct.Struct("<q8sxxxxI")


class Mark(NamedTuple):
    """The last acknowledged change of a gallery: its number, and its token of 8 random bytes."""

    seq: int
    token: bytes


class Marks:
    """A file with an entry for each gallery, written by the process that holds the record's lock.

    An entry is written once a commit is on the disk and before it is acknowledged. It is not
    synced, so that it costs nothing and never exceeds what a power cut left.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self, galleries: Iterable[int] | None = None) -> dict[int, Mark]:
        """Read the entries of galleries, or every one; one that is damaged is left out."""
        content = self.path.read_bytes() if self.path.exists() else b""
        if galleries is None:
            galleries = range(len(content) // ENTRY.size)
        found = {}
        for gallery_id in galleries:
            entry = content[gallery_id * ENTRY.size : (gallery_id + 1) * ENTRY.size]
            if any(entry):
                seq, token, checksum = ENTRY.unpack(entry)
                if checksum == _checksum(gallery_id, seq, token):
                    found[gallery_id] = Mark(seq, token)
                else:
                    log.warning("%s: entry %d is not what was written", self.path, gallery_id)
        return found

    def note(self, acknowledged: Mapping[int, Mark | None]) -> None:
        """Write entries, and zeros for a gallery that was deleted; never raises."""
        try:
            file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, PRIVATE_FILE)
            try:
                for gallery_id, mark in acknowledged.items():
                    entry = bytes(ENTRY.size)
                    if mark:
                        entry = ENTRY.pack(*mark, _checksum(gallery_id, *mark))
                    os.pwrite(file, entry, gallery_id * ENTRY.size)
            finally:
                os.close(file)
        except OSError as error:
            log.warning("%s could not be written: %s", self.path, error)

    def clear(self) -> None:
        """Forget everything that was acknowledged."""
        self.path.unlink(missing_ok=True)


def _checksum(gallery_id: int, seq: int, token: bytes) -> int:
    return zlib.crc32(struct.pack("<qq8s", gallery_id, seq, token))
