"""The vectors of the galleries, in a flat file for each gallery and side.

A writer writes vectors and syncs them before the rows that name their slots are committed, so a row
never names a vector that is not there. A slot is never given out twice. A removal leaves zeros, and
maintenance gives the disk back the blocks that hold nothing else. The file may end beyond the last
slot: it grows ahead of the writes, so that a process which searches it rarely has to map it anew.
"""

from __future__ import annotations

import ctypes
import itertools
import mmap
import os
import weakref
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from service.ops.data_directory import sync

PRIVATE_FILE = 0o600
FLOAT_BYTES = 4
COPIED_BYTES = 4 * 1024**2
# A file system allocates a file in blocks of this size, or in parts of it.
BLOCK_BYTES = 4096
KEEP_SIZE_AND_PUNCH_HOLE = 3
# Upper bound on the slots by which the file grows ahead; they take no space on the disk.
SLOTS_AHEAD = 65_536

Vector = NDArray[np.float32]


def vector_crc(crop_id: str, vector: Vector) -> int:
    """Compute the checksum of a crop's vector and of its id, which tells whose vector it is."""
    return zlib.crc32(np.asarray(vector, "<f4").tobytes(), zlib.crc32(crop_id.encode()))


class VectorFile:
    """The vectors `(d,)` float32 of one gallery and side, by slot.

    Writers hold the lock of the record. Readers need none: they only read slots that are committed.
    """

    def __init__(self, path: Path, dimension: int, only_read: bool = False) -> None:
        """Open the file, and create it where it is missing.

        Raises:
            FileNotFoundError: it is only read, and is not there.
        """
        self.path = path
        self.dimension = dimension
        self._vector_bytes = dimension * FLOAT_BYTES
        mode = os.O_RDONLY if only_read else os.O_RDWR | os.O_CREAT
        self._file = os.open(path, mode | os.O_CLOEXEC, PRIVATE_FILE)
        # A file that was removed is closed once its last reader has done with it.
        self._close = weakref.finalize(self, os.close, self._file)
        # Another process may have made it and been killed before its name was synced.
        if not only_read:
            sync(path.parent)

    def write(self, vectors: Mapping[int, Vector]) -> None:
        """Write vectors by slot, which are on the disk afterwards.

        Raises:
            OSError: the disk is full or fails.
        """
        if vectors:
            self._reserve(max(vectors) + 1)
        for slots in _runs(sorted(vectors)):
            stacked = np.stack([np.asarray(vectors[slot], "<f4") for slot in slots])
            self._write_at(slots[0], stacked.tobytes())
        os.fdatasync(self._file)

    def clear(self, slots: Iterable[int]) -> None:
        """Overwrite vectors with zeros, which are on the disk afterwards.

        Raises:
            OSError: the disk fails.
        """
        for run in _runs(sorted(slots)):
            self._write_at(run[0], bytes(len(run) * self._vector_bytes))
        os.fdatasync(self._file)

    def read(self, slots: Sequence[int]) -> Vector:
        """Read vectors `(n, d)` in the order of the slots; one beyond the file's end is zeros."""
        found = np.zeros((len(slots), self.dimension), "<f4")
        for first, run in _places(slots):
            size = len(run) * self._vector_bytes
            body = os.pread(self._file, size, run[0] * self._vector_bytes)
            whole = len(body) // self._vector_bytes
            part = np.frombuffer(body[: whole * self._vector_bytes], "<f4")
            found[first : first + whole] = part.reshape(whole, self.dimension)
        return found

    def prefetch(self, slot: int, count: int) -> None:
        place = slot * self._vector_bytes
        os.posix_fadvise(self._file, place, count * self._vector_bytes, os.POSIX_FADV_WILLNEED)

    def mapped(self) -> Vector:
        """Map the file into memory: vectors `(slots, d)` by slot, for reading alone.

        It shows later writes, and stays readable when the file is removed or closed. Only
        committed slots may be read: the file can be cut after the last of them.
        """
        slots = os.fstat(self._file).st_size // self._vector_bytes
        if not slots:
            return np.zeros((0, self.dimension), np.float32)
        memory = mmap.mmap(self._file, slots * self._vector_bytes, prot=mmap.PROT_READ)
        return np.frombuffer(memory, "<f4").reshape(slots, self.dimension)

    def cut(self, next_slot: int) -> None:
        """Cut off what lies from a slot on: a writer was killed before it committed that."""
        if os.fstat(self._file).st_size > next_slot * self._vector_bytes:
            os.ftruncate(self._file, next_slot * self._vector_bytes)

    def release(self, used: Sequence[int], first: int, end: int) -> None:
        """Give the disk back whole blocks of zeros; to be called where no slot of them is written.

        Args:
            used: the slots from `first` up to `end`, exclusive, that hold a vector; ascending.

        Raises:
            OSError: the file system cannot do it.
        """
        edges = [first - 1, *used, end]
        for before, after in itertools.pairwise(edges):
            start = -(-(before + 1) * self._vector_bytes // BLOCK_BYTES) * BLOCK_BYTES
            stop = after * self._vector_bytes // BLOCK_BYTES * BLOCK_BYTES
            if start < stop:
                _punch_hole(self._file, start, stop - start)

    def copy_to(self, path: Path, next_slot: int) -> None:
        end = next_slot * self._vector_bytes
        with path.open("xb") as copy:
            os.fchmod(copy.fileno(), PRIVATE_FILE)
            while body := os.pread(self._file, min(COPIED_BYTES, end - copy.tell()), copy.tell()):
                copy.write(body)

    def close(self) -> None:
        self._close()

    def _reserve(self, slots: int) -> None:
        if os.fstat(self._file).st_size < slots * self._vector_bytes:
            ahead = min(slots, SLOTS_AHEAD)
            os.ftruncate(self._file, (slots + ahead) * self._vector_bytes)

    def _write_at(self, slot: int, vectors: bytes) -> None:
        left = memoryview(vectors)
        offset = slot * self._vector_bytes
        while left:
            written = os.pwrite(self._file, left, offset)
            left = left[written:]
            offset += written


class VectorFiles:
    """The vector files below a data directory; each is opened once."""

    def __init__(self, folder: Path, only_read: bool = False) -> None:
        self.folder = folder
        self._only_read = only_read
        self._opened: dict[tuple[int, int, int], VectorFile] = {}

    def open(self, gallery_id: int, side: int, dimension: int) -> VectorFile:
        # The first vectors may have had another dimension, and not have been committed.
        key = (gallery_id, side, dimension)
        if key not in self._opened:
            path = self.path(gallery_id, side)
            opened = VectorFile(path, dimension, self._only_read)
            # Another thread may have opened it meanwhile.
            return self._opened.setdefault(key, opened)
        return self._opened[key]

    def remove(self, gallery_id: int, side: int) -> None:
        """Remove the file of a gallery and side; its readers read on."""
        for key in list(self._opened):
            if key[:2] == (gallery_id, side):
                self._opened.pop(key, None)
        self.path(gallery_id, side).unlink(missing_ok=True)

    def there(self) -> list[tuple[int, int]]:
        names = [path.stem.split("-") for path in self.folder.glob("vectors-*-*.f32")]
        return sorted((int(gallery), int(side)) for _, gallery, side in names)

    def close(self) -> None:
        for opened in self._opened.values():
            opened.close()
        self._opened.clear()

    def path(self, gallery_id: int, side: int) -> Path:
        return self.folder / vectors_name(gallery_id, side)


def _punch_hole(file: int, offset: int, size: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    place = (ctypes.c_int64(offset), ctypes.c_int64(size))
    if libc.fallocate(file, KEEP_SIZE_AND_PUNCH_HOLE, *place):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def vectors_name(gallery_id: int, side: int) -> str:
    return f"vectors-{gallery_id}-{side}.f32"


def _runs(slots: Sequence[int]) -> Iterator[Sequence[int]]:
    start = 0
    for end in range(1, len(slots) + 1):
        if end == len(slots) or slots[end] != slots[end - 1] + 1:
            yield slots[start:end]
            start = end


def _places(slots: Sequence[int]) -> Iterator[tuple[int, Sequence[int]]]:
    place = 0
    for run in _runs(slots):
        yield place, run
        place += len(run)
