"""The log of deletions beside a record: ids that no restore and no import may bring back.

Triggers of the record write a row of the table `deletions` in the commit that deletes something.
The rows become lines of the log before the deletion is acknowledged. The lines are numbered, and a
record in SQLite knows the newest one that it has: later ones are of a later state of it. The first
line says since when the log has the deletions of its record.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, BinaryIO

from pydantic import AwareDatetime, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as stored_dataclass
from pydantic_core import to_json

from service.ops.data_directory import open_regular, sync
from service.record.vectors import PRIVATE_FILE

LOG_NAME = "deletions.log"
KEPT_FOR = timedelta(days=400)
# The log is written anew when its first line is older by this than a line has to be kept.
TRIMMED_AFTER = timedelta(days=10)
MOST_LINE_BYTES = 1000
MOST_ID_LENGTH = 200
MOST_KIND_LENGTH = 20
# Every engine, and JSON in any program, has room for these.
NUMBERS = 2**53
GALLERY_ID = re.compile(r"[0-9]{1,9}-[0-9]{1,18}")


@stored_dataclass(frozen=True)
class Deletion:
    """A line of the log.

    Attributes:
        number: counts the lines; that of the first one, `since`, is the number before the next one.
        kind: kind of the deleted item, one of `Record.deletion_kinds`. `secret` is the former
            secret of a rotated key, `keyless` the service that answered without a key, and `job`
            also a report from which a name was removed. `since` is the first line, and names the
            record.
        id: id of the deleted item; for `secret` its SHA-256, for `gallery` its number and the
            microseconds of its creation.
        gallery: number of the gallery that a crop was deleted from; None for every gallery.
    """

    number: Annotated[int, Field(ge=0, lt=NUMBERS)]
    at: AwareDatetime
    kind: Annotated[str, Field(min_length=1, max_length=MOST_KIND_LENGTH)]
    id: Annotated[str, Field(min_length=1, max_length=MOST_ID_LENGTH)]
    gallery: int | None = None

    def as_line(self) -> bytes:
        fields: dict[str, Any] = {"number": self.number}
        fields["at"] = f"{self.at.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%f}Z"
        fields["kind"] = self.kind
        if self.gallery is not None:
            fields["gallery"] = self.gallery
        return to_json(fields | {"id": self.id}) + b"\n"


LINE = TypeAdapter(Deletion)


class DeletionLog:
    """The log of one record, in its folder; writers hold the lock of the record."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / LOG_NAME

    def begin(self, record_id: str, known: int) -> int:
        """Create the log if it is missing, or cut off a line that a kill or a power cut tore.

        Args:
            known: number of the newest line that the record has.

        Returns:
            The number after which the next line is numbered.

        Raises:
            OSError: the disk is full or fails.
        """
        if self.path.exists():
            self._cut_torn_line()
        else:
            self.write([Deletion(known, datetime.now(UTC), "since", record_id).as_line()])
        return max(known, newest_number(self.path))

    def append(self, deletions: Iterable[Deletion]) -> None:
        """Append lines and sync them to the disk.

        Raises:
            OSError: the disk is full or fails; nothing was appended.
        """
        with self.path.open("ab") as file:
            size = file.tell()
            try:
                file.writelines(deletion.as_line() for deletion in deletions)
                file.flush()
                os.fdatasync(file.fileno())
            except OSError:
                with contextlib.suppress(OSError):
                    os.ftruncate(file.fileno(), size)
                raise

    def write(self, lines: Iterable[bytes]) -> None:
        """Write the whole log anew; raises `OSError`."""
        part = self.path.with_suffix(".part")
        with part.open("wb") as file:
            os.fchmod(file.fileno(), PRIVATE_FILE)
            file.writelines(lines)
            file.flush()
            os.fsync(file.fileno())
        part.replace(self.path)
        sync(self.path.parent)

    def trim(self, now: datetime) -> None:
        """Drop lines older than `KEPT_FOR`, a few days late so that the log is rarely rewritten.

        Raises:
            OSError: the disk is full or fails.
        """
        first = read_beginning(self.path)
        if first is None or first.at > now - KEPT_FOR - TRIMMED_AFTER:
            return
        oldest = now - KEPT_FOR
        dropped = max(line.number for line in read_deletions(self.path) if line.at < oldest)
        beginning = replace(first, number=dropped, at=oldest)
        kept = (line for line in read_lines(self.path) if _is_kept(line, oldest))
        self.write(itertools.chain([beginning.as_line()], kept))

    def _cut_torn_line(self) -> None:
        with self.path.open("r+b") as file:
            size = file.seek(0, os.SEEK_END)
            start = max(0, size - MOST_LINE_BYTES)
            file.seek(start)
            end = start + file.read().rfind(b"\n") + 1
            if end < size:
                file.truncate(end)


class DeletedCrops:
    """The crops that a log of deletions names, from any gallery.

    The log is read once; later only the lines that were appended since. One thread at a time may
    use this.
    """

    def __init__(self, log: DeletionLog) -> None:
        self._path = log.path
        self._file_number = 0
        self._read_bytes = 0
        self._ids: set[str] = set()

    def among(self, crop_ids: Iterable[str]) -> set[str]:
        """Return which of some crops were deleted; raises `OSError`."""
        with open_regular(self._path) as file:
            file_number = os.fstat(file.fileno()).st_ino
            if file_number != self._file_number:
                # The log was written anew, without its oldest lines.
                self._file_number = file_number
                self._read_bytes = 0
            file.seek(self._read_bytes)
            for line in _read_lines(file):
                self._read_bytes += len(line)
                deletion = parse_line(line)
                if deletion and deletion.kind == "crop":
                    self._ids.add(deletion.id)
        return self._ids.intersection(crop_ids)


def read_lines(path: Path) -> Iterator[bytes]:
    """Yield the lines of a log, without a torn last one; of a missing log there are none."""
    try:
        file = open_regular(path)
    except FileNotFoundError:
        return
    with file:
        yield from _read_lines(file)


def _read_lines(file: BinaryIO) -> Iterator[bytes]:
    while line := file.readline(MOST_LINE_BYTES):
        # A longer line is read in pieces, none of which is valid.
        if line.endswith(b"\n") or len(line) == MOST_LINE_BYTES:
            yield line


def _is_kept(line: bytes, oldest: datetime) -> bool:
    deletion = parse_line(line)
    # Nobody knows what a damaged line says, and a restore names it.
    return deletion is None or deletion.at >= oldest


def parse_line(line: bytes) -> Deletion | None:
    """Return the deletion of a line, or None if the line is damaged."""
    try:
        deletion = LINE.validate_json(line)
    except ValidationError:
        return None
    is_gallery = deletion.kind == "gallery"
    return None if is_gallery and not GALLERY_ID.fullmatch(deletion.id) else deletion


def read_deletions(path: Path) -> Iterator[Deletion]:
    """Yield the deletions of a log, without damaged lines."""
    for line in read_lines(path):
        if deletion := parse_line(line):
            yield deletion


def read_beginning(path: Path) -> Deletion | None:
    """Return the first line of a log; None if it is missing or damaged."""
    first = parse_line(next(read_lines(path), b""))
    return first if first and first.kind == "since" else None


def newest_number(path: Path) -> int:
    """Return the number of the newest line of a log; 0 if there is none."""
    try:
        file = open_regular(path)
    except FileNotFoundError:
        return 0
    with file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - MOST_LINE_BYTES))
        last_lines = [parse_line(line) for line in file.readlines()]
    if numbers := [deletion.number for deletion in last_lines if deletion]:
        return max(numbers)
    return max((deletion.number for deletion in read_deletions(path)), default=0)
