"""Archives of crops: unpacked within limits, wherever their entries say they belong."""

from __future__ import annotations

import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from model.crops.names import is_image_name
from model.problems import InputProblem

CHUNK = 1024 * 1024
DAMAGE = (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, OSError, ValueError)


@dataclass(frozen=True)
class UnpackLimits:
    """What is unpacked at most.

    Attributes:
        max_bytes: of all entries together.
        max_entry_bytes: of one; a larger one is left out, as it would be refused later.
        max_entries: how many.
    """

    max_bytes: int
    max_entry_bytes: int
    max_entries: int = 5_000_000


@dataclass(frozen=True)
class LeftOut:
    """An entry that was not unpacked, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class _Entry:
    name: str
    size: int
    read: IO[bytes]


def unpack_crops(
    archive: Path, into: Path, limits: UnpackLimits, between: Callable[[], object] = lambda: None
) -> list[LeftOut]:
    """Unpacks the images and manifests of a zip or tar archive; links and devices are passed by.

    An entry stays below `into` whatever its name says: absolute paths and those that climb are
    left out.

    Args:
        archive: `.zip`, `.tar`, `.tar.gz`, `.tar.bz2` or `.tar.xz`, told by its bytes.
        into: an existing folder.
        limits: what to unpack at most.
        between: called between one entry and the next.

    Returns:
        The images that were left out.

    Raises:
        InputProblem: for no archive, a damaged one, or one over `max_bytes` or `max_entries`.
    """
    left_out: list[LeftOut] = []
    total = entries = 0
    try:
        with _entries(archive) as found:
            for entry in found:
                entries += 1
                between()
                if entries > limits.max_entries:
                    raise InputProblem(f"holds over {limits.max_entries:,} files; pack fewer")
                place = _place(into, entry.name)
                if place is None:
                    left_out.append(LeftOut(entry.name, "its path leads out of the archive"))
                    continue
                if entry.size > limits.max_entry_bytes:
                    reason = f"unpacks to {entry.size:,} bytes; send the person's crop"
                    left_out.append(LeftOut(entry.name, reason))
                    continue
                # Counted as it comes: a header may promise less than follows.
                total += _copy(entry, place, limits.max_bytes - total)
    except InputProblem as problem:
        raise InputProblem(f"the archive {problem}") from problem
    except (RuntimeError, NotImplementedError) as error:
        raise InputProblem(
            f"the archive cannot be read ({error}); pack it without a password, deflated"
        ) from error
    except DAMAGE as error:
        raise InputProblem(f"the archive is damaged ({error}); pack and send it again") from error
    return left_out


@contextmanager
def _entries(archive: Path) -> Iterator[Iterator[_Entry]]:
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as packed:
            yield _of_zip(packed)
    elif tarfile.is_tarfile(archive):
        with tarfile.open(archive, "r:*") as tape:
            yield _of_tar(tape)
    else:
        raise InputProblem("is neither a zip nor a tar file; pack the images into one")


def _of_zip(packed: zipfile.ZipFile) -> Iterator[_Entry]:
    for entry in packed.infolist():
        if not entry.is_dir() and _wanted(entry.filename):
            with packed.open(entry) as file:
                yield _Entry(entry.filename, entry.file_size, file)


def _of_tar(tape: tarfile.TarFile) -> Iterator[_Entry]:
    for member in tape:
        file = tape.extractfile(member) if member.isreg() and _wanted(member.name) else None
        if file is not None:
            with file:
                yield _Entry(member.name, member.size, file)


def _wanted(name: str) -> bool:
    path = name.replace("\\", "/")
    return is_image_name(path) or PurePosixPath(path).suffix.lower() == ".csv"


def _place(into: Path, name: str) -> Path | None:
    parts = PurePosixPath(name.replace("\\", "/")).parts
    if not parts or parts[0] == "/" or ".." in parts or "\0" in name:
        return None
    return into.joinpath(*parts)


def _copy(entry: _Entry, place: Path, allowed: int) -> int:
    place.parent.mkdir(parents=True, exist_ok=True)
    written = 0
    with place.open("wb") as file:
        while part := entry.read.read(CHUNK):
            written += len(part)
            if written > allowed:
                raise InputProblem("unpacks to more than is allowed; pack fewer images into one")
            file.write(part)
    return written
