"""Append-only files of JSON lines, each of which holds the hash of the line before.

A file that has grown to its limit is renamed after its last line, such as
`audit.000000004711.jsonl`, and the next one goes on with the numbers and hashes.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from service.ops.commit_mark import SUFFIX, LastCommitMark
from service.ops.durable import sync

log = logging.getLogger(__name__)
BEFORE_THE_FIRST = "0" * 64
TAIL_BYTES = 65_536
# More than is written until the operating system writes it to the disk by itself.
TORN_BYTES = 4 * 1024 * 1024
MAX_BYTES = 16 * 1024 * 1024
FULL_FILE = re.compile(r"(.+)\.(\d{12})")


class CorruptLog(Exception):
    """A file that cannot be appended to, because its last line is not one of a chain."""


@dataclass(frozen=True)
class Checked:
    """What reading a whole chain found.

    Attributes:
        first: number of its first line; above 1 where older files were taken away.
        lines: how many lines are as they were written, from the first on.
        last_sha256: of the last of them. Kept elsewhere it also shows when the chain's end is cut
            off, which no chain can show by itself.
        problem: what is wrong with the line after them; None where there is none.
        file, line: where that line is.
    """

    first: int
    lines: int
    last_sha256: str
    problem: str | None
    file: Path
    line: int


class HashChainLog:
    """Appends lines; several threads and processes may do so at once.

    Where the file was moved away a new one is begun, which goes on with the chain.

    Raises:
        OSError: where the file cannot be opened.
        CorruptLog: where its end is not that of a chain.
    """

    def __init__(self, path: Path, max_bytes: int = MAX_BYTES) -> None:
        """Opens a file, or begins it.

        Args:
            path: of the file that is written.
            max_bytes: beyond it the file is renamed, and another begun.
        """
        self._path = path
        self._max_bytes = max_bytes
        self._acknowledged = commit_mark_of(path)
        self._threads = threading.Lock()
        self._file: int | None = None
        self._size = -1
        self._number = 0
        self._last = BEFORE_THE_FIRST
        if not path.exists():
            # A log that was taken away is begun anew.
            self._acknowledged.clear()
        try:
            with self._alone():
                noted = self._acknowledged.read()
                self._cut_off_torn_end(noted)
                self._catch_up()
            if self._number < noted:
                raise CorruptLog(
                    f"it has {self._number} lines, and {noted} were acknowledged: its end was cut "
                    f"off (remove {self._acknowledged.path} as well)"
                )
        except BaseException:
            self.close()
            raise

    def append(self, lines: Sequence[Mapping[str, Any]], durable: bool) -> None:
        """Writes lines, all of them or nothing.

        Args:
            lines: JSON values; `sequence` and `previous` are put before them.
            durable: whether to return only once they would survive a power cut.

        Raises:
            OSError: where the disk does not take them.
            CorruptLog: where the file's end was damaged by another program.
        """
        with self._alone():
            self._catch_up()
            if self._size > self._max_bytes:
                self._rotate()
            number, last = self._number, self._last
            written: list[bytes] = []
            for fields in lines:
                chained: dict[str, Any] = {"sequence": number + 1, "previous": last}
                if number and not self._size and not written:
                    chained["begins_file"] = True
                line = json.dumps({**chained, **fields}).encode()
                number, last = number + 1, hashlib.sha256(line).hexdigest()
                written.append(line + b"\n")
            content = b"".join(written)
            try:
                self._write(content)
                if durable:
                    os.fsync(self._locked)
            except OSError:
                with contextlib.suppress(OSError):
                    os.ftruncate(self._locked, self._size)
                raise
            self._size += len(content)
            self._number, self._last = number, last
            if durable:
                self._acknowledged.note(self._number)

    def close(self) -> None:
        """Closes the file."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    @property
    def _locked(self) -> int:
        if self._file is None:
            raise RuntimeError("the file is used within _alone only")
        return self._file

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        with self._threads:
            if self._file is not None:
                fcntl.flock(self._file, fcntl.LOCK_EX)
            self._take_current()
            try:
                yield
            finally:
                if self._file is not None:
                    fcntl.flock(self._file, fcntl.LOCK_UN)

    def _take_current(self) -> None:
        """Holds the lock of the file that bears the name now; makes it where none does."""
        while self._file is None or not _bears(self._path, self._file):
            self.close()
            self._file = os.open(
                self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600
            )
            fcntl.flock(self._file, fcntl.LOCK_EX)
            self._size = -1
            sync(self._path.parent)

    def _rotate(self) -> None:
        os.fsync(self._locked)
        full = self._path.with_name(f"{self._path.stem}.{self._number:012d}{self._path.suffix}")
        self._path.rename(full)
        # Before another file bears the name, which must not take this one's place.
        sync(self._path.parent)
        self._take_current()
        self._catch_up()

    def _catch_up(self) -> None:
        """Reads the last line where another process has appended."""
        size = os.fstat(self._locked).st_size
        if size == self._size:
            return
        end, last = _last_line(self._locked, size)
        if end < size:
            # A process was killed amid a line, which was therefore never acknowledged.
            os.ftruncate(self._locked, end)
        if last:
            self._continue(last)
        else:
            self._continue_full_files()
        self._size = end

    def _continue_full_files(self) -> None:
        """An empty file goes on behind the newest full one, or behind what was written last."""
        newest = full_files(self._path)[-1:]
        for path in newest:
            with path.open("rb") as file:
                _, last = _last_line(file.fileno(), path.stat().st_size)
            if _number_of(last) >= self._number:
                self._continue(last)

    def _continue(self, last: bytes) -> None:
        self._number = _number_of(last)
        self._last = hashlib.sha256(last).hexdigest()

    def _cut_off_torn_end(self, noted: int) -> None:
        """Drops lines that a power cut has left by halves, none of which was acknowledged.

        They are behind those that were noted, and near the end: what is older was on the disk.
        """
        self._continue_full_files()
        number, end, last = self._number, 0, self._last
        with self._path.open("rb") as file:
            for line in file:
                if not end:
                    number, last = _before(line) or (number, last)
                if number >= noted and _problem(line, number + 1, last) is not None:
                    break
                number, end = number + 1, end + len(line)
                if number >= noted:
                    last = hashlib.sha256(line[:-1]).hexdigest()
        torn = os.pread(self._locked, TORN_BYTES + 1, end)
        # Where a piece never arrived there are zeros, which no line has; other damage stays.
        if len(torn) <= TORN_BYTES and b"\0" in torn:
            log.warning("%s: cut off what a crash tore behind line %d", self._path, number)
            os.ftruncate(self._locked, end)

    def _write(self, content: bytes) -> None:
        while content:
            content = content[os.write(self._locked, content) :]


