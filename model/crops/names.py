"""Which files are images by their names; their content is checked when they are decoded."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from model.problems import InputProblem

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp"})


def is_image_name(name: str) -> bool:
    """Whether a path names an image that is neither hidden nor a by-product of packing."""
    path = PurePosixPath(name)
    names = [part for part in path.parts if part not in (".", "..")]
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in names)
    return path.suffix.lower() in IMAGE_SUFFIXES and not hidden


def image_names(folder: Path) -> Iterator[str]:
    """Every image below a folder, by its path from there; links to folders are not followed.

    Raises:
        InputProblem: naming a folder that cannot be read.
    """
    # `os.walk` calls itself for each level, which a deep tree exceeds.
    waiting = [str(folder)]
    while waiting:
        place = waiting.pop()
        try:
            with os.scandir(place) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
                    elif _may_be_a_file(entry):
                        name = os.path.relpath(entry.path, folder)
                        if is_image_name(name):
                            yield name
        except OSError as error:
            raise InputProblem(
                f"folder: {shown(os.path.relpath(place, folder))} cannot be read "
                f"({error.strerror}); make it readable, or move it"
            ) from error


def _may_be_a_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:
        # A loop of links, or one to an unreadable folder: the error of reading it is reported.
        return True


def shown(name: str, length: int = 200) -> str:
    """A name from outside, bounded and without control characters, for logs and reports."""
    printable = "".join(letter if letter.isprintable() else "�" for letter in name[: length + 1])
    return printable if len(printable) <= length else f"{printable[:length]}…"
