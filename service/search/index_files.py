"""Files of an index: vectors and label texts, which are mapped, and columns that complete them.

A set of files belongs to one process, which holds its lock. `vectors` and `texts` change with the
index: rows are appended and zeroed in place. `columns.npz` is written anew at a checkpoint and
names the moment of the record that the first rows of the others are right for; what was added later
is ignored, and rows that do not have their checksum any more have to be among those that the record
has changed since. So a process may be killed, or the machine lose its power, at any moment.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import logging
import os
import shutil
import weakref
import zlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from service.ops.data_directory import STRAY, make_folder, move_aside, sync
from service.ops.failpoints import failpoint
from service.ops.health import heartbeat
from service.search.arrays import Rows, vector_sums

log = logging.getLogger(__name__)
Columns = Mapping[str, NDArray[Any]]
# Programs before wrote a file `columns`, which is not read: the record is.
COLUMNS = "columns.npz"
ROWS_AT_ONCE = 8192


class DamagedFiles(Exception):
    """Files of an index are not what was written."""


class FileSet:
    """The files of one table, which this process holds.

    Attributes:
        vectors, texts: to be read and written in place.
        saved: how many of the table's changes the newest checkpoint has.
    """

    def __init__(self, folder: Path, new: bool = False) -> None:
        """Opens a folder's files, or makes them.

        Raises:
            OSError: they cannot be used; a `BlockingIOError` where another process holds them.
        """
        self.folder = folder
        self.saved = 0
        with contextlib.ExitStack() as opened:
            self.vectors = opened.enter_context(_open(folder / "vectors", new))
            # Released when nothing reads the mapped file any more.
            fcntl.flock(self.vectors, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.texts = opened.enter_context(_open(folder / "texts", new))
            if new:
                # Without a checkpoint no start can go on from them.
                opened.callback(_remove_unused, folder)
            self.close = weakref.finalize(self, opened.pop_all().close)

    def read(self) -> Stored | None:
        """The newest checkpoint; None where there is none.

        Raises:
            DamagedFiles: it is not what was written.
            OSError: it cannot be read.
        """
        path = self.folder / COLUMNS
        if not path.exists():
            return None
        try:
            with path.open("rb") as file, np.load(file) as archive:
                named = json.loads(archive["named"].tobytes())
                columns = {name: archive[name] for name in named.pop("columns")}
            return Stored(self, named, columns)
        except OSError:
            raise
        except Exception as error:
            # Each part has a checksum; a broken archive is an error of many types.
            raise DamagedFiles(f"{path} is not what was written: {error}") from error

    def remove(self) -> None:
        """Removes the files; an index that reads them goes on."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def move_aside(self, why: object) -> None:
        """Moves damaged files into the folder `stray`; nothing reads or erases them there."""
        strays = self.folder.parent.parent / STRAY
        name = self.folder.name
        move_aside(self.folder, strays, name, f"holds files that are damaged ({why})")


def _remove_unused(folder: Path) -> None:
    if not (folder / COLUMNS).exists():
        shutil.rmtree(folder, ignore_errors=True)


def _open(path: Path, new: bool) -> IO[bytes]:
    return open(path, "w+b" if new else "r+b", buffering=0, opener=_private)


def _private(path: str, flags: int) -> int:
    # Created where a removal was cut short, so that what is left can be held, and removed.
    return os.open(path, flags | os.O_CLOEXEC | os.O_CREAT, 0o600)


