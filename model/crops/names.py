"""The names of files, which tell images from other files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from model.problems import InputProblem, is_of_the_machine

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp"})
BY_PRODUCTS = frozenset({"__MACOSX", "Thumbs.db", "desktop.ini"})
MAX_NAMED = 1_000
NO_FILE = "it is a link to a folder, or a device; copy what it leads to into the folder"
NO_IMAGE = "its name is no image's; name images .jpg, .jpeg, .png, .webp or .bmp"


@dataclass(frozen=True)
class LeftOut:
    """A file or column that is not used, by a printable name, and the reason."""

    name: str
    reason: str


class Ignored:
    """The files and columns of a source that are not used, with the reasons."""

    def __init__(self) -> None:
        self.count = 0
        self._named: list[LeftOut] = []

    def add(self, name: str, reason: str) -> None:
        """Count a name, and keep it if it is among the first 1,000."""
        self.count += 1
        if self.count <= MAX_NAMED:
            self._named.append(LeftOut(shown(name), reason))

    def lines(self) -> list[LeftOut]:
        """Return the first names, and the number of the others."""
        others = self.count - len(self._named)
        more = [LeftOut("…", f"{others:,} more are not named here")] if others else []
        return self._named + more


def is_image_name(name: str) -> bool:
    """Return whether a path is that of an image, and neither hidden nor a by-product of packing."""
    return PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES and not is_hidden(name)


def is_hidden(name: str) -> bool:
    """Return whether a path is hidden or a by-product of packing."""
    return any(
        part in BY_PRODUCTS or (part.startswith(".") and part not in (".", ".."))
        for part in PurePosixPath(name).parts
    )


def file_names(folder: Path, ignored: Ignored) -> Iterator[str]:
    """Yield the relative paths of all files below a folder that are not hidden.

    Devices and links to folders are ignored.

    Raises:
        InputProblem: a folder cannot be read; the message names it.
    """
    # `os.walk` calls itself for each level, too often for a deep tree.
    waiting = [str(folder)]
    while waiting:
        place = waiting.pop()
        try:
            with os.scandir(place) as entries:
                for entry in entries:
                    if is_hidden(entry.name):
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
                        continue
                    name = os.path.relpath(entry.path, folder)
                    if _may_be_a_file(entry):
                        yield name
                    else:
                        ignored.add(name, NO_FILE)
        except OSError as error:
            if is_of_the_machine(error):
                raise
            raise InputProblem(
                f"folder: {shown(os.path.relpath(place, folder.parent))} cannot be read "
                f"({error.strerror}); make it readable, or move it"
            ) from error


def _may_be_a_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:
        # Reading a loop of links, or a link into an unreadable folder, will report the error.
        return True


def shown(name: str) -> str:
    """Return a name of at most 200 letters and without control characters, for logs and reports."""
    printable = "".join(letter if letter.isprintable() else "�" for letter in name[:200])
    return f"{printable}…" if len(name) > 200 else printable
