"""Append-only files of JSON lines whose numbers have no gap.

A file that has reached its size limit is renamed after its last line, such as
`audit.000000004711.jsonl`; the next file continues its numbers.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

from pydantic import BaseModel, ValidationError

from model.wording import counted
from service.errors import StorageFailed
from service.ops.data_directory import sync
from service.ops.locks import ProcessLock, hold_shared

log = logging.getLogger(__name__)
# Size of the end of a file that a power cut may damage: more than the operating system holds back.
TORN_BYTES = 4 * 1024 * 1024
# Size of the end of a file in which the last line is found; every line is shorter.
TAIL_BYTES = 256 * 1024
MAX_BYTES = 16 * 1024 * 1024
LOCK = ".lock"
# Suffix of the file that keeps the unfinished lines of a crash.
TORN_SUFFIX = ".torn"
READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)


class CorruptLog(Exception):
    """A line that is not one of the log; the message gives the reason."""


class _Line(BaseModel):
    sequence: int


@dataclass(frozen=True)
class Checked:
    """The result of reading all lines.

    Attributes:
        first_line: number of the first line; above 1 if older files were taken away, 0 without one.
        last_line: number of the last line before the problem.
        problem: position and fault of the first line whose number is not the next one; None if
            there is none.
    """

    first_line: int
    last_line: int
    problem: str | None = None


class NumberedLog:
    """Appends lines; threads and processes may append concurrently, serialised by a file lock.

    If the file was moved away, a new one is started that continues the numbers. Lines left
    incomplete by a crash are set aside: they were never acknowledged, and may contain zeros where
    a block did not reach the disk.

    Args:
        max_bytes: size at which the file is renamed and a new one started.

    Raises:
        OSError: the file cannot be opened.
        CorruptLog: the last line has no number.
        RecordWaits: another process holds the log and stands still.
    """

    def __init__(self, path: Path, max_bytes: int) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._lock = ProcessLock(path.with_suffix(LOCK), "lines of the audit log")
        self._last = 0
        with self._locked_file() as file:
            self._last = self._seek_end(file, TORN_BYTES)

    def append(self, lines: Sequence[str], durable: bool) -> None:
        """Append JSON objects as lines, all or nothing; if `durable`, they survive a power cut.

        Without lines, this syncs the previous ones, unless their file was moved away.

        Raises:
            StorageFailed: the disk does not accept the lines, or another program damaged the end.
            RecordWaits: another process holds the log and stands still.
        """
        if not lines and not self._path.exists():
            return
        try:
            with self._locked_file() as file:
                last = self._seek_end(file, TAIL_BYTES)
                if file.tell() <= self._max_bytes:
                    self._write(file, last, lines, durable)
                    return
                os.fsync(file)
                self._path.rename(self._path.with_stem(f"{self._path.stem}.{last:012d}"))
                # Sync before another file takes the name, so that it cannot replace this one.
                sync(self._path.parent)
        except (OSError, CorruptLog) as error:
            raise StorageFailed(
                f"the audit log could not be written ({error}), and nothing is done without a "
                "trace; free space in the data directory, or run gmn audit verify"
            ) from error
        self.append(lines, durable)

    def require_writable(self) -> None:
        """Raise `StorageFailed` on a disk that became read-only, as after an error of the disk.

        This takes microseconds and writes nothing.
        """
        try:
            os.close(os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC))
        except OSError as error:
            if error.errno in READ_ONLY:
                raise StorageFailed(
                    f"the audit log cannot be written ({error.strerror}), and nothing is searched "
                    "or shown without a line in it; see dmesg, and make the disk writable"
                ) from error

    def close(self) -> None:
        self._lock.close()

    def _write(self, file: FileIO, last: int, lines: Sequence[str], durable: bool) -> None:
        end = file.tell()
        numbered = (
            f'{{"sequence": {number}, {fields[1:]}\n'
            for number, fields in enumerate(lines, last + 1)
        )
        content = "".join(numbered).encode()
        try:
            while content:
                content = content[file.write(content) :]
            if durable:
                os.fsync(file)
        except OSError:
            with contextlib.suppress(OSError):
                file.truncate(end)
            raise
        self._last = last + len(lines)

    def _seek_end(self, file: FileIO, tail_bytes: int) -> int:
        """Go to the end of the last line, set aside what lies behind it, and return its number.

        A killed process may have left an incomplete line.
        """
        end, last = _read_last_line(file, tail_bytes)
        file.seek(end)
        if torn := file.read():
            path = self._path.with_suffix(TORN_SUFFIX)
            with open(path, "ab", opener=_open_private) as aside:
                aside.write(torn)
            file.truncate(end)
            log.warning(
                "%s: a crash left %s of unfinished lines; moved to %s",
                self._path,
                counted(len(torn), "byte"),
                path,
            )
        # A new file continues the newest full file or the last line this process wrote.
        return last or max(self._last, _last_of_full_files(self._path))

    @contextlib.contextmanager
    def _locked_file(self) -> Iterator[FileIO]:
        with self._lock.hold():
            is_new = not self._path.exists()
            with open(self._path, "a+b", buffering=0, opener=_open_private) as file:
                if is_new:
                    sync(self._path.parent)
                yield file


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CREAT, mode=0o600)


def _read_last_line(file: FileIO, tail_bytes: int) -> tuple[int, int]:
    """Return the end of the last complete line in bytes, and its number; 0 and 0 without one."""
    start = file.seek(max(0, file.seek(0, os.SEEK_END) - tail_bytes))
    tail, _, _ = file.read().partition(b"\0")
    end = tail.rfind(b"\n") + 1
    begin = tail.rfind(b"\n", 0, max(0, end - 1)) + 1
    return start + end, _read_number(tail[begin:end]) if start + end else 0


def _read_number(line: bytes) -> int:
    if not line.endswith(b"\n"):
        raise CorruptLog("is not finished: its writer was stopped")
    try:
        return _Line.model_validate_json(line).sequence
    except ValidationError as error:
        raise CorruptLog("is not a line of an audit log") from error


def _full_files(path: Path) -> list[Path]:
    return sorted(path.parent.glob(f"{path.stem}.{12 * '[0-9]'}{path.suffix}"))


def _last_of_full_files(path: Path) -> int:
    return max((int(file.stem[-12:]) for file in _full_files(path)), default=0)


def newest_line(path: Path) -> int:
    """Return the number of a log's newest line, also while it is written, given its current file.

    Returns:
        0 for a log without a line.

    Raises:
        OSError: the file cannot be read.
        CorruptLog: the last line has no number.
    """
    last = 0
    # The current file is read first: if it is renamed meanwhile, it is listed afterwards.
    with contextlib.suppress(FileNotFoundError), path.open("rb", buffering=0) as file:
        _, last = _read_last_line(file, TAIL_BYTES)
    return last or _last_of_full_files(path)


def _read_sizes(path: Path) -> dict[Path, int]:
    with contextlib.ExitStack() as held:
        lock = path.with_suffix(LOCK)
        if lock.exists():
            held.enter_context(hold_shared(lock, "readers of the audit log"))
        files = _full_files(path)
        if path.exists() or not files:
            files.append(path)
        return {file: file.stat().st_size for file in files}


def check_numbers(path: Path) -> Checked:
    """Read a complete log, also while it is written, given its current file; raises `OSError`."""
    first = 0
    last = 0
    for file, size in _read_sizes(path).items():
        lines = file.read_bytes()[:size].splitlines(keepends=True)
        for position, line in enumerate(lines, 1):
            try:
                number = _read_number(line)
            except CorruptLog as error:
                return Checked(first, last, f"{file}: line {position} {error}")
            if first and number != last + 1:
                fault = f"has the number {number}, where {last + 1} was expected"
                return Checked(first, last, f"{file}: line {position} {fault}")
            first = first or number
            last = number
    return Checked(first, last)
