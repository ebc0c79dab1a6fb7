"""Archives of crops, unpacked within limits and below one folder."""

from __future__ import annotations

import errno
import io
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO

from model.crops.names import NO_IMAGE, Ignored, LeftOut, is_hidden, is_image_name, shown
from model.crops.tapes import read_tape
from model.problems import InputProblem

CHUNK = 1024 * 1024
MAX_DIRECTORY_BYTES = 32 * 1024 * 1024
"""Of a zip's list of entries, of which each is 46 bytes and a name, and 480 bytes in memory."""
MAX_DEPTH = 32
MAX_NAME_BYTES = 255
HEADER_BYTES = 4 * 512
ENCRYPTED = 1
DAMAGE = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    OSError,
    ValueError,
    OverflowError,
    NotImplementedError,
)
FULL = (errno.ENOSPC, errno.EDQUOT)
IN_THE_WAY = (errno.EEXIST, errno.ENOTDIR, errno.EISDIR)


@dataclass(frozen=True)
class UnpackLimits:
    """Limits of one archive.

    Attributes:
        max_bytes: size of all entries together.
        max_entry_bytes: size of one; a larger one is left out, since it would be refused later.
        max_entries: number of entries of any kind.
    """

    max_bytes: int
    max_entry_bytes: int
    max_entries: int = 1_000_000


@dataclass(frozen=True)
class _Entry:
    name: str
    size: int
    is_folder: bool
    open: Callable[[], IO[bytes]]


class DiskFull(InputProblem):
    """The disk has no room for the content of an archive that is otherwise usable."""


class _Unfit(Exception):
    """One entry that cannot be unpacked, where the others can."""


def unpack_crops(
    archive: Path,
    into: Path,
    limits: UnpackLimits,
    between: Callable[[], object] = lambda: None,
    ignored: Ignored | None = None,
) -> list[LeftOut]:
    """Unpack the images and CSV files of a zip or tar archive.

    Every entry stays below `into`: absolute paths and climbing ones are left out, and so are links,
    devices, and damaged or encrypted entries of a zip.

    Args:
        archive: `.zip`, `.tar`, `.tar.gz`, `.tar.bz2` or `.tar.xz`, recognised by its bytes.
        into: an existing folder.
        limits: the limits.
        between: called between one entry and the next.
        ignored: takes the files of other kinds.

    Returns:
        The images that were left out.

    Raises:
        InputProblem: for no archive, a damaged one, or one over `max_bytes` or `max_entries`.
        DiskFull: the entries before it are left there.
    """
    left_out: list[LeftOut] = []
    total = 0
    try:
        is_zip = zipfile.is_zipfile(archive)
        for number, entry in enumerate((_of_zip if is_zip else _of_tar)(archive, limits), 1):
            between()
            if number > limits.max_entries:
                raise _too_many(limits)
            path = entry.name.replace("\\", "/")
            wanted = is_image_name(path) or PurePosixPath(path).suffix.lower() == ".csv"
            if entry.is_folder or not wanted:
                if ignored is not None and not (entry.is_folder or is_hidden(entry.name)):
                    ignored.add(entry.name, NO_IMAGE)
                continue
            try:
                # Counted as it is read: a header may announce less.
                total += _unpack(entry, into, limits, limits.max_bytes - total)
            except _Unfit as unfit:
                left_out.append(LeftOut(shown(entry.name), str(unfit)))
            except InputProblem:
                raise
            except (*DAMAGE, RuntimeError) as error:
                if not is_zip:
                    raise
                reason = f"it is damaged ({shown(str(error))}); pack it again"
                left_out.append(LeftOut(shown(entry.name), reason))
    except DiskFull:
        raise
    except InputProblem as problem:
        raise InputProblem(f"the archive {problem}") from problem
    except DAMAGE as error:
        raise InputProblem(f"the archive is damaged ({error}); pack and send it again") from error
    return left_out


def _too_many(limits: UnpackLimits) -> InputProblem:
    return InputProblem(f"holds over {limits.max_entries:,} files; pack fewer")


