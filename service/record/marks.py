"""Marks beside the record, of acknowledged changes and deleted crops: older copies lack them."""

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
ENTRY = struct.Struct("<q8sxxxxI")
# The record's commits, in the place of a gallery: many belong to no feed.
COMMITS = -1


class Mark(NamedTuple):
    """The last acknowledged change or commit: its number, and its token of 8 random bytes."""

    seq: int
    token: bytes


class Marks:
    """A file with an entry for each gallery, and for the record's commits.

    The process that holds the record's lock writes an entry once a commit is on the disk and before
    it is acknowledged. It is not synced, so that it costs nothing and never exceeds what a power
    cut left. Only the zeros of a deleted gallery are synced.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self, galleries: Iterable[int] | None = None) -> dict[int, Mark]:
        """Read the entries of galleries, or every one; one that is damaged is left out."""
        content = self.path.read_bytes() if self.path.exists() else b""
        if galleries is None:
            galleries = range(COMMITS, len(content) // ENTRY.size + COMMITS)
        found = {}
        for gallery_id in galleries:
            place = _place(gallery_id)
            entry = content[place : place + ENTRY.size]
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
                    os.pwrite(file, entry, _place(gallery_id))
                if None in acknowledged.values():
                    # A power cut must not leave the entry of a gallery that is gone.
                    os.fdatasync(file)
            finally:
                os.close(file)
        except OSError as error:
            log.warning("%s could not be written: %s", self.path, error)

    def clear(self) -> None:
        self.path.unlink(missing_ok=True)


class DeletedIds:
    """A file with the ids of deleted crops, a line each, beside the record.

    An older copy of the record that is put in its place has the crops again, and no trace of their
    deletion: a start removes them by this file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> list[str]:
        body = self.path.read_bytes() if self.path.exists() else b""
        # A line that a power cut tore was not acknowledged.
        return body.decode(errors="replace").split("\n")[:-1]

    def add(self, ids: Iterable[str]) -> None:
        """Append ids, which are on the disk afterwards; never raises."""
        lines = "".join(f"{crop_id}\n" for crop_id in ids).encode()
        if not lines:
            return
        try:
            is_new = not self.path.exists()
            flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
            with os.fdopen(os.open(self.path, flags, PRIVATE_FILE), "r+b") as file:
                end = file.seek(0, os.SEEK_END)
                torn = end > 0 and os.pread(file.fileno(), 1, end - 1) != b"\n"
                file.write(b"\n" * torn + lines)
                file.flush()
                os.fdatasync(file.fileno())
            if is_new:
                sync(self.path.parent)
        except OSError as error:
            log.warning("%s could not be written: %s", self.path, error)

    def drop(self, ids: Collection[str]) -> None:
        """Drop ids that no copy can bring back any more; never raises."""
        kept = [crop_id for crop_id in self.read() if crop_id not in ids]
        beside = DeletedIds(self.path.with_suffix(".part"))
        with contextlib.suppress(OSError):
            beside.path.unlink(missing_ok=True)
            beside.add(kept or [""])
            beside.path.replace(self.path)


def _place(gallery_id: int) -> int:
    return (gallery_id - COMMITS) * ENTRY.size


def _checksum(gallery_id: int, seq: int, token: bytes) -> int:
    return zlib.crc32(struct.pack("<qq8s", gallery_id, seq, token))
