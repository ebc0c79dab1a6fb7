"""Files beside the record that reveal an older copy: acknowledged changes and deleted ids."""

from __future__ import annotations

import contextlib
import logging
import os
import struct
import zlib
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from service.ops.data_directory import sync

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


class DeletedIds:
    """A file beside the record with the ids of deleted crops, one per line.

    An older copy of the record put in its place would bring the crops back without a trace of their
    deletion. The next start deletes them by this file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> list[str]:
        body = self.path.read_bytes() if self.path.exists() else b""
        # A line torn by a power cut was never acknowledged.
        lines = body.decode(errors="replace").split("\n")[:-1]
        return [line for line in lines if line]

    def add(self, ids: Collection[str]) -> None:
        """Append ids and sync them to disk; never raises."""
        if not ids:
            return
        try:
            self._append(ids)
        except OSError as error:
            log.warning("%s could not be written: %s", self.path, error)

    def drop(self, ids: Collection[str]) -> None:
        """Drop ids that no copy can bring back, or keep all on a full disk; never raises."""
        if not ids:
            return
        dropped = set(ids)
        kept = [crop_id for crop_id in self.read() if crop_id not in dropped]
        temporary = DeletedIds(self.path.with_suffix(".part"))
        with contextlib.suppress(OSError):
            temporary.path.unlink(missing_ok=True)
            temporary._append(kept)
            temporary.path.replace(self.path)

    def _append(self, ids: Collection[str]) -> None:
        # Begin with a line break, which ends a torn line.
        lines = "".join(["\n", *(f"{crop_id}\n" for crop_id in ids)])
        is_new = not self.path.exists()
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        with os.fdopen(os.open(self.path, flags, PRIVATE_FILE), "ab") as file:
            file.write(lines.encode())
            file.flush()
            os.fdatasync(file.fileno())
        if is_new:
            sync(self.path.parent)


def _find_offset(gallery_id: int) -> int:
    return (gallery_id - COMMITS) * ENTRY.size


def _checksum(gallery_id: int, seq: int, token: bytes) -> int:
    return zlib.crc32(struct.pack("<qq8s", gallery_id, seq, token))
