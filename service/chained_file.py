"""An append-only file of JSON lines, each of which holds the hash of the line before."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from service.durable import sync
from service.high_water import SUFFIX, HighWaterMark

log = logging.getLogger(__name__)
BEFORE_THE_FIRST = "0" * 64
TAIL_BYTES = 65_536
# More than is written until the operating system writes it to the disk by itself.
TORN_BYTES = 4 * 1024 * 1024


class BrokenChain(Exception):
    """A file that cannot be appended to, because its last line is not one of a chain."""


@dataclass(frozen=True)
class Checked:
    """What reading a whole chain found.

    Attributes:
        lines: how many lines are as they were written, from the first on.
        last_sha256: of the last of them. Kept elsewhere it also shows when the file's end is cut
            off, which no chain can show by itself.
        problem: what is wrong with the line after them; None where there is none.
    """

    lines: int
    last_sha256: str
    problem: str | None


class ChainedFile:
    """Appends lines; several threads and processes may do so at once.

    Raises:
        OSError: where the file cannot be opened.
        BrokenChain: where its end is not that of a chain.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._acknowledged = mark_of(path)
        if not path.exists():
            # Whoever took a log away wants a new one.
            self._acknowledged.clear()
        self._file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._threads = threading.Lock()
        self._size = -1
        self._number = 0
        self._last = BEFORE_THE_FIRST
        try:
            with self._alone():
                noted = self._acknowledged.read()
                self._cut_off_torn_end(noted)
                self._catch_up()
            if self._number < noted:
                raise BrokenChain(
                    f"it has {self._number} lines, and {noted} were acknowledged: its end was cut "
                    f"off (remove {self._acknowledged.path} as well)"
                )
            sync(path.parent)
        except BaseException:
            self.close()
            raise

    def append(self, fields: Mapping[str, Any], durable: bool) -> None:
        """Writes a line, all of it or nothing.

        Args:
            fields: JSON values; `sequence` and `previous` are put before them.
            durable: whether to return only once it would survive a power cut.

        Raises:
            OSError: where the disk does not take it.
            BrokenChain: where somebody else has damaged the file's end.
        """
        with self._alone():
            self._catch_up()
            line = json.dumps({"sequence": self._number + 1, "previous": self._last, **fields})
            content = line.encode()
            try:
                self._write(content + b"\n")
                if durable:
                    os.fsync(self._file)
            except OSError:
                with contextlib.suppress(OSError):
                    os.ftruncate(self._file, self._size)
                raise
            self._size += len(content) + 1
            self._number += 1
            self._last = hashlib.sha256(content).hexdigest()
            if durable:
                self._acknowledged.note(self._number)

    def close(self) -> None:
        """Closes the file."""
        os.close(self._file)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        with self._threads:
            fcntl.flock(self._file, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.flock(self._file, fcntl.LOCK_UN)

    def _catch_up(self) -> None:
        """Reads the last line where another process has appended."""
        mine = os.fstat(self._file)
        if not self._path.exists() or not os.path.samestat(mine, self._path.stat()):
            raise BrokenChain("it was taken away while in use; a restart begins a new one")
        size = mine.st_size
        if size == self._size:
            return
        end, last = self._last_line(size)
        if end < size:
            # A process was killed amid a line, which was therefore never acknowledged.
            os.ftruncate(self._file, end)
        if last:
            try:
                self._number = int(json.loads(last)["sequence"])
            except (ValueError, TypeError, KeyError) as error:
                raise BrokenChain("its last line is not one that this program wrote") from error
        self._last = hashlib.sha256(last).hexdigest() if last else BEFORE_THE_FIRST
        self._size = end

    def _cut_off_torn_end(self, noted: int) -> None:
        """Drops lines that a power cut has left by halves, none of which was acknowledged.

        They are behind those that were noted, and near the end: what is older was on the disk.
        """
        number, end, last = 0, 0, BEFORE_THE_FIRST
        with self._path.open("rb") as file:
            for line in file:
                if number >= noted and _problem(line, number + 1, last) is not None:
                    break
                number, end = number + 1, end + len(line)
                if number >= noted:
                    last = hashlib.sha256(line[:-1]).hexdigest()
        torn = os.pread(self._file, TORN_BYTES + 1, end)
        # Where a piece never arrived there are zeros, which no line has; other damage stays.
        if len(torn) <= TORN_BYTES and b"\0" in torn:
            log.warning("%s: cut off what a crash tore behind line %d", self._path, number)
            os.ftruncate(self._file, end)

    def _last_line(self, size: int) -> tuple[int, bytes]:
        """Where the last whole line ends, and the line itself without its end."""
        reach = TAIL_BYTES
        while True:
            start = max(0, size - reach)
            tail = os.pread(self._file, size - start, start)
            whole = tail.rfind(b"\n")
            before = tail.rfind(b"\n", 0, max(whole, 0))
            if start == 0 or before >= 0:
                return start + whole + 1, tail[before + 1 : max(whole, 0)]
            reach *= 2

    def _write(self, content: bytes) -> None:
        while content:
            content = content[os.write(self._file, content) :]


def check_chain(path: Path) -> Checked:
    """Reads a whole file, which may be appended to meanwhile.

    Raises:
        OSError: where it cannot be read.
    """
    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        size = os.fstat(file.fileno()).st_size
        # Before anybody appends to what is about to be read, and notes it.
        noted = mark_of(path).read()
        fcntl.flock(file, fcntl.LOCK_UN)
        lines, last = 0, BEFORE_THE_FIRST
        while file.tell() < size:
            line = file.readline()
            problem = _problem(line, lines + 1, last)
            if problem is not None:
                return Checked(lines, last, problem)
            lines, last = lines + 1, hashlib.sha256(line[:-1]).hexdigest()
    if lines < noted:
        return Checked(lines, last, f"is gone: {noted} lines were acknowledged")
    return Checked(lines, last, None)


def mark_of(path: Path) -> HighWaterMark:
    """Where it is noted how many lines were acknowledged."""
    return HighWaterMark(path.with_suffix(SUFFIX))


def _problem(line: bytes, number: int, previous: str) -> str | None:
    if not line.endswith(b"\n"):
        return "is not finished: whoever wrote it was stopped"
    try:
        found = json.loads(line)
        sequence, named = found["sequence"], found["previous"]
    except (ValueError, TypeError, KeyError):
        return "is not a line of an audit log"
    if sequence != number:
        return f"has the number {sequence}: lines are missing, added or out of order"
    if named != previous:
        return "does not hold the hash of the line before it: that one was changed"
    return None
