"""The file beside the record that reveals an older copy: the last acknowledged changes."""

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
TOKEN_BYTES = 8
ENTRY = struct.Struct(f"<q{TOKEN_BYTES}sxxxxI")
# Entry for the record's commits, many of which belong to no feed.
COMMITS = -1


class Mark(NamedTuple):
    """The last acknowledged change or commit: its number and a token of 8 random bytes."""

    seq: int
    token: bytes


class Marks:
    """A file with an entry for each gallery, and one for the record's commits.

    The holder of the record's lock writes an entry after a commit is on the disk and before it is
    acknowledged. Entries are not synced: that would cost time, and an entry could then exceed the
    state left by a power cut. Only the zeros for a deleted gallery are synced.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self, galleries: Iterable[int] | None = None) -> dict[int, Mark]:
        """Read the entries of the given galleries, or all entries; damaged ones are omitted."""
        content = self.path.read_bytes() if self.path.exists() else b""
        if galleries is None:
            galleries = range(COMMITS, len(content) // ENTRY.size + COMMITS)
        marks = {}
        for gallery_id in galleries:
            offset = _find_offset(gallery_id)
            entry = content[offset : offset + ENTRY.size]
            if any(entry):
                seq, token, checksum = ENTRY.unpack(entry)
                if checksum == _checksum(gallery_id, seq, token):
                    marks[gallery_id] = Mark(seq, token)
                else:
                    log.warning("%s: entry %d is not what was written", self.path, gallery_id)
        return marks

    def note(self, acknowledged: Mapping[int, Mark | None]) -> None:
        """Write entries, or zeros for a deleted gallery (None); never raises."""
        try:
            file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, PRIVATE_FILE)
            try:
                for gallery_id, mark in acknowledged.items():
                    entry = bytes(ENTRY.size)
                    if mark:
                        entry = ENTRY.pack(*mark, _checksum(gallery_id, *mark))
                    os.pwrite(file, entry, _find_offset(gallery_id))
                if None in acknowledged.values():
                    # The entry of a deleted gallery must not survive a power cut.
                    os.fdatasync(file)
            finally:
                os.close(file)
        except OSError as error:
            log.warning("%s could not be written: %s", self.path, error)


def _find_offset(gallery_id: int) -> int:
    return (gallery_id - COMMITS) * ENTRY.size


def _checksum(gallery_id: int, seq: int, token: bytes) -> int:
    return zlib.crc32(struct.pack("<qq8s", gallery_id, seq, token))
