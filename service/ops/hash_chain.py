"""Append-only files of JSON lines that are chained by hashes.

Each line has the hash of the previous line and a keyed hash of itself. A file that has reached its
size limit is renamed after its last line, such as `audit.000000004711.jsonl`; the next file
continues its numbers and hashes.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import hmac
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
READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)
ACKNOWLEDGED_SUFFIX = ".acknowledged"


class CorruptLog(Exception):
    """A line that does not continue its chain; the message gives the reason."""


class _Link(NamedTuple):
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
        keyed_from: number of the first line with a keyed hash; None if an earlier version wrote all
            of them.
        problem: position and fault of the first line that breaks the chain; None if there is none.
    """

    first_line: int
    lines: int
    keyed_from: int | None
    last_sha256: str
    problem: str | None


class HashChainLog:
    """Appends lines; threads and processes may append concurrently, serialised by a file lock.

    If the file was moved away, a new one is started that continues the chain. Lines left incomplete
    by a power cut are removed: they were never acknowledged, and may contain zeros where a block
    did not reach the disk.

    Args:
        key: key of the hashes; without it nobody can forge a line or the note of the last one.
        max_bytes: size at which the file is renamed and a new one started.

    Raises:
        OSError: the file cannot be opened.
        CorruptLog: the end of the file does not form a chain.
        RecordWaits: another process holds the log and stands still.
    """

    def __init__(self, path: Path, key: bytes, max_bytes: int) -> None:
        self._path = path
        self._key = key
        self._max_bytes = max_bytes
        self._note_path = path.with_suffix(ACKNOWLEDGED_SUFFIX)
        self._lock = ProcessLock(path.with_suffix(LOCK), "lines of the audit log")
        self._last = _Link()
        if not path.exists():
            # If the log was taken away, a new one is started.
            self._note_path.unlink(missing_ok=True)
        with self._locked_file() as file:
            size = file.seek(0, os.SEEK_END)
            start = file.seek(max(0, size - TORN_BYTES))
            intact, hole, _ = file.read().partition(b"\0")
            end, self._last = self._find_end(
                file, start + intact.rfind(b"\n") + 1 if hole else size
            )
            note = _read_note(self._note_path, key)
            if note and self._last.number < note.number:
                raise CorruptLog(
                    f"it has {self._last.number} lines, and {note.number} were acknowledged: its "
                    f"end was cut off (remove {self._note_path} as well)"
                )
            if self._last.number and not note:
                log.warning("%s: had no note of its last line, as after a power cut", path)
                os.fsync(file)
                self._write_note()
            if end < size:
                log.warning("%s: cut off what a crash tore after line %d", path, self._last.number)
                file.truncate(end)

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
                # A killed process may have left an incomplete line behind it.
                file.truncate(end)
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
        self, file: FileIO, end: int, last: _Link, lines: Sequence[str], durable: bool
    ) -> None:
        content = bytearray()
        for fields in lines:
            chained: dict[str, Any] = {"sequence": last.number + 1, "previous": last.sha256}
            if last.number and not end and not content:
                chained["begins_file"] = True
            line = _sign(f"{json.dumps(chained)[:-1]}, {fields[1:]}", self._key)
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
            self._write_note()

    def _write_note(self) -> None:
        """Note the last line, which is already on the disk; never raises."""
        note = {"sequence": self._last.number, "sha256": self._last.sha256}
        try:
            with open(self._note_path, "r+b", buffering=0, opener=_open_private) as file:
                # The note never gets shorter, so overwriting it leaves a note in place at every
                # moment.
                file.write(_sign(json.dumps(note), self._key))
        except OSError as error:
            log.warning("%s could not be written: %s", self._note_path, error)

    @contextlib.contextmanager
    def _locked_file(self) -> Iterator[FileIO]:
        with self._lock.hold():
            is_new = not self._path.exists()
            with open(self._path, "a+b", buffering=0, opener=_open_private) as file:
                if is_new:
                    sync(self._path.parent)
                yield file

    def _find_end(self, file: FileIO, size: int) -> tuple[int, _Link]:
        end, last = _read_last_line(file, size)
        if last is not None:
            return end, last
        # A new file continues the newest full file or the last line this process wrote.
        for path in full_files(self._path)[-1:]:
            with path.open("rb", buffering=0) as full:
                _, last = _read_last_line(full, full.seek(0, os.SEEK_END))
        return end, max(self._last, last or self._last)


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CREAT, mode=0o600)


