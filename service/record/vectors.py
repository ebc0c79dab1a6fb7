"""Vectors of the galleries, in one flat file for each gallery and generation.

A writer syncs vectors before it commits the rows that name their slots, so a committed row always
has its vector. Slots are never reused. A removal writes zeros, and maintenance returns blocks of
zeros to the file system. The file may extend beyond the last slot: it grows ahead of the writes, so
that a process searching it rarely has to map it again.
"""

from __future__ import annotations

import ctypes
import itertools
import mmap
import os
import weakref
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from service.ops.data_directory import sync

PRIVATE_FILE = 0o600
FLOAT_BYTES = 4
COPIED_BYTES = 4 * 1024**2
CLEARED_AT_ONCE = 4096
# File systems allocate space in blocks of this size or smaller.
BLOCK_BYTES = 4096
KEEP_SIZE_AND_PUNCH_HOLE = 3
# Largest number of slots by which a file grows ahead; they are sparse and take no disk space.
SLOTS_AHEAD = 65_536

Vector = NDArray[np.float32]


def vector_crc(crop_id: str, vector: Vector) -> int:
    """Return the checksum of a vector and its crop's id, which ties the vector to the crop."""
    return zlib.crc32(np.asarray(vector, "<f4").tobytes(), zlib.crc32(crop_id.encode()))


