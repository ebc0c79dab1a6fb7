"""The unpacking of zip archives of crops, within limits and into one folder."""

from __future__ import annotations

import contextlib
import errno
import functools
import io
import re
import struct
import unicodedata
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from model.crops.names import (
    EXPORT_FILES,
    Ignored,
    LeftOut,
    hidden_place,
    is_hidden,
    is_image_name,
    shown,
)
from model.problems import InputProblem, is_of_the_machine

CHUNK = 1024 * 1024
# Each entry in the list of a zip takes 46 bytes and its name, and 480 bytes in memory.
MAX_DIRECTORY_BYTES = 128 * 1024 * 1024
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
# The library decodes names with this encoding unless they are marked as UTF-8.
UNMARKED_ENCODING = "cp437"
# An extra field has a kind and a length. That of the Unicode path has a version, the checksum of
# the name that it replaces, and the name in UTF-8.
EXTRA = struct.Struct("<HH")
UNICODE_PATH = 0x7075
UNICODE_PATH_START = struct.Struct("<BI")
# Windows packs names in the code page of its language, without naming it.
CODE_PAGES = (
    *("cp437", "cp737", "cp775", "cp850", "cp852", "cp855", "cp857", "cp862", "cp866", "cp874"),
    *("cp1250", "cp1251", "cp1252", "cp1253", "cp1254", "cp1255", "cp1256", "cp1257", "cp1258"),
)
EAST_ASIAN_PAGES = ("cp932", "gbk", "cp949", "cp950")
# Characters that are not ASCII, with no letter of ASCII beside them.
FOREIGN_WORD = re.compile(
    "(?<![A-Za-z\x80-\U0010ffff])[\x80-\U0010ffff]+(?![A-Za-z\x80-\U0010ffff])"
)
LONE_BYTES = re.compile(rb"[\x80-\xff]{2}|(?<![A-Za-z])[\x80-\xff](?![A-Za-z])")
UNCLEAR_NAME = (
    "its name is not in UTF-8, and Windows reads it differently in each language; pack it with "
    "names in UTF-8 (in 7-Zip by the parameter cu=on)"
)
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
        max_image_bytes: size of one image; a larger one is left out.
        max_entries: number of entries of any kind and of folders that they lie in.
    """

    max_bytes: int
    max_image_bytes: int
    max_entries: int = 1_001_000


@dataclass
class UnpackProgress:
    """How far an archive is unpacked.

    Attributes:
        entries: number of the first entries of its list that are done.
        unpacked_bytes: size of those that were written.
        folders: number of folders that were made for them.
        left_out: those that could not be unpacked.
    """

    entries: int = 0
    unpacked_bytes: int = 0
    folders: int = 0
    left_out: list[LeftOut] = field(default_factory=list)


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
    amid: Callable[[], object] = lambda: None,
    progress: UnpackProgress | None = None,
) -> list[LeftOut]:
    """Unpack images, CSV files and the other files of an export from a zip, as regular files.

    Entries that are damaged or encrypted, or whose paths lead out of the archive, are left out.

    Args:
        into: an existing folder.
        ignored: collects files of other kinds, and hidden ones.
        between: is called before each entry; after an error that it raises, another call with the
            same `progress` goes on with that entry.
        amid: is called before each MiB that is written; an entry that it ends leaves no file.
        progress: that of earlier calls, which this one continues; None begins with the first entry.

    Returns:
        The entries that were left out.

    Raises:
        InputProblem: the file is no zip, is damaged, or exceeds `max_bytes` or `max_entries`.
        DiskFull: the disk is full; the entries that were written stay.
    """
    progress = progress or UnpackProgress()
    left_out = progress.left_out
    done = progress.entries
    try:
        with (
            BoundedReads(io.FileIO(archive), MAX_DIRECTORY_BYTES) as file,
            zipfile.ZipFile(file) as packed,
        ):
            entries = packed.infolist()
            for number, entry in enumerate(entries):
                if len(entries) + progress.folders > limits.max_entries:
                    raise InputProblem(
                        f"the archive has over {limits.max_entries:,} files and folders; pack "
                        "fewer into one"
                    )
                if number >= done:
                    progress.entries = number
                    between()
                clear_name = _name_of(entry)
                name = (clear_name or entry.filename).replace("\\", "/")
                if name.endswith("/") or not _is_wanted(name, ignored) or number < done:
                    continue
                path = PurePosixPath(name)
                try:
                    if clear_name is None:
                        raise _Unfit(UNCLEAR_NAME)
                    most_bytes = limits.max_image_bytes if is_image_name(name) else None
                    place = into / _checked(path, entry, most_bytes)
                    progress.folders += sum(not folder.exists() for folder in place.parents)
                    if progress.unpacked_bytes + entry.file_size > limits.max_bytes:
                        raise InputProblem(
                            "the archive unpacks to more bytes than are allowed; pack fewer images "
                            "into one"
                        )
                    _unpack(packed, entry, place, amid)
                    progress.unpacked_bytes += entry.file_size
                except _Unfit as unfit:
                    _keep_folder(into, path)
                    left_out.append(LeftOut(shown(name), str(unfit)))
                except InputProblem:
                    raise
                except DAMAGE as error:
                    if is_of_the_machine(error):
                        raise
                    _keep_folder(into, path)
                    reason = f"it is damaged ({shown(str(error))}); pack it again"
                    left_out.append(LeftOut(shown(name), reason))
    except InputProblem:
        raise
    except DAMAGE as error:
        if is_of_the_machine(error):
            raise
        raise InputProblem(f"the archive is damaged ({error}); pack and send it again") from error
    return left_out


def _is_wanted(name: str, ignored: Ignored) -> bool:
    """Return whether an entry is unpacked; count it as ignored otherwise."""
    path = PurePosixPath(name)
    if path.suffix.lower() == ".csv" or path.name in EXPORT_FILES:
        return True
    if is_hidden(name):
        ignored.add_hidden(hidden_place(name))
        return False
    if not is_image_name(name):
        ignored.add_unused(name)
        return False
    return True


def _name_of(entry: zipfile.ZipInfo) -> str | None:
    """Return the name of an entry, or None if its encoding is unknown."""
    if entry.flag_bits & UTF_8:
        return entry.filename
    raw = entry.orig_filename.encode(UNMARKED_ENCODING)
    if (path := _unicode_path(entry.extra, raw)) is not None:
        return path
    try:
        # The Finder of macOS writes UTF-8 without marking it as such.
        return raw.split(b"\0")[0].decode()
    except UnicodeError:
        return _read_by_code_pages(raw)


def _unicode_path(extra: bytes, raw: bytes) -> str | None:
    """Return the name in an extra field, if it belongs to the name of the entry."""
    place = 0
    while place + EXTRA.size <= len(extra):
        kind, length = EXTRA.unpack_from(extra, place)
        content = extra[place + EXTRA.size : place + EXTRA.size + length]
        place += EXTRA.size + length
        if kind != UNICODE_PATH or len(content) < UNICODE_PATH_START.size:
            continue
        version, checksum = UNICODE_PATH_START.unpack_from(content)
        # A program that does not know the field may have renamed the entry.
        if (version, checksum) == (1, zlib.crc32(raw)):
            with contextlib.suppress(UnicodeError):
                return content[UNICODE_PATH_START.size :].decode().split("\0")[0] or None
    return None


def _read_by_code_pages(raw: bytes) -> str | None:
    """Return a name that every code page reads alike or not as a word, such as `Jörg`, or None."""
    # Only single letters within Latin words are clear: other alphabets use the same bytes.
    if not set(raw) <= _clear_bytes() or LONE_BYTES.search(raw):
        return None
    for page in EAST_ASIAN_PAGES:
        with contextlib.suppress(UnicodeError):
            if FOREIGN_WORD.search(raw.decode(page)):
                return None
    return raw.decode(UNMARKED_ENCODING)


@functools.cache
def _clear_bytes() -> frozenset[int]:
    """Return ASCII, and the bytes that all pages read as one Latin letter, or as none."""
    clear = set(range(128))
    for byte in range(128, 256):
        characters = {bytes([byte]).decode(page, "replace") for page in CODE_PAGES}
        letters = {character for character in characters if _is_latin(character)}
        if letters == {bytes([byte]).decode(UNMARKED_ENCODING)}:
            clear.add(byte)
    return frozenset(clear)


def _is_latin(character: str) -> bool:
    return unicodedata.name(character, "").startswith("LATIN ")


def _keep_folder(into: Path, path: PurePosixPath) -> None:
    """Create the first folder of an entry that is left out.

    Without it, the folder of another person might be the only one, and be taken for that of all.
    """
    if len(path.parts) > 1 and not path.is_absolute() and path.parts[0] != "..":
        # The name may be too long, or that of a file.
        with contextlib.suppress(OSError, ValueError):
            (into / path.parts[0]).mkdir(exist_ok=True)


def _unpack(
    packed: zipfile.ZipFile, entry: zipfile.ZipInfo, place: Path, amid: Callable[[], object]
) -> None:
    """Write an entry with the folders it lies in, or raise `_Unfit` and leave no file."""
    with packed.open(entry) as content:
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            with place.open("xb") as file:
                amid()
                while part := content.read(CHUNK):
                    file.write(part)
                    amid()
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


def _checked(path: PurePosixPath, entry: zipfile.ZipInfo, most_bytes: int | None) -> PurePosixPath:
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
    if most_bytes is not None and entry.file_size > most_bytes:
        raise _Unfit(f"unpacks to {entry.file_size:,} bytes; send the person's crop")
    if entry.flag_bits & ENCRYPTED:
        raise _Unfit("it is encrypted; pack it without a password")
    if entry.compress_type not in METHODS:
        raise _Unfit(f"it is packed by method {entry.compress_type}; pack it stored or deflated")
    return path