def _read_last_line(file: FileIO, size: int) -> tuple[int, _Link | None]:
    start = file.seek(max(0, size - TAIL_BYTES))
    tail = file.read(size - start)
    end = tail.rfind(b"\n") + 1
    begin = tail.rfind(b"\n", 0, max(0, end - 1)) + 1
    return start + end, _read_link(tail[begin:end]) if end else None


def _sign(text: str, key: bytes) -> bytes:
    mac = hmac.digest(key, text.encode(), "sha256").hex()
    return f'{text[:-1]}, "mac": "{mac}"}}'.encode()


def _is_signed(line: bytes, key: bytes) -> bool:
    text = line.rstrip(b"\n").decode(errors="replace")
    unsigned = text[: text.rfind(', "mac": "')] + "}"
    return hmac.compare_digest(_sign(unsigned, key), text.encode())


def _read_note(path: Path, key: bytes) -> _Link | None:
    content = path.read_bytes() if path.exists() else b""
    if not _is_signed(content, key):
        return None
    note = json.loads(content)
    return _Link(note["sequence"], note["sha256"])


def _read_link(line: bytes, last: _Link | None = None, begins_chain: bool = False) -> _Link:
    """Return the link of a line; raises `CorruptLog` if it does not continue the link `last`."""
    if not line.endswith(b"\n"):
        raise CorruptLog("is not finished: its writer was stopped")
    try:
        fields = _Line.model_validate_json(line)
    except ValidationError as error:
        raise CorruptLog("is not a line of an audit log") from error
    if begins_chain and fields.begins_file:
        last = _Link(fields.sequence - 1, fields.previous)
    if last is not None and fields.sequence != last.number + 1:
        raise CorruptLog(
            f"has the number {fields.sequence}: lines are missing, added or out of order"
        )
    if last is not None and fields.previous != last.sha256:
        raise CorruptLog("does not hold the hash of the line before it: that one was changed")
    return _Link(fields.sequence, hashlib.sha256(line[:-1]).hexdigest())


def full_files(path: Path) -> list[Path]:
    return sorted(path.parent.glob(f"{path.stem}.{12 * '[0-9]'}{path.suffix}"))


def current_file(path: Path) -> Path:
    return path.with_stem(re.sub(r"\.\d{12}$", "", path.stem))


def _read_state(path: Path, key: bytes) -> tuple[_Link | None, dict[Path, int]]:
    with contextlib.ExitStack() as held:
        lock = path.with_suffix(LOCK)
        if lock.exists():
            held.enter_context(hold_shared(lock, "readers of the audit log"))
        note = _read_note(path.with_suffix(ACKNOWLEDGED_SUFFIX), key)
        files = full_files(path)
        if path.exists() or not files:
            files.append(path)
        return note, {file: file.stat().st_size for file in files}


def check_chain(path: Path, key: bytes) -> Checked:
    """Read a complete chain, also while it is written, given its current file; raises `OSError`."""
    note, sizes = _read_state(path, key)
    last = _Link()
    lines = number = 0
    file = path
    keyed_from = None
    problem = None
    try:
        for file, size in sizes.items():
            number = 0
            for line in file.read_bytes()[:size].splitlines(keepends=True):
                number += 1
                link = _read_link(line, last, begins_chain=not lines)
                if keyed_from or b', "mac": "' in line:
                    if not _is_signed(line, key):
                        raise CorruptLog(
                            "was not written under this audit.key: it was changed, added, or forged"
                        )
                    keyed_from = keyed_from or link.number
                if note and link.number == note.number and note.sha256 != link.sha256:
                    raise CorruptLog("is not the one that was noted: it was rewritten")
                last = link
                lines += 1
        number += 1
        if note and last.number < note.number:
            raise CorruptLog(f"is gone: {note.number} lines were acknowledged")
        if keyed_from and not note:
            raise CorruptLog(
                f"may be gone: {path.with_suffix(ACKNOWLEDGED_SUFFIX).name}, which counts the "
                "lines, is gone or was changed; after a power cut a start of the service mends it"
            )
    except CorruptLog as error:
        problem = f"{file}: line {number} {error}"
    return Checked(
        first_line=last.number - lines + 1,
        lines=lines,
        keyed_from=keyed_from,
        last_sha256=last.sha256,
        problem=problem,
    )
