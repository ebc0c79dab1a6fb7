"""A machine's copy of the vectors that a record in PostgreSQL has as rows.

A slot is given once, so that a vector in the copy stays right. Where the copy has zeros, the vector
is fetched. After a reboot, whose cause may be a power cut, the copy is made anew.
"""

from __future__ import annotations

import fcntl
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from service.record.database import GENERATIONS
from service.record.transaction import Reader, batches
from service.record.vectors import CLEARED_AT_ONCE, PRIVATE_FILE, Vector, VectorFile, VectorFiles

if TYPE_CHECKING:
    from service.postgres.connection import PostgresConnection
    from service.record.database import Database

FETCHED_AT_ONCE = 4096
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
# Names the boot of the machine in which the files of a folder were written.
MARK = "vectors.boot"
GENERATIONS_IN_USE = f"SELECT gallery_id, generation FROM {GENERATIONS} WHERE name IS NOT NULL"
FETCH = (
    "SELECT slot, content FROM checksums "
    "WHERE gallery_id = ? AND generation = ? AND slot = ANY(?) AND content IS NOT NULL"
)


class CachedVectorFile(VectorFile):
    """Vectors of one gallery and generation, which are read as rows and searched in the file."""

    is_copy = True

    def __init__(self, path: Path, key: tuple[int, int], dimension: int, source: Database) -> None:
        super().__init__(path, dimension, only_read=False)
        self._key = key
        self._source = source
        self._lock = threading.Lock()

    def read(self, slots: Sequence[int]) -> Vector:
        vectors = np.zeros((len(slots), self.dimension), "<f4")
        found = self._fetch(slots)
        for position, slot in enumerate(slots):
            if slot in found:
                vectors[position] = found[slot]
        return vectors

    def load(self, slots: NDArray[np.int64]) -> None:
        for first in range(0, len(slots), FETCHED_AT_ONCE):
            part = slots[first : first + FETCHED_AT_ONCE]
            copied = self.mapped()
            is_missing = np.ones(len(part), bool)
            is_mapped = part < len(copied)
            is_missing[is_mapped] = ~copied[part[is_mapped]].any(axis=1)
            if is_missing.any():
                self._keep(self._fetch(part[is_missing].tolist()))

    def clear(self, slots: Sequence[int]) -> None:
        zeros = np.zeros(self.dimension, np.float32)
        for part in batches(slots, CLEARED_AT_ONCE):
            self._keep(dict.fromkeys(part, zeros))
        self.sync()

    def _fetch(self, slots: Sequence[int]) -> dict[int, Vector]:
        with self._source.naming_errors():
            connection = cast("PostgresConnection", self._source.connection())
            rows = connection.fetch_binary(FETCH, (*self._key, list(slots)))
        return {slot: np.frombuffer(content, "<f4") for slot, content in rows}

    def _keep(self, vectors: Mapping[int, Vector]) -> None:
        if not vectors:
            return
        # The file grows only: what another process wrote behind this one's slots must stay.
        with self._lock:
            fcntl.flock(self._file, fcntl.LOCK_EX)
            try:
                self.write(vectors)
            finally:
                fcntl.flock(self._file, fcntl.LOCK_UN)


class CachedVectorFiles(VectorFiles):
    """The copies in a data directory."""

    def __init__(self, folder: Path, source: Database) -> None:
        super().__init__(folder)
        self._source = source
        boot = BOOT_ID.read_text()
        mark = folder / MARK
        if not mark.exists() or mark.read_text() != boot:
            self.forget()
            mark.touch(PRIVATE_FILE)
            mark.write_text(boot)

    def drop_removed(self) -> None:
        """Remove the copies of galleries and generations that are in the record no more."""
        paths = set(self.folder.glob("vectors-*.f32"))
        in_use = Reader(self._source).tuples(GENERATIONS_IN_USE)
        for path in paths - {self.path(*generation) for generation in in_use}:
            # A process that is about to commit a generation opens its file anew.
            path.unlink(missing_ok=True)
        super().drop_removed()

    def forget(self) -> None:
        """Remove every copy."""
        self.close()
        for path in self.folder.glob("vectors-*.f32"):
            path.unlink(missing_ok=True)

    def _open(self, gallery_id: int, generation: int, dimension: int) -> VectorFile:
        path = self.path(gallery_id, generation)
        return CachedVectorFile(path, (gallery_id, generation), dimension, self._source)
