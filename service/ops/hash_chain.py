"""Append-only files of JSON lines that are chained by hashes.

Each line has the hash of the previous line. A file that has reached its size limit is renamed after
its last line, such as `audit.000000004711.jsonl`; the next file continues its numbers and hashes.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ValidationError

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
# Suffix of the file that keeps what a crash left of unfinished lines.
TORN_SUFFIX = ".torn"
READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)


class CorruptLog(Exception):
    """A line that does not continue its chain; the message gives the reason."""


class Link(NamedTuple):
    """The number and hash of a line, which the next line continues."""

    number: int = 0
    sha256: str = "0" * 64


class _Line(BaseModel):
    """The fields that chain a line; `begins_file` is set if it continues another file."""

    sequence: int
    previous: str
    begins_file: bool = False


@dataclass(frozen=True)
class Checked:
    """The result of reading a complete chain.

    Attributes:
        first_line: number of the first line; above 1 if older files were taken away.
        lines: number of intact lines from the first one on.
        problem: position and fault of the first line that breaks the chain; None if there is none.
    """

    first_line: int
    lines: int
    last_sha256: str
    problem: str | None


class HashChainLog:
    """Appends lines; threads and processes may append concurrently, serialised by a file lock.

    If the file was moved away, a new one is started that continues the chain. Lines left incomplete
    by a crash are set aside: they were never acknowledged, and may contain zeros where a block did
    not reach the disk.

    Args:
        max_bytes: size at which the file is renamed and a new one started.

    Raises:
        OSError: the file cannot be opened.
        CorruptLog: the last line is not one of a chain.
        RecordWaits: another process holds the log and stands still.
    """

    def __init__(self, path: Path, max_bytes: int) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._lock = ProcessLock(path.with_suffix(LOCK), "lines of the audit log")
        self._last = Link()
        with self._locked_file() as file:
            size = file.seek(0, os.SEEK_END)
            start = file.seek(max(0, size - TORN_BYTES))
            intact, hole, _ = file.read().partition(b"\0")
            end = start + intact.rfind(b"\n") + 1 if hole else size
            end, self._last = self._find_end(file, end)
            self._set_aside(file, end)

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
                end, last = self._find_end(file, file.seek(0, os.SEEK_END))
                # A killed process may have left an incomplete line.
                self._set_aside(file, end)
                if end <= self._max_bytes:
                    self._write(file, end, last, lines, durable)
                    return
                os.fsync(file)
                self._path.rename(self._path.with_stem(f"{self._path.stem}.{last.number:012d}"))
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

    def _write(
        self, file: FileIO, end: int, last: Link, lines: Sequence[str], durable: bool
    ) -> None:
        content = bytearray()
        for fields in lines:
            chained: dict[str, Any] = {"sequence": last.number + 1, "previous": last.sha256}
            if last.number and not end and not content:
                chained["begins_file"] = True
            line = f"{json.dumps(chained)[:-1]}, {fields[1:]}".encode()
            last = Link(last.number + 1, hashlib.sha256(line).hexdigest())
            content += line + b"\n"
        try:
            while content:
                del content[: file.write(content)]
            if durable:
                os.fsync(file)
        except OSError:
            with contextlib.suppress(OSError):
                file.truncate(end)
            raise
        self._last = last

    def _set_aside(self, file: FileIO, end: int) -> None:
        """Move what lies behind the end of the last line into a file of its own."""
        file.seek(end)
        if torn := file.read():
            path = self._path.with_suffix(TORN_SUFFIX)
            with open(path, "ab", opener=_open_private) as aside:
                aside.write(torn)
            file.truncate(end)
            log.warning(
                "%s: a crash left %d bytes of unfinished lines; they were moved to %s",
                self._path,
                len(torn),
                path,
            )

    @contextlib.contextmanager
    def _locked_file(self) -> Iterator[FileIO]:
        with self._lock.hold():
            is_new = not self._path.exists()
            with open(self._path, "a+b", buffering=0, opener=_open_private) as file:
                if is_new:
                    sync(self._path.parent)
                yield file

    def _find_end(self, file: FileIO, size: int) -> tuple[int, Link]:
        end, last = _read_last_line(file, size)
        if last is not None:
            return end, last
        # A new file continues the newest full file or the last line this process wrote.
        for path in full_files(self._path)[-1:]:
            last = _read_last_of(path)
        return end, max(self._last, last or self._last)


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CREAT, mode=0o600)


def _read_last_of(path: Path) -> Link | None:
    with path.open("rb", buffering=0) as file:
        _, last = _read_last_line(file, file.seek(0, os.SEEK_END))
    return last


def _read_last_line(file: FileIO, size: int) -> tuple[int, Link | None]:
    start = file.seek(max(0, size - TAIL_BYTES))
    tail = file.read(size - start)
    end = tail.rfind(b"\n") + 1
    begin = tail.rfind(b"\n", 0, max(0, end - 1)) + 1
    return start + end, _read_link(tail[begin:end]) if end else None


def _read_link(line: bytes, last: Link | None = None, begins_chain: bool = False) -> Link:
    """Return the link of a line; raises `CorruptLog` if it does not continue the link `last`."""
    if not line.endswith(b"\n"):
        raise CorruptLog("is not finished: its writer was stopped")
    try:
        fields = _Line.model_validate_json(line)
    except ValidationError as error:
        raise CorruptLog("is not a line of an audit log") from error
    if begins_chain and fields.begins_file:
        last = Link(fields.sequence - 1, fields.previous)
    if last is not None and fields.sequence != last.number + 1:
        raise CorruptLog(
            f"has the number {fields.sequence}: lines are missing, added or out of order"
        )
    if last is not None and fields.previous != last.sha256:
        raise CorruptLog("does not hold the hash of the line before it: that one was changed")
    return Link(fields.sequence, hashlib.sha256(line[:-1]).hexdigest())


def full_files(path: Path) -> list[Path]:
    return sorted(path.parent.glob(f"{path.stem}.{12 * '[0-9]'}{path.suffix}"))


def current_file(path: Path) -> Path:
    return path.with_stem(re.sub(r"\.\d{12}$", "", path.stem))


def newest_line(path: Path) -> Link:
    """Return the newest line of a chain, also while it is written, given its current file.

    Returns:
        Number 0 for a log without a line.

    Raises:
        OSError: a file cannot be read.
        CorruptLog: the end of the log is not a line of a chain.
    """
    # The current file is read first: if it is renamed meanwhile, it is listed as the newest full
    # one afterwards.
    with contextlib.suppress(FileNotFoundError):
        if last := _read_last_of(path):
            return last
    newest_full = full_files(path)[-1:]
    return (_read_last_of(newest_full[0]) if newest_full else None) or Link()


def _read_sizes(path: Path) -> dict[Path, int]:
    with contextlib.ExitStack() as held:
        lock = path.with_suffix(LOCK)
        if lock.exists():
            held.enter_context(hold_shared(lock, "readers of the audit log"))
        files = full_files(path)
        if path.exists() or not files:
            files.append(path)
        return {file: file.stat().st_size for file in files}


def check_chain(path: Path) -> Checked:
    """Read a complete chain, also while it is written, given its current file; raises `OSError`."""
    sizes = _read_sizes(path)
    last = Link()
    lines = number = 0
    file = path
    problem = None
    try:
        for file, size in sizes.items():
            number = 0
            for line in file.read_bytes()[:size].splitlines(keepends=True):
                number += 1
                last = _read_link(line, last, begins_chain=not lines)
                lines += 1
    except CorruptLog as error:
        problem = f"{file}: line {number} {error}"
    return Checked(
        first_line=last.number - lines + 1,
        lines=lines,
        last_sha256=last.sha256,
        problem=problem,
    )
