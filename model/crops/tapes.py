"""Tar archives read forwards, with bounds on what a header may be and on what all may unpack to.

The library reads what a header announces in one piece, keeps every header it has met, and goes
backwards where an offset says so: a few bytes could ask for any amount of memory or time.
"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import lzma
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, cast

from model.problems import InputProblem

CHUNK = 1024 * 1024
MAX_HEADER_BYTES = 64 * 1024
"""Of one entry, extensions and all: a path has 4 KiB at most."""
MAX_XZ_MEMORY = 128 * 1024 * 1024
"""What `xz -9` takes, twice; a file may ask for 4 GiB."""
# Python before 3.11.10 takes the square of their number to read past so many digits.
TOO_MANY_DIGITS = re.compile(rb"\d{300}")
NOTHING = bytes(512)


class Tape:
    """The bytes of a tar archive, forwards only, as much as is allowed at a time."""

    def __init__(self, file: IO[bytes], max_bytes: int) -> None:
        self._file = file
        self._max_bytes = max_bytes
        self._position = 0
        self._allowed = 0
        self._in_header = True
        self.last = b""

    def allow_header(self) -> None:
        """What is read next is an entry's header."""
        self._allowed, self._in_header = MAX_HEADER_BYTES, True

    def allow_content(self, size: int) -> None:
        """What is read next is so many bytes of content."""
        self._allowed, self._in_header = size, False

    def tell(self) -> int:
        """Bytes from the beginning."""
        return self._position

    def read(self, size: int) -> bytes:
        """So many bytes; raises `InputProblem` where they were not allowed."""
        if size > self._allowed:
            raise InputProblem("has a header that is longer than any file's; pack it anew")
        self.last = self._take(size)
        self._allowed -= len(self.last)
        if self._in_header and TOO_MANY_DIGITS.search(self.last):
            raise InputProblem("has a header that is no file's; pack it anew")
        return self.last

    def seek(self, position: int) -> None:
        """Passes by what lies between."""
        if position < self._position:
            raise InputProblem("leads back to its own beginning; pack it anew")
        while self._position < position:
            if not self._take(min(CHUNK, position - self._position)):
                raise EOFError("it ends amid a file")

    def _take(self, size: int) -> bytes:
        data = self._file.read(size)
        self._position += len(data)
        if self._position > self._max_bytes:
            raise InputProblem("unpacks to more than is allowed; pack fewer images into one")
        return data


def read_tape(archive: Path, max_bytes: int) -> Iterator[tuple[tarfile.TarInfo, IO[bytes] | None]]:
    """The entries of a tar archive in their order, with the content of those that are files.

    Args:
        archive: `.tar`, `.tar.gz`, `.tar.bz2` or `.tar.xz`, told by its bytes.
        max_bytes: that it may unpack to, headers and all.

    Raises:
        InputProblem: for no archive, or one that exceeds the bounds.
        OSError, EOFError, ValueError, tarfile.TarError, lzma.LZMAError: for a damaged one.
    """
    with contextlib.ExitStack() as opened:
        file = opened.enter_context(_unpacked(archive))
        tape = Tape(file, max_bytes)
        tape.allow_header()
        try:
            reading = opened.enter_context(tarfile.TarFile(fileobj=tape))  # type: ignore[arg-type]
        except tarfile.ReadError as error:
            raise InputProblem(
                "is neither a zip nor a tar file; pack the images into one"
            ) from error
        while (member := reading.next()) is not None:
            content = reading.extractfile(member) if member.isreg() else None
            tape.allow_content(max(0, member.size))
            yield member, content
            reading.members = []  # type: ignore[attr-defined]
            tape.allow_header()
        # The library takes a header that it cannot read for the end.
        if tape.last != NOTHING:
            raise EOFError("it ends amid a file, or goes on with something else")


@contextlib.contextmanager
def _unpacked(archive: Path) -> Iterator[IO[bytes]]:
    with archive.open("rb") as file:
        start = file.read(6)
        file.seek(0)
        if start.startswith(b"\x1f\x8b"):
            yield cast(IO[bytes], gzip.GzipFile(fileobj=file))
        elif start.startswith(b"BZh"):
            yield bz2.BZ2File(file)
        elif start == b"\xfd7zXZ\0":
            yield io.BufferedReader(_Xz(file))
        else:
            yield file


class _Xz(io.RawIOBase):
    """What is in an xz file, in bounded memory, which the library's own reader cannot be told."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._unpacking = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=MAX_XZ_MEMORY)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while not self._unpacking.eof:
            packed = self._file.read(CHUNK) if self._unpacking.needs_input else b""
            if not packed and self._unpacking.needs_input:
                raise EOFError("it ends before its end")
            if data := self._unpacking.decompress(packed, len(buffer)):
                buffer[: len(data)] = data
                return len(data)
        return 0