@dataclass(frozen=True)
class Stored:
    """A checkpoint.

    Attributes:
        named: what it is of, as JSON; `position` and `version` are the record's.
        columns: by name, `(rows,)` each.
        changes: how many of the table's changes it has.
    """

    files: FileSet
    named: Mapping[str, Any]
    columns: Columns
    changes: int = 0

    def write(self) -> None:
        """Makes it the newest one; vectors and texts are on the disk before; raises `OSError`."""
        os.fsync(self.files.vectors.fileno())
        os.fsync(self.files.texts.fileno())
        failpoint("index-files.synced")
        path = self.files.folder / COLUMNS
        beside = path.with_suffix(".new")
        named = json.dumps({**self.named, "columns": list(self.columns)}).encode()
        parts = {"named": np.frombuffer(named, np.uint8), **self.columns}
        with open(beside, "wb", opener=_private) as file:
            np.savez(file, allow_pickle=False, **parts)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
        sync(self.files.folder)
        self.files.saved = self.changes
        failpoint("index-files.written")

    def check(
        self, dimension: int, gone: Collection[int] = (), relabelled: Collection[int] = ()
    ) -> None:
        """Compares vectors and labels with their checksums, and cuts off what was added later.

        Args:
            dimension: d, of the vectors.
            gone, relabelled: row ids that may not be what they were at the checkpoint.

        Raises:
            DamagedFiles: another row is not what was written.
            OSError: the files cannot be read.
        """
        there = self.columns["valid"] & ~np.isin(self.columns["row_ids"], list(gone))
        labelled = there & ~np.isin(self.columns["row_ids"], list(relabelled))
        self._check_vectors(np.flatnonzero(there), dimension)
        self._check_texts(np.flatnonzero(labelled))
        # What was added after the checkpoint comes from the record again.
        size = len(there) * dimension * np.float32().nbytes
        os.ftruncate(self.files.vectors.fileno(), size)
        os.ftruncate(self.files.texts.fileno(), self.named["texts"])

    def _check_vectors(self, rows: Rows, dimension: int) -> None:
        path = self.files.folder / "vectors"
        size = len(self.columns["row_ids"])
        sums = np.empty(size, np.uint64)
        for start in range(0, size, ROWS_AT_ONCE):
            heartbeat()
            part = slice(start, min(start + ROWS_AT_ONCE, size))
            # Read and not mapped: a sector that cannot be read is an error, and not a signal.
            count = (part.stop - start) * dimension
            offset = start * dimension * np.float32().nbytes
            content = np.fromfile(path, np.float32, count, offset=offset)
            if len(content) < count:
                raise DamagedFiles(f"{path} is shorter than it was")
            sums[part] = vector_sums(content.reshape(-1, dimension))
        if not np.array_equal(sums[rows], self.columns["vector_sums"][rows]):
            raise DamagedFiles(f"{path} has other vectors than were written")

    def _check_texts(self, rows: Rows) -> None:
        path = self.files.folder / "texts"
        columns = self.columns
        rows = rows[np.argsort(columns["text_at"][rows])]
        for first in range(0, len(rows), ROWS_AT_ONCE):
            heartbeat()
            part = rows[first : first + ROWS_AT_ONCE]
            starts = columns["text_at"][part]
            ends = (starts + columns["text_bytes"][part] - starts[0]).tolist()
            content = np.fromfile(path, np.uint8, ends[-1], offset=int(starts[0])).data
            places = zip((starts - starts[0]).tolist(), ends, strict=True)
            sums = [zlib.crc32(content[start:end]) for start, end in places]
            if sums != columns["text_sums"][part].tolist():
                raise DamagedFiles(f"{path} has other labels than were written")


def any_stored(indexes: Path) -> bool:
    """Whether a folder of galleries' index folders has a checkpoint."""
    return any(indexes.glob(f"[0-9]*/*/{COLUMNS}"))


@dataclass(frozen=True)
class IndexFolder:
    """Where the sets of files of one gallery lie.

    Attributes:
        path: of the folder; each set is a folder in it.
        least_crops: smaller galleries have no files.
        reserved_bytes: of the disk, which stay free.
    """

    path: Path
    least_crops: int
    reserved_bytes: int

    def has_room(self, size: int) -> bool:
        """Whether the disk takes vectors of so many bytes; raises `OSError`."""
        make_folder(self.path)
        return shutil.disk_usage(self.path).free >= size + self.reserved_bytes

    def create(self, size: int) -> FileSet:
        """A new set for vectors of so many bytes; raises `OSError` where there is no room."""
        if not self.has_room(size):
            raise OSError(errno.ENOSPC, f"the disk of {self.path} has no room for an index")
        folder = self.path / token_hex(8)
        make_folder(folder)
        return FileSet(folder, new=True)

    def sets(self) -> Iterator[FileSet]:
        """Those that no process holds, and that are held by this one from now on."""
        for folder in self.path.glob("*"):
            try:
                yield FileSet(folder)
            except BlockingIOError:
                continue
            except OSError as error:
                log.error(
                    "%s cannot be read, the index is filled from the record: %s", folder, error
                )

    def remove_unheld(self) -> None:
        """Removes the sets of processes that have ended, which no deletion reaches."""
        for files in self.sets():
            files.remove()
            files.close()