class VectorFile:
    """Vectors `(d,)` float32 of one gallery and generation, by slot.

    Writers hold the record's lock. Readers need no lock: they read only committed slots.

    Attributes:
        is_copy: the table `checksums` has the vectors too, and they are written there.
    """

    is_copy = False

    def __init__(self, path: Path, dimension: int, only_read: bool) -> None:
        """Open the file, creating it if it is missing.

        Raises:
            FileNotFoundError: the file is missing and `only_read` is set.
        """
        self.path = path
        self.dimension = dimension
        self._vector_bytes = dimension * FLOAT_BYTES
        mode = os.O_RDONLY if only_read else os.O_RDWR | os.O_CREAT
        self._file = os.open(path, mode | os.O_CLOEXEC, PRIVATE_FILE)
        # A removed file stays open until its last reader is done.
        self.close = weakref.finalize(self, os.close, self._file)
        # Another process may have created it and been killed before syncing its name.
        if not only_read:
            sync(path.parent)

    @property
    def is_removed(self) -> bool:
        return os.fstat(self._file).st_nlink == 0

    def write(self, vectors: Mapping[int, Vector]) -> None:
        """Write vectors by slot; call `sync` before committing the rows that name the slots.

        Raises:
            OSError: the disk is full or fails.
        """
        next_slot = max(vectors, default=-1) + 1
        if os.fstat(self._file).st_size < next_slot * self._vector_bytes:
            ahead = min(next_slot, SLOTS_AHEAD)
            os.ftruncate(self._file, (next_slot + ahead) * self._vector_bytes)
        for slots in runs(sorted(vectors)):
            bodies = [np.asarray(vectors[slot], "<f4").tobytes() for slot in slots]
            remaining = memoryview(b"".join(bodies))
            offset = slots[0] * self._vector_bytes
            while remaining:
                written = os.pwrite(self._file, remaining, offset)
                remaining = remaining[written:]
                offset += written

    def clear(self, slots: Sequence[int]) -> None:
        """Overwrite vectors with zeros and sync them to disk.

        Raises:
            OSError: the disk fails.
        """
        zeros = np.zeros(self.dimension, np.float32)
        for start in range(0, len(slots), CLEARED_AT_ONCE):
            self.write(dict.fromkeys(slots[start : start + CLEARED_AT_ONCE], zeros))
        self.sync()

    def sync(self) -> None:
        os.fdatasync(self._file)

    def read(self, slots: Sequence[int]) -> Vector:
        """Read vectors `(n, d)` in the order of the slots; slots beyond the file's end are zero."""
        vectors = np.zeros((len(slots), self.dimension), "<f4")
        first = 0
        for run in runs(slots):
            size = len(run) * self._vector_bytes
            body = os.pread(self._file, size, run[0] * self._vector_bytes)
            count = len(body) // self._vector_bytes
            complete = np.frombuffer(body[: count * self._vector_bytes], "<f4")
            vectors[first : first + count] = complete.reshape(count, self.dimension)
            first += len(run)
        return vectors

    def load(self, slots: NDArray[np.int64]) -> None:
        """Make the file have the vectors at committed slots `(n,)`, before it is mapped."""

    def prefetch(self, slot: int, count: int) -> None:
        offset = slot * self._vector_bytes
        os.posix_fadvise(self._file, offset, count * self._vector_bytes, os.POSIX_FADV_WILLNEED)

    def mapped(self) -> Vector:
        """Map the file into memory: read-only vectors `(slots, d)` by slot.

        The map shows later writes, and stays readable after the file is removed or closed. Read
        only committed slots: the file may be truncated after the last of them.
        """
        slots = os.fstat(self._file).st_size // self._vector_bytes
        if not slots:
            return np.zeros((0, self.dimension), np.float32)
        memory = mmap.mmap(self._file, slots * self._vector_bytes, prot=mmap.PROT_READ)
        return np.frombuffer(memory, "<f4").reshape(slots, self.dimension)

    def cut(self, next_slot: int) -> None:
        """Truncate the file at a slot, dropping vectors that a killed writer never committed."""
        if os.fstat(self._file).st_size > next_slot * self._vector_bytes:
            os.ftruncate(self._file, next_slot * self._vector_bytes)

    def release(self, used: Sequence[int], first: int, end: int) -> None:
        """Return blocks of zeros to the file system; call it while no slot in them is written.

        Args:
            used: slots in [first, end) that hold a vector; ascending.

        Raises:
            OSError: the file system does not support it.
        """
        libc = ctypes.CDLL(None, use_errno=True)
        edges = [first - 1, *used, end]
        for before, after in itertools.pairwise(edges):
            start = -(-(before + 1) * self._vector_bytes // BLOCK_BYTES) * BLOCK_BYTES
            stop = after * self._vector_bytes // BLOCK_BYTES * BLOCK_BYTES
            hole = (ctypes.c_int64(start), ctypes.c_int64(stop - start))
            if start < stop and libc.fallocate(self._file, KEEP_SIZE_AND_PUNCH_HOLE, *hole):
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

    def copy_to(self, path: Path, next_slot: int) -> None:
        end = next_slot * self._vector_bytes
        with path.open("xb") as copy:
            os.fchmod(copy.fileno(), PRIVATE_FILE)
            while body := os.pread(self._file, min(COPIED_BYTES, end - copy.tell()), copy.tell()):
                copy.write(body)


class VectorFiles:
    """The vector files in a data directory; each is opened once."""

    def __init__(self, folder: Path, only_read: bool = False) -> None:
        self.folder = folder
        self._only_read = only_read
        self._files: dict[tuple[int, int, int], VectorFile] = {}

    def open(self, gallery_id: int, generation: int, dimension: int) -> VectorFile:
        # An uncommitted first batch of vectors may have had another dimension.
        key = (gallery_id, generation, dimension)
        file = self._files.get(key)
        # Another process removes a file whose generation was never committed, and the next attempt
        # to commit it must not write into the removed one.
        if file is None or file.is_removed:
            file = self._files[key] = self._open(gallery_id, generation, dimension)
        return file

    def remove(self, gallery_id: int, generation: int) -> None:
        """Remove the file of a gallery and generation; readers that have it open keep reading."""
        for key in list(self._files):
            if key[:2] == (gallery_id, generation):
                self._files.pop(key, None)
        self.path(gallery_id, generation).unlink(missing_ok=True)

    def drop_removed(self) -> None:
        # The vectors of a removed file stay on the disk while a process has it open.
        for key, file in list(self._files.items()):
            if file.is_removed:
                self._files.pop(key, None)

    def close(self) -> None:
        for file in self._files.values():
            file.close()
        self._files.clear()

    def _open(self, gallery_id: int, generation: int, dimension: int) -> VectorFile:
        return VectorFile(self.path(gallery_id, generation), dimension, self._only_read)

    def path(self, gallery_id: int, generation: int) -> Path:
        return self.folder / vectors_name(gallery_id, generation)


def vectors_name(gallery_id: int, generation: int) -> str:
    return f"vectors-{gallery_id}-{generation}.f32"


def runs(slots: Sequence[int]) -> Iterator[Sequence[int]]:
    """Split slots into runs of consecutive ones."""
    start = 0
    for end in range(1, len(slots) + 1):
        if end == len(slots) or slots[end] != slots[end - 1] + 1:
            yield slots[start:end]
            start = end
