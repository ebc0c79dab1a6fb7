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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from io import FileIO
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ValidationError

from service.errors import StorageFailed
from service.ops.commit_mark import ACKNOWLEDGED_SUFFIX, LastCommitMark
from service.ops.data_directory import sync

log = logging.getLogger(__name__)
# More than is written until the operating system writes it to the disk by itself.
TORN_BYTES = 4 * 1024 * 1024
MAX_BYTES = 16 * 1024 * 1024
LOCK = ".lock"


class CorruptLog(Exception):
    """A line that does not continue its chain; the message gives the reason."""


class _Link(NamedTuple):
    """Number and hash of a line, which the next line continues."""

    number: int = 0
    sha256: str = "0" * 64


class _Line(BaseModel):
    """The fields that chain a line; `begins_file` where it continues another file."""

    sequence: int
    previous: str
    begins_file: bool = False


@dataclass(frozen=True)
class Checked:
    """What reading a whole chain found.

    Attributes:
        first_line: its number; above 1 where older files were taken away.
        lines: how many are as they were written, from the first on.
        problem: where the line after them is, and what is wrong with it; None where there is none.
    """

    first_line: int
    lines: int
    last_sha256: str
    problem: str | None


class HashChainLog:
    """Appends lines; several threads and processes may do so at once, under the lock of a file.

    Where the file was moved away a new one is begun, which goes on with the chain. Lines that a
    power cut left incomplete are removed: they were not acknowledged, and contain zeros where a
    piece did not reach the disk.

    Args:
        max_bytes: of a file; beyond it the file is renamed, and another begun.

    Raises:
        OSError: where the file cannot be opened.
        CorruptLog: where its end is not that of a chain.
    """

    def __init__(self, path: Path, max_bytes: int) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._acknowledged = LastCommitMark(path.with_suffix(ACKNOWLEDGED_SUFFIX))
        self._last = _Link()
        if not path.exists():
            # A log that was taken away is begun anew.
            self._acknowledged.clear()
        with self._alone() as file:
            size = file.seek(0, os.SEEK_END)
            start = file.seek(max(0, size - TORN_BYTES))
            whole, hole, _ = file.read().partition(b"\0")
            end, self._last = self._end(file, start + whole.rfind(b"\n") + 1 if hole else size)
            _, noted = self._acknowledged.read()
            if self._last.number < noted:
                raise CorruptLog(
                    f"it has {self._last.number} lines, and {noted} were acknowledged: its end was "
                    f"cut off (remove {self._acknowledged.path} as well)"
                )
            if end < size:
                log.warning("%s: cut off what a crash tore after line %d", path, self._last.number)
                file.truncate(end)

    def append(self, lines: Sequence[Mapping[str, Any]], durable: bool) -> None:
        """Writes lines of JSON, all of them or nothing; if `durable`, to survive a power cut.

        Raises:
            StorageFailed: where the disk does not take them, or another program damaged the end.
        """
        try:
            with self._alone() as file:
                end, last = self._end(file, file.seek(0, os.SEEK_END))
                # Behind it may be a line amid which a process was killed.
                file.truncate(end)
                if end <= self._max_bytes:
                    self._write(file, end, last, lines, durable)
                    return
                os.fsync(file)
                self._path.rename(self._path.with_stem(f"{self._path.stem}.{last.number:012d}"))
                # Before another file bears the name, which must not take this one's place.
                sync(self._path.parent)
        except (OSError, CorruptLog) as error:
            raise StorageFailed(
                f"the audit log could not be written ({error}), and nothing is done without a "
                "trace; free space in the data directory, or run gmn audit verify"
            ) from error
        self.append(lines, durable)

    def _write(
        self, file: FileIO, end: int, last: _Link, lines: Sequence[Mapping[str, Any]], durable: bool
    ) -> None:
        content = bytearray()
        for fields in lines:
            chained: dict[str, Any] = {"sequence": last.number + 1, "previous": last.sha256}
            if last.number and not end and not content:
                chained["begins_file"] = True
            line = json.dumps({**chained, **fields}).encode()
            last = _Link(last.number + 1, hashlib.sha256(line).hexdigest())
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
        if durable:
            self._acknowledged.note(last.number)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[FileIO]:
        """The file, while no other thread or process has it."""
        private = partial(os.open, mode=0o600)
        with open(self._path.with_suffix(LOCK), "ab", opener=private) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            is_new = not self._path.exists()
            with open(self._path, "a+b", buffering=0, opener=private) as file:
                if is_new:
                    sync(self._path.parent)
                yield file

    def _end(self, file: FileIO, size: int) -> tuple[int, _Link]:
        """Where the last whole line within `size` bytes ends, and its link."""
        end, last = _last_line(file, size)
        if last is not None:
            return end, last
        # A new file continues the newest full one, or what this process wrote last.
        for path in full_files(self._path)[-1:]:
            with path.open("rb", buffering=0) as full:
                _, last = _last_line(full, full.seek(0, os.SEEK_END))
        return end, max(self._last, last or self._last)


