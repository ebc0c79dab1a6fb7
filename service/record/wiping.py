"""Overwriting of free space in the pages of an SQLite file, which may contain copies of rows.

With `secure_delete`, SQLite overwrites a deleted row. But when it moves a row to another page, a
copy remains in the free space of the former page and would outlive the row. The changed pages are
those in the write-ahead log. After a checkpoint, and before the log is truncated, their free space
is overwritten in place. This disturbs no reader, because readers never look at free space.

The layout of pages and of the log is described at https://www.sqlite.org/fileformat2.html.
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
# Page type, first free block, number of cells, and start of the cell content.
PAGE_HEADER = struct.Struct(">BHHH")
# Header sizes by type of B-tree page. Pages of other types begin with a page number, which is below
# `MOST_PAGES`, so that their first byte is 0 or 1.
HEADER_BYTES = {2: 12, 5: 12, 10: 8, 13: 8}
MOST_PAGES = 2**25
FREE_BLOCK = struct.Struct(">HH")
# A larger file contains pictures, which are not read at the start.
PREFETCHED_BYTES = 2 * 1024**3


class CopiedFrames:
    """The frames of a write-ahead log whose pages were wiped after a checkpoint copied them.

    A long read prevents truncation of the log, while every commit checkpoints more frames.

    Attributes:
        wiped: number of frames whose pages were wiped.
    """

    def __init__(self, log: Path) -> None:
        self._log = log
        self._header = b""
        self.wiped = 0

    def new_pages(self, copied: int) -> list[int]:
        """Return the page numbers, ascending from 1, of copied frames that were not wiped yet.

        Args:
            copied: number of the log's frames that have been copied into the file.
        """
        if not self._log.exists():
            return []
        numbers = set()
        with self._log.open("rb", buffering=0) as file:
            header = file.read(LOG_HEADER_BYTES)
            # A restarted log has a new header.
            if header != self._header:
                self._header = header
                self.wiped = 0
            for frame in range(self.wiped, copied):
                place = LOG_HEADER_BYTES + frame * FRAME_BYTES
                body = os.pread(file.fileno(), FRAME_HEADER.size, place)
                if len(body) == FRAME_HEADER.size:
                    numbers.add(FRAME_HEADER.unpack(body)[0])
        return sorted(numbers)


class PageFile:
    """An SQLite file whose free space is overwritten.

    It stays open as long as the record. A process that closes any descriptor of a file loses all
    its locks on it, including SQLite's own; another process could then believe that it is the last
    one with the record open, and delete the log. Objects for the same file therefore share one
    descriptor, which the last of them closes.
    """

    def __init__(self, path: Path) -> None:
        status = path.stat()
        self._key = (status.st_dev, status.st_ino)
        with _DESCRIPTORS_LOCK:
            if self._key not in _DESCRIPTORS:
                _DESCRIPTORS[self._key] = _Descriptor(os.open(path, os.O_RDWR | os.O_CLOEXEC))
            self._descriptor = _DESCRIPTORS[self._key]
            self._descriptor.users += 1

    def prefetch(self) -> None:
        size = os.fstat(self._descriptor.number).st_size
        if size <= PREFETCHED_BYTES:
            os.posix_fadvise(self._descriptor.number, 0, size, os.POSIX_FADV_WILLNEED)

    def wipe(self, numbers: list[int]) -> int:
        """Overwrite the free space in pages, sync, and return the number of pages that had data.

        The caller must prevent other writes to the file.

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
        """Close the file; SQLite must have closed it first."""
        with _DESCRIPTORS_LOCK:
            self._descriptor.users -= 1
            if not self._descriptor.users:
                os.close(_DESCRIPTORS.pop(self._key).number)


@dataclass
class _Descriptor:
    number: int
    users: int = 0


# Open descriptors by device and inode.
_DESCRIPTORS: dict[tuple[int, int], _Descriptor] = {}
_DESCRIPTORS_LOCK = threading.Lock()


def free_spans(page: bytes, is_first: bool) -> Iterator[tuple[int, int]]:
    """Yield the start and end (exclusive) of each free part of a page.

    Args:
        is_first: the page is the first one, which begins with the file header.
    """
    header = FILE_HEADER_BYTES if is_first else 0
    if len(page) < PAGE_BYTES or page[header] not in HEADER_BYTES:
        return
    kind, block, cells, content = PAGE_HEADER.unpack_from(page, header)
    gap = header + HEADER_BYTES[kind] + 2 * cells
    if gap < content <= PAGE_BYTES:
        yield gap, content
    # Each free block points to the next one, at a higher offset.
    while content <= block <= PAGE_BYTES - FREE_BLOCK.size:
        following, size = FREE_BLOCK.unpack_from(page, block)
        if size > FREE_BLOCK.size and block + size <= PAGE_BYTES:
            yield block + FREE_BLOCK.size, block + size
        if following <= block:
            return
        block = following
