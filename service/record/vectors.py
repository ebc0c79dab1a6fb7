"""The vectors of the galleries: a flat file for each gallery and side, and one of checksums.

A writer writes vectors and syncs them before the rows that name their slots are committed, so a row
never names a vector that is not there. A slot is never given out twice; a removal leaves zeros.
"""

from __future__ import annotations

import os
import weakref
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from service.ops.data_directory import sync

PRIVATE_FILE = 0o600
FLOAT_BYTES = 4
CHECKSUM_BYTES = 4
COPIED_BYTES = 4 * 1024**2

Vector = NDArray[np.float32]


def vector_crc(crop_id: str, vector: Vector) -> int:
    """Compute the checksum of a crop's vector and of its id, which tells whose vector it is."""
    return zlib.crc32(np.asarray(vector, "<f4").tobytes(), zlib.crc32(crop_id.encode()))


class VectorFile:
    """The vectors `(d,)` float32 of one gallery and side, by slot.

    Writers hold the lock of the record. Readers need none: they only read slots that are committed.
    """

    def __init__(self, path: Path, dimension: int, only_read: bool = False) -> None:
        """Open the file `{path}.f32` and its checksums `{path}.crc`; create what is missing.

        Raises:
            FileNotFoundError: it is only read, and is not there.
        """
        self.path = path
        self.dimension = dimension
        self._vector_bytes = dimension * FLOAT_BYTES
        self._closing: list[Callable[[], object]] = []
        self._vectors = self._open(path.with_suffix(".f32"), only_read)
        self._checksums = self._open(path.with_suffix(".crc"), only_read)
        # Whoever made them may have been killed before their names were synced.
        if not only_read:
            sync(path.parent)

    def write(self, vectors: Mapping[int, tuple[str, Vector]]) -> None:
        """Write vectors by slot, each with the id of its crop; they are on the disk afterwards.

        Raises:
            OSError: the disk is full or fails.
        """
        for slots in _runs(sorted(vectors)):
            found = [vectors[slot] for slot in slots]
            stacked = np.stack([np.asarray(vector, "<f4") for _, vector in found])
            checksums = np.array([vector_crc(*one) for one in found], "<u4")
            self._write_at(slots[0], stacked.tobytes(), checksums.tobytes())
        self._sync()

    def clear(self, slots: Iterable[int]) -> None:
        """Overwrite vectors with zeros, which are on the disk afterwards.

        Raises:
            OSError: the disk fails.
        """
        for run in _runs(sorted(slots)):
            zeros = bytes(len(run) * self._vector_bytes)
            self._write_at(run[0], zeros, bytes(len(run) * CHECKSUM_BYTES))
        self._sync()

    def read(self, slots: Sequence[int]) -> Vector:
        """Read vectors `(n, d)` in the order of the slots; one beyond the file's end is zeros."""
        found = np.zeros((len(slots), self.dimension), "<f4")
        for first, run in _places(slots):
            body = os.pread(
                self._vectors, len(run) * self._vector_bytes, run[0] * self._vector_bytes
            )
            whole = len(body) // self._vector_bytes
            part = np.frombuffer(body[: whole * self._vector_bytes], "<f4")
            found[first : first + whole] = part.reshape(whole, self.dimension)
        return found

    def read_checksums(self, slots: Sequence[int]) -> NDArray[np.uint32]:
        """Read the checksums `(n,)` in the order of the slots; 0 where none was written."""
        found = np.zeros(len(slots), "<u4")
        for first, run in _places(slots):
            size = len(run) * CHECKSUM_BYTES
            body = os.pread(self._checksums, size, run[0] * CHECKSUM_BYTES)
            whole = len(body) // CHECKSUM_BYTES
            found[first : first + whole] = np.frombuffer(body[: whole * CHECKSUM_BYTES], "<u4")
        return found

    def mapped(self) -> Vector:
        """Map the file into memory: vectors `(slots, d)` by slot, as many as there are now."""
        slots = os.fstat(self._vectors).st_size // self._vector_bytes
        shape = (slots, self.dimension)
        if not slots:
            return np.zeros(shape, np.float32)
        return np.memmap(self.path.with_suffix(".f32"), "<f4", "r", shape=shape)

    def cut(self, next_slot: int) -> None:
        """Cut off what lies from a slot on: a writer was killed before it committed that."""
        for file, size in (
            (self._vectors, self._vector_bytes),
            (self._checksums, CHECKSUM_BYTES),
        ):
            if os.fstat(file).st_size > next_slot * size:
                os.ftruncate(file, next_slot * size)

    def copy_to(self, path: Path, next_slot: int) -> None:
        """Copy what lies before a slot, with its checksums, to new files."""
        for suffix, file, size in (
            (".f32", self._vectors, self._vector_bytes),
            (".crc", self._checksums, CHECKSUM_BYTES),
        ):
            end = next_slot * size
            with path.with_suffix(suffix).open("xb") as copy:
                os.fchmod(copy.fileno(), PRIVATE_FILE)
                while body := os.pread(file, min(COPIED_BYTES, end - copy.tell()), copy.tell()):
                    copy.write(body)

    def close(self) -> None:
        """Close both files."""
        for close in self._closing:
            close()

    def _open(self, path: Path, only_read: bool) -> int:
        mode = os.O_RDONLY if only_read else os.O_RDWR | os.O_CREAT
        file = os.open(path, mode | os.O_CLOEXEC, PRIVATE_FILE)
        # A file that was removed is closed once its last reader has done with it.
        self._closing.append(weakref.finalize(self, os.close, file))
        return file

    def _write_at(self, slot: int, vectors: bytes, checksums: bytes) -> None:
        _write_whole(self._vectors, vectors, slot * self._vector_bytes)
        _write_whole(self._checksums, checksums, slot * CHECKSUM_BYTES)

    def _sync(self) -> None:
        os.fdatasync(self._vectors)
        os.fdatasync(self._checksums)


