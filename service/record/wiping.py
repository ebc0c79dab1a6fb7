"""Free space in the pages of an SQLite file, which may hold copies of rows, is overwritten.

With `secure_delete` SQLite overwrites a row that is deleted, but a row that it has moved to another
page leaves a copy in the free space of the former one, which would outlive the row. The pages that
have changed are those in the write-ahead log: after they have been copied into the file, and before
the log is emptied, their free space is overwritten in place. No reader looks at free space, so none
is disturbed.

The layout of pages and of the log is that of https://www.sqlite.org/fileformat2.html.
"""

from __future__ import annotations

import os
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PAGE_BYTES = 4096
FILE_HEADER_BYTES = 100
LOG_HEADER_BYTES = 32
FRAME_HEADER = struct.Struct(">I20x")
FRAME_BYTES = FRAME_HEADER.size + PAGE_BYTES
# Kind of page, first free block, number of cells, and where the cells begin.
PAGE_HEADER = struct.Struct(">BHHH")
# Bytes of the header by the kind of a B-tree page; pages of other kinds begin with the number of
# another page, which is below `MOST_PAGES`, so that their first byte is 0 or 1.
HEADER_BYTES = {2: 12, 5: 12, 10: 8, 13: 8}
MOST_PAGES = 2**25
FREE_BLOCK = struct.Struct(">HH")
# A larger file holds pictures, which a start does not read.
PREFETCHED_BYTES = 2 * 1024**3


class CopiedFrames:
    """The frames of a write-ahead log whose pages were wiped after they were copied.

    A long read keeps the log from being emptied, and every commit meanwhile copies some more.
    """

    def __init__(self, log: Path) -> None:
        self._log = log
        self._header = b""
        self._done = 0

    def new_pages(self, copied: int) -> list[int]:
        """Return the numbers of pages, ascending from 1, in the frames that were not done yet.

        Args:
            copied: number of the log's frames that are copied into the file by now.
        """
        if not self._log.exists():
            return []
        numbers = set()
        with self._log.open("rb", buffering=0) as file:
            header = file.read(LOG_HEADER_BYTES)
            # A log that begins anew has another header.
            if header != self._header:
                self._header = header
                self._done = 0
            for frame in range(self._done, copied):
                place = LOG_HEADER_BYTES + frame * FRAME_BYTES
                body = os.pread(file.fileno(), FRAME_HEADER.size, place)
                if len(body) == FRAME_HEADER.size:
                    numbers.add(FRAME_HEADER.unpack(body)[0])
        return sorted(numbers)

    def note_wiped(self, copied: int) -> None:
        self._done = copied


class PageFile:
    """An SQLite file whose free space is overwritten.

    It stays open as long as the record: a process that closes any descriptor of a file loses all
    of its locks on it, SQLite's own too. Another process would then take itself for the last one
    that has the record open, and delete the log. So several objects for one file share one
    descriptor, which the last of them closes.
    """

    def __init__(self, path: Path) -> None:
        """Open the file; raises `OSError`."""
        found = path.stat()
        self._key = (found.st_dev, found.st_ino)
        with _SHARING:
            if self._key not in _OPENED:
                _OPENED[self._key] = _Descriptor(os.open(path, os.O_RDWR | os.O_CLOEXEC))
            self._descriptor = _OPENED[self._key]
            self._descriptor.users += 1

    def prefetch(self) -> None:
        size = os.fstat(self._descriptor.number).st_size
        if size <= PREFETCHED_BYTES:
            os.posix_fadvise(self._descriptor.number, 0, size, os.POSIX_FADV_WILLNEED)

    def wipe(self, numbers: list[int]) -> int:
        """Overwrite the free space in pages, on the disk too, and return how many had some.

        The caller keeps others from writing the file.

        Raises:
            OSError: the disk fails.
        """
        file = self._descriptor.number
        if os.fstat(file).st_size > MOST_PAGES * PAGE_BYTES:
            return 0
        wiped = 0
        for number in numbers:
            place = (number - 1) * PAGE_BYTES
            page = os.pread(file, PAGE_BYTES, place)
            used = [span for span in free_spans(page, number == 1) if any(page[slice(*span)])]
            for start, end in used:
                os.pwrite(file, bytes(end - start), place + start)
            wiped += bool(used)
        if wiped:
            os.fdatasync(file)
        return wiped

    def close(self) -> None:
        """Close the file; SQLite must have closed it before."""
        with _SHARING:
            self._descriptor.users -= 1
            if not self._descriptor.users:
                os.close(_OPENED.pop(self._key).number)


@dataclass
class _Descriptor:
    number: int
    users: int = 0


# By device and inode.
_OPENED: dict[tuple[int, int], _Descriptor] = {}
_SHARING = threading.Lock()


def free_spans(page: bytes, is_first: bool = False) -> Iterator[tuple[int, int]]:
    """Yield the first byte of each free part of a page, and the one after it.

    Args:
        is_first: whether it is the first page, which begins with the header of the file.
    """
    header = FILE_HEADER_BYTES if is_first else 0
    if len(page) < PAGE_BYTES or page[header] not in HEADER_BYTES:
        return
    kind, block, cells, content = PAGE_HEADER.unpack_from(page, header)
    gap = header + HEADER_BYTES[kind] + 2 * cells
    if gap < content <= PAGE_BYTES:
        yield gap, content
    # Each free block names the next one, which lies behind it.
    while content <= block <= PAGE_BYTES - FREE_BLOCK.size:
        following, size = FREE_BLOCK.unpack_from(page, block)
        if size > FREE_BLOCK.size and block + size <= PAGE_BYTES:
            yield block + FREE_BLOCK.size, block + size
        if following <= block:
            return
        block = following
