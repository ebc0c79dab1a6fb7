"""The unpacking of zip archives of crops, within limits and into one folder."""

from __future__ import annotations

import contextlib
import errno
import io
import shutil
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from model.crops.names import Ignored, LeftOut, hidden_place, is_hidden, is_image_name, shown
from model.problems import InputProblem, is_of_the_machine

CHUNK = 1024 * 1024
# Each entry in the list of a zip takes 46 bytes and its name, and 480 bytes in memory.
MAX_DIRECTORY_BYTES = 32 * 1024 * 1024
# The library takes a second for the longest extra fields of a single entry.
MAX_EXTRA_BYTES = 4096
# An entry of the list begins with these bytes; the lengths of its name, extra fields and comment
# are at its bytes 28 to 34.
LISTED = b"PK\1\2"
ENTRY_BYTES = 46
LENGTHS = struct.Struct("<28x3H")
# The library decompresses other methods in unbounded memory.
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
MAX_DEPTH = 32
MAX_NAME_BYTES = 255
ENCRYPTED = 1
UTF_8 = 0x800
# The library decodes names by it that are not marked as UTF-8.
UNMARKED_ENCODING = "cp437"
DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    OSError,
    ValueError,
    OverflowError,
    RuntimeError,
)
FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True)
class UnpackLimits:
    """Limits of an archive.

    Attributes:
        max_bytes: size of all entries together.
        max_entry_bytes: size of one entry; a larger one is left out.
        max_entries: number of entries of any kind and of folders that they lie in.
    """

    max_bytes: int
    max_entry_bytes: int
    max_entries: int = 1_000_000


class DiskFull(InputProblem):
    """The disk has no room for the content of an archive."""


class _Unfit(Exception):
    """An entry that cannot be unpacked, although the others can."""


class BoundedReads(io.BufferedReader):
    """A zip file whose list of entries, its largest read, is refused if it exceeds `most` bytes."""

    def __init__(
        self,
        file: io.FileIO,
        most: int,
    ) -> None:
        super().__init__(file)
        self._most = most

    def read(self, size: int | None = -1, /) -> bytes:
        """Read bytes like any file.

        Raises:
            InputProblem: they are more than `most` at once, or a list with long extra fields.
        """
        if size is not None and size > self._most:
            raise InputProblem("the archive's list of files is too long; pack fewer into one")
        content = super().read(size)
        place = 0
        while content.startswith(LISTED, place) and place + LENGTHS.size < len(content):
            name, extra, comment = LENGTHS.unpack_from(content, place)
            if extra > MAX_EXTRA_BYTES:
                raise InputProblem(
                    f"the archive has a file with over {MAX_EXTRA_BYTES:,} bytes of extra fields; "
                    "pack it by another program"
                )
            place += ENTRY_BYTES + name + extra + comment
        return content


def unpack_crops(
    archive: Path,
    into: Path,
    limits: UnpackLimits,
    ignored: Ignored,
    between: Callable[[], object] = lambda: None,
) -> list[LeftOut]:
    """Unpack the images and CSV files of a zip archive as regular files.

    Entries that are damaged or encrypted, or whose paths lead out of the archive, are left out.

    Args:
        into: an existing folder.
        ignored: collects files of other kinds, and hidden ones.
        between: called before each entry.

    Returns:
        The entries that were left out.

    Raises:
        InputProblem: the file is no zip, is damaged, or exceeds `max_bytes` or `max_entries`.
        DiskFull: the disk is full; the entries that were written stay.
    """
    left_out: list[LeftOut] = []
    allowed = limits.max_bytes
    try:
        with (
            BoundedReads(io.FileIO(archive), MAX_DIRECTORY_BYTES) as file,
            zipfile.ZipFile(file) as packed,
        ):
            entries = packed.infolist()
            count = len(entries)
            for entry in entries:
                if count > limits.max_entries:
                    raise InputProblem(
                        f"the archive has over {limits.max_entries:,} files and folders; pack "
                        "fewer into one"
                    )
                between()
                name = _name_of(entry).replace("\\", "/")
                if name.endswith("/"):
                    continue
                path = PurePosixPath(name)
                if path.suffix.lower() != ".csv":
                    if is_hidden(name):
                        ignored.add_hidden(hidden_place(name))
                        continue
                    if not is_image_name(name):
                        ignored.add_unused(name)
                        continue
                try:
                    place = into / _checked(path, entry, limits.max_entry_bytes)
                    count += sum(not folder.exists() for folder in place.parents)
                    if entry.file_size > allowed:
                        raise InputProblem(
                            "the archive unpacks to more bytes than are allowed; pack fewer images "
                            "into one"
                        )
                    _unpack(packed, entry, place)
                    allowed -= entry.file_size
                except _Unfit as unfit:
                    left_out.append(LeftOut(shown(name), str(unfit)))
                except InputProblem:
                    raise
                except DAMAGE as error:
                    if is_of_the_machine(error):
                        raise
                    reason = f"it is damaged ({shown(str(error))}); pack it again"
                    left_out.append(LeftOut(shown(name), reason))
    except InputProblem:
        raise
    except DAMAGE as error:
        if is_of_the_machine(error):
            raise
        raise InputProblem(f"the archive is damaged ({error}); pack and send it again") from error
    return left_out


def _name_of(entry: zipfile.ZipInfo) -> str:
    """Return the name of an entry; the Finder of macOS writes UTF-8 without marking it as such."""
    if entry.flag_bits & UTF_8:
        return entry.filename
    try:
        return entry.filename.encode(UNMARKED_ENCODING).decode()
    except UnicodeError:
        return entry.filename


def _unpack(packed: zipfile.ZipFile, entry: zipfile.ZipInfo, place: Path) -> None:
    """Write an entry with the folders it lies in, or raise `_Unfit` and leave no file."""
    with packed.open(entry) as content:
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            with place.open("xb") as file:
                shutil.copyfileobj(content, file, CHUNK)
        except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
            raise _Unfit("another entry has the same name; rename one of them") from error
        except BaseException as error:
            with contextlib.suppress(OSError):
                place.unlink()
            if not isinstance(error, OSError) or is_of_the_machine(error):
                raise
            cause = f"the archive cannot be unpacked here ({error.strerror})"
            if error.errno in FULL:
                raise DiskFull(f"{cause}; free space") from error
            raise InputProblem(f"{cause}; send it again") from error


def _checked(path: PurePosixPath, entry: zipfile.ZipInfo, most_bytes: int) -> PurePosixPath:
    """Return the path of an entry, or raise `_Unfit` if it cannot be unpacked there."""
    parts = path.parts
    # A path that begins with two slashes is absolute too.
    if not parts or path.is_absolute() or ".." in parts:
        raise _Unfit("its path leads out of the archive; pack it by a path within")
    longest = max(len(part.encode()) for part in parts)
    if longest > MAX_NAME_BYTES or len(parts) > MAX_DEPTH:
        raise _Unfit(
            f"its name is longer than {MAX_NAME_BYTES} bytes, or lies over {MAX_DEPTH} folders "
            "deep; shorten it"
        )
    # The content ends after the announced size, even if more bytes were packed.
    if entry.file_size > most_bytes:
        raise _Unfit(f"unpacks to {entry.file_size:,} bytes; send the person's crop")
    if entry.flag_bits & ENCRYPTED:
        raise _Unfit("it is encrypted; pack it without a password")
    if entry.compress_type not in METHODS:
        raise _Unfit(f"it is packed by method {entry.compress_type}; pack it stored or deflated")
    return path