class VectorFiles:
    """The vector files below a data directory; each is opened once."""

    def __init__(self, folder: Path, only_read: bool = False) -> None:
        self.folder = folder
        self._only_read = only_read
        self._opened: dict[tuple[int, int, int], VectorFile] = {}

    def open(self, gallery_id: int, side: int, dimension: int) -> VectorFile:
        """Return the file of a gallery and side, whose vectors have this dimension."""
        # The first vectors may have had another dimension, and not have been committed.
        key = (gallery_id, side, dimension)
        if key not in self._opened:
            path = self.path(gallery_id, side)
            opened = VectorFile(path, dimension, self._only_read)
            # Another thread may have opened it meanwhile.
            return self._opened.setdefault(key, opened)
        return self._opened[key]

    def remove(self, gallery_id: int, side: int) -> None:
        """Remove the file of a gallery and side; whoever reads it meanwhile reads on."""
        for key in list(self._opened):
            if key[:2] == (gallery_id, side):
                self._opened.pop(key, None)
        path = self.path(gallery_id, side)
        path.with_suffix(".f32").unlink(missing_ok=True)
        path.with_suffix(".crc").unlink(missing_ok=True)

    def there(self) -> list[tuple[int, int]]:
        """Return gallery and side of every file in the folder."""
        names = [path.stem.split("-") for path in self.folder.glob("vectors-*-*.f32")]
        return sorted((int(gallery), int(side)) for _, gallery, side in names)

    def close(self) -> None:
        """Close all files."""
        for opened in self._opened.values():
            opened.close()
        self._opened.clear()

    def path(self, gallery_id: int, side: int) -> Path:
        """Return where the files of a gallery and side lie, without their suffixes."""
        return self.folder / f"vectors-{gallery_id}-{side}"


def _write_whole(file: int, body: bytes, offset: int) -> None:
    left = memoryview(body)
    while left:
        written = os.pwrite(file, left, offset)
        left = left[written:]
        offset += written


def _runs(slots: Sequence[int]) -> Iterator[Sequence[int]]:
    """Split slots into runs of consecutive ones."""
    start = 0
    for end in range(1, len(slots) + 1):
        if end == len(slots) or slots[end] != slots[end - 1] + 1:
            yield slots[start:end]
            start = end


def _places(slots: Sequence[int]) -> Iterator[tuple[int, Sequence[int]]]:
    """Split slots into runs, each with the place of its first slot."""
    place = 0
    for run in _runs(slots):
        yield place, run
        place += len(run)