def _of_zip(archive: Path, limits: UnpackLimits) -> Iterator[_Entry]:
    with (
        BoundedReads(io.FileIO(archive), MAX_DIRECTORY_BYTES) as file,
        zipfile.ZipFile(file) as packed,
    ):
        if len(packed.infolist()) > limits.max_entries:
            raise _too_many(limits)
        for entry in packed.infolist():
            name = entry.filename
            yield _Entry(name, entry.file_size, name.endswith("/"), partial(_open, packed, entry))


def _of_tar(archive: Path, limits: UnpackLimits) -> Iterator[_Entry]:
    most_bytes = limits.max_bytes + HEADER_BYTES * limits.max_entries
    for entry, content in read_tape(archive, most_bytes):
        yield _Entry(entry.name, entry.size, entry.isdir(), partial(_existing, content))


class BoundedReads(io.BufferedReader):
    """A zip file whose list of entries may be no larger than `most` bytes, the largest read."""

    def __init__(self, file: io.FileIO, most: int) -> None:
        super().__init__(file)
        self._most = most

    def read(self, size: int | None = -1, /) -> bytes:
        """Read as of any file; raises `InputProblem` for more than `most` bytes at once."""
        if size is not None and size > self._most:
            raise InputProblem("has a list of files that is too long; pack fewer, or a tar")
        return super().read(size)


def _open(packed: zipfile.ZipFile, entry: zipfile.ZipInfo) -> IO[bytes]:
    if entry.flag_bits & ENCRYPTED:
        raise _Unfit("it is encrypted; pack it without a password")
    # The library decompresses other methods without a bound on the memory.
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise _Unfit(f"it is packed by method {entry.compress_type}; pack it stored or deflated")
    return packed.open(entry)


def _existing(content: IO[bytes] | None) -> IO[bytes]:
    if content is None:
        raise _Unfit("it is a link or a device; pack the file itself")
    return content


def _unpack(
    entry: _Entry,
    into: Path,
    limits: UnpackLimits,
    allowed: int,
) -> int:
    """Write one entry and return its bytes; raises `_Unfit`, leaving nothing, if it cannot be."""
    place = _place(into, entry.name)
    if entry.size > limits.max_entry_bytes:
        raise _Unfit(f"unpacks to {entry.size:,} bytes; send the person's crop")
    with entry.open() as content:
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            file = place.open("xb")
        except OSError as error:
            if error.errno in IN_THE_WAY:
                raise _Unfit("another one of this name came before; name each its own") from error
            raise _not_written(error) from error
        try:
            with file:
                return _copy(content, file, min(allowed, limits.max_entry_bytes), allowed)
        except BaseException:
            place.unlink(missing_ok=True)
            raise


def _place(into: Path, name: str) -> Path:
    parts = PurePosixPath(name.replace("\\", "/")).parts
    if not parts or parts[0] == "/" or ".." in parts or "\0" in name:
        raise _Unfit("its path leads out of the archive; pack it by a path within")
    try:
        longest = max(len(part.encode()) for part in parts)
    except UnicodeEncodeError as error:
        raise _Unfit("its name is no UTF-8; rename it") from error
    if longest > MAX_NAME_BYTES or len(parts) > MAX_DEPTH:
        raise _Unfit(
            f"its name is longer than {MAX_NAME_BYTES} bytes, or lies over {MAX_DEPTH} folders "
            "deep; shorten it"
        )
    return into.joinpath(*parts)


def _copy(
    content: IO[bytes],
    file: IO[bytes],
    allowed: int,
    allowed_of_all: int,
) -> int:
    written = 0
    while part := content.read(CHUNK):
        written += len(part)
        if written > allowed_of_all:
            raise InputProblem("unpacks to more than is allowed; pack fewer images into one")
        if written > allowed:
            raise _Unfit("unpacks to more bytes than it announces; pack it again")
        try:
            file.write(part)
        except OSError as error:
            raise _not_written(error) from error
    return written


def _not_written(error: OSError) -> InputProblem:
    if error.errno in FULL:
        return DiskFull(f"the archive cannot be unpacked here ({error.strerror}); free space")
    return InputProblem(f"cannot be unpacked here ({error.strerror}); send it again")