def _last_line(file: FileIO, size: int, reach: int = 65_536) -> tuple[int, _Link | None]:
    """Where the last whole line within `size` bytes ends, and its link; None without a line."""
    start = file.seek(max(0, size - reach))
    tail = file.read(size - start)
    end = tail.rfind(b"\n") + 1
    begin = tail.rfind(b"\n", 0, max(0, end - 1)) + 1
    if start and not begin:
        return _last_line(file, size, 2 * reach)
    return start + end, _link(tail[begin:end]) if end else None


def _link(line: bytes, last: _Link | None = None, begins_chain: bool = False) -> _Link:
    """The link of a line; raises `CorruptLog` where it does not continue the link `last`."""
    if not line.endswith(b"\n"):
        raise CorruptLog("is not finished: its writer was stopped")
    try:
        found = _Line.model_validate_json(line)
    except ValidationError as error:
        raise CorruptLog("is not a line of an audit log") from error
    if begins_chain and found.begins_file:
        last = _Link(found.sequence - 1, found.previous)
    if last is not None and found.sequence != last.number + 1:
        raise CorruptLog(
            f"has the number {found.sequence}: lines are missing, added or out of order"
        )
    if last is not None and found.previous != last.sha256:
        raise CorruptLog("does not hold the hash of the line before it: that one was changed")
    return _Link(found.sequence, hashlib.sha256(line[:-1]).hexdigest())


def full_files(path: Path) -> list[Path]:
    """The files of a chain before the one that is written, in their order."""
    return sorted(path.parent.glob(f"{path.stem}.{12 * '[0-9]'}{path.suffix}"))


def current_file(path: Path) -> Path:
    """The file that is written, of the chain that a file belongs to."""
    return path.with_stem(re.sub(r"\.\d{12}$", "", path.stem))


def check_chain(path: Path) -> Checked:
    """Reads a whole chain by the file that is written, also meanwhile; raises `OSError`."""
    with contextlib.ExitStack() as held:
        lock = path.with_suffix(LOCK)
        if lock.exists():
            fcntl.flock(held.enter_context(lock.open("rb")), fcntl.LOCK_SH)
        _, acknowledged = LastCommitMark(path.with_suffix(ACKNOWLEDGED_SUFFIX)).read()
        files = full_files(path)
        if path.exists() or not files:
            files.append(path)
        sizes = [file.stat().st_size for file in files]
    last, lines, file, number, problem = _Link(), 0, path, 0, None
    try:
        for file, size in zip(files, sizes, strict=True):
            number = 0
            for line in file.read_bytes()[:size].splitlines(keepends=True):
                number += 1
                last = _link(line, last, begins_chain=not lines)
                lines += 1
        number += 1
        if last.number < acknowledged:
            raise CorruptLog(f"is gone: {acknowledged} lines were acknowledged")
    except CorruptLog as error:
        problem = f"{file}: line {number} {error}"
    return Checked(last.number - lines + 1, lines, last.sha256, problem)
