"""Tar archives read forwards, with bounds on headers and on the unpacked size.

tarfile reads a header of any announced size in one piece, keeps every header, and goes backwards to
a given offset: a few bytes could ask for any amount of memory or time.
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
"""Of one entry, with its extensions: a path has 4 KiB at most."""
MAX_XZ_MEMORY = 128 * 1024 * 1024
"""Twice that of `xz -9`; a file may ask for 4 GiB."""
# Python before 3.11.10 parses them in quadratic time.
TOO_MANY_DIGITS = re.compile(rb"\d{300}")


class Tape:
    """The bytes of a tar archive, forwards only, of which `allow` bounds the next reads."""

    def __init__(self, file: IO[bytes], max_bytes: int) -> None:
        self._file = file
        self._max_bytes = max_bytes
        self._position = 0
        self.last = b""
        self.allow(MAX_HEADER_BYTES, header=True)

    def allow(self, size: int, header: bool) -> None:
        """Allow `size` bytes of a header or of content."""
        self._allowed = size
        self._in_header = header

    def tell(self) -> int:
        """Return the number of bytes from the beginning."""
        return self._position

    def read(self, size: int) -> bytes:
        """Return the next bytes; raises `InputProblem` if they are not allowed."""
        if size > self._allowed:
            raise InputProblem("has a header that is longer than any file's; pack it anew")
        self.last = self._take(size)
        self._allowed -= len(self.last)
        if self._in_header and TOO_MANY_DIGITS.search(self.last):
            raise InputProblem("has a header that is no file's; pack it anew")
        return self.last

    def seek(self, position: int) -> None:
        """Skip to a later position."""
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
    """Yield the entries of a tar archive in their order, with the content of its files.

    Args:
        archive: `.tar`, `.tar.gz`, `.tar.bz2` or `.tar.xz`, recognised by its bytes.
        max_bytes: size of the unpacked archive, with its headers.

    Raises:
        InputProblem: for no archive, or one that exceeds the bounds.
        OSError, EOFError, ValueError, tarfile.TarError, lzma.LZMAError: for a damaged one.
    """
    with archive.open("rb") as packed, contextlib.closing(_unpacked(packed)) as file:
        tape = Tape(file, max_bytes)
        try:
            reading = tarfile.TarFile(fileobj=tape)  # type: ignore[arg-type]
        except tarfile.ReadError as error:
            raise InputProblem(
                "is neither a zip nor a tar file; pack the images into one"
            ) from error
        while (member := reading.next()) is not None:
            content = reading.extractfile(member) if member.isreg() else None
            tape.allow(max(0, member.size), header=False)
            yield member, content
            reading.members = []  # type: ignore[attr-defined]
            tape.allow(MAX_HEADER_BYTES, header=True)
        # tarfile takes a header that it cannot read for the end.
        if tape.last != bytes(tarfile.BLOCKSIZE):
            raise EOFError("it ends amid a file, or goes on with something else")


def _unpacked(packed: IO[bytes]) -> IO[bytes]:
    start = packed.read(6)
    packed.seek(0)
    if start.startswith(b"\x1f\x8b"):
        return cast(IO[bytes], gzip.GzipFile(fileobj=packed))
    if start.startswith(b"BZh"):
        return bz2.BZ2File(packed)
    return io.BufferedReader(_Xz(packed)) if start == b"\xfd7zXZ\0" else packed


class _Xz(io.RawIOBase):
    """The content of an xz file, in bounded memory: lzma.LZMAFile has no such limit."""

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
