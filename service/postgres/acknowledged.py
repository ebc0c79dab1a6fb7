"""The file of a machine that reveals an earlier or another state of a record in PostgreSQL."""

from __future__ import annotations

import logging
import os
import re
import zlib
from dataclasses import dataclass
from pathlib import Path

from service.ops.data_directory import replace_file

log = logging.getLogger(__name__)
NAME = "record.commit"
# Stands for the token of a commit that has none.
NO_TOKEN = "-"
LINE = re.compile(rb"(\d{20}) +([0-9a-f]{16}|-) (\d{20}) +([0-9a-f]{16}|-) [0-9a-f]{8}\n")


@dataclass(frozen=True)
class Commit:
    """A commit of a record.

    Attributes:
        token: tells it from a commit with the same number of another state of the record.
    """

    number: int
    token: str = NO_TOKEN


NO_COMMIT = Commit(0)


@dataclass(frozen=True)
class Acknowledged:
    """The commits of a record that a machine knows.

    Attributes:
        newest: the newest commit that it has acknowledged or shown.
        own: the newest one that it has made itself; `NO_COMMIT` if it has made none.
    """

    newest: Commit
    own: Commit = NO_COMMIT


class AcknowledgedState:
    """A file with the newest commits that a machine has acknowledged, and their checksum.

    It is created durably, and later overwritten in place, within one sector of the disk. That is
    not synced: it would cost time, and after a power cut an older state refuses nothing.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / NAME

    def read(self) -> Acknowledged | None:
        """Return the content of the file; None if it is missing or damaged."""
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            return None
        if found := LINE.fullmatch(content):
            newest, newest_token, own, own_token = found.groups()
            read = Acknowledged(
                Commit(int(newest), newest_token.decode()), Commit(int(own), own_token.decode())
            )
            if _as_line(read) == content:
                return read
        log.error(
            "%s is not what was written, so that it is unknown whether PostgreSQL lacks commits "
            "that this machine has acknowledged; it goes on with those that are there, and deletes "
            "again what deletions.log names",
            self.path,
        )
        return None

    def write(self, state: Acknowledged) -> None:
        """Write the file; never raises."""
        try:
            if not self.path.exists() or self.path.stat().st_size != len(_as_line(state)):
                replace_file(self.path, _as_line(state))
                return
            file = os.open(self.path, os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.pwrite(file, _as_line(state), 0)
            finally:
                os.close(file)
        except OSError as error:
            log.warning("%s could not be written: %s", self.path, error)


def _as_line(state: Acknowledged) -> bytes:
    parts = (f"{commit.number:020d} {commit.token:>16}" for commit in (state.newest, state.own))
    text = " ".join(parts).encode()
    return b"%b %08x\n" % (text, zlib.crc32(text))