def full_files(path: Path) -> list[Path]:
    """The files of a chain before the one that is written, in their order."""
    found = path.parent.glob(f"{path.stem}.*{path.suffix}")
    return sorted(one for one in found if current_file(one) == path)


def current_file(path: Path) -> Path:
    """The file that is written, of the chain that a file belongs to."""
    full = FULL_FILE.fullmatch(path.stem)
    return path.with_name(full[1] + path.suffix) if full else path


def check_chain(path: Path) -> Checked:
    """Reads a whole chain, which may be appended to meanwhile.

    Args:
        path: of the file that is written.

    Raises:
        OSError: where it cannot be read.
    """
    files, noted = _files_and_mark(path)
    first, lines, last = 1, 0, BEFORE_THE_FIRST
    file, number = path, 0
    for file, size in files:
        number = 0
        with file.open("rb") as opened:
            while opened.tell() < size:
                line = opened.readline()
                if not lines:
                    before = _before(line)
                    first, last = (before[0] + 1, before[1]) if before else (first, last)
                problem = _problem(line, first + lines, last)
                if problem is not None:
                    return Checked(first, lines, last, problem, file, number + 1)
                lines, number = lines + 1, number + 1
                last = hashlib.sha256(line[:-1]).hexdigest()
    missing = first + lines - 1 < noted
    problem = f"is gone: {noted} lines were acknowledged" if missing else None
    return Checked(first, lines, last, problem, file, number + 1)


def commit_mark_of(path: Path) -> LastCommitMark:
    """Where it is noted how many lines were acknowledged."""
    return LastCommitMark(path.with_suffix(SUFFIX))


def _files_and_mark(path: Path) -> tuple[list[tuple[Path, int]], int]:
    """Files of a chain with their sizes, and how many lines were acknowledged before."""
    with contextlib.ExitStack() as held:
        if path.exists() or not full_files(path):
            opened = held.enter_context(path.open("rb"))
            fcntl.flock(opened, fcntl.LOCK_SH)
            if not _bears(path, opened.fileno()):
                # Renamed since it was opened.
                return _files_and_mark(path)
        noted = commit_mark_of(path).read()
        files = [*full_files(path), *([path] if path.exists() else [])]
        return [(file, file.stat().st_size) for file in files], noted


def _bears(path: Path, file: int) -> bool:
    """Whether an open file is the one that bears a name."""
    try:
        return os.path.samestat(path.stat(), os.fstat(file))
    except FileNotFoundError:
        return False


def _last_line(file: int, size: int) -> tuple[int, bytes]:
    """Where the last whole line ends, and the line itself without its end."""
    reach = TAIL_BYTES
    while True:
        start = max(0, size - reach)
        tail = os.pread(file, size - start, start)
        whole = tail.rfind(b"\n")
        before = tail.rfind(b"\n", 0, max(whole, 0))
        if start == 0 or before >= 0:
            return start + whole + 1, tail[before + 1 : max(whole, 0)]
        reach *= 2


def _number_of(line: bytes) -> int:
    try:
        return int(json.loads(line)["sequence"])
    except (ValueError, TypeError, KeyError) as error:
        raise CorruptLog("its last line is not one that this program wrote") from error


def _before(line: bytes) -> tuple[int, str] | None:
    """Number and hash of the line before a file's first, where it continues another."""
    try:
        found = json.loads(line)
        return (found["sequence"] - 1, found["previous"]) if found.get("begins_file") else None
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def _problem(line: bytes, number: int, previous: str) -> str | None:
    if not line.endswith(b"\n"):
        return "is not finished: its writer was stopped"
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
