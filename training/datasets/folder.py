"""What every reader of a folder needs: its image files, or a problem that names the remedy."""

from __future__ import annotations

import re
from pathlib import Path

from model.problems import InputProblem

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff"})
ARCHIVE_FOLDERS = frozenset({"__macosx", "@eadir"})
"""Folders that archivers and network drives add, lower case; no person and no crop is in them."""


class DatasetProblem(InputProblem):
    """A data set that cannot be read: the first file or folder that is wrong and what to do."""


def named_path(text: str) -> Path:
    """The PATH of a `KIND:PATH`, with `~` expanded, since no shell expands it behind a colon."""
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise DatasetProblem(f"{text}: {error}; write the path in full") from error


def descend(folder: Path, *names: str) -> Path:
    """Goes down into each named folder that is there: what an archive unpacks to, or inside it."""
    for name in names:
        if (folder / name).is_dir():
            folder = folder / name
    return folder


def sub_folders(folder: Path) -> list[Path]:
    """Every folder directly in `folder`, sorted by name, without hidden and archivers' folders.

    Raises:
        DatasetProblem: if the folder is missing, is a file or cannot be read.
    """
    return [
        place
        for place in _listed(folder)
        if place.is_dir() and place.name.lower() not in ARCHIVE_FOLDERS
    ]


def image_files(folder: Path) -> list[Path]:
    """Every image file directly in `folder`, sorted by name.

    Passed over are hidden files (`.DS_Store`, `._0001.jpg`) and what is no image by its suffix,
    such as the `Thumbs.db` and `readme.txt` of the official releases.

    Raises:
        DatasetProblem: if the folder is missing, is a file, cannot be read or holds no image.
    """
    files = [
        file for file in _listed(folder) if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file()
    ]
    if not files:
        raise DatasetProblem(f"{folder}: holds no image; name the data set's folder")
    return files


def _listed(folder: Path) -> list[Path]:
    """What lies in `folder`, sorted by name, without what is hidden."""
    if not folder.exists():
        raise DatasetProblem(f"{folder}: no such folder; correct the path")
    if not folder.is_dir():
        raise DatasetProblem(f"{folder}: is a file; name the data set's folder")
    try:
        return sorted(place for place in folder.iterdir() if not place.name.startswith("."))
    except OSError as error:
        raise DatasetProblem(
            f"{folder}: cannot be read ({error.strerror}); make it readable"
        ) from error


def matched_name(file: Path, pattern: re.Pattern[str], form: str) -> re.Match[str]:
    """The parts of a file's name; a suffix given twice counts once.

    Market-1501 as published holds 24 files like `1488_c1s6_023021_00.jpg.jpg`.

    Args:
        file: an image of the data set.
        pattern: what the whole name must match.
        form: the same for people, such as `IIIIKKK.png`.

    Raises:
        DatasetProblem: naming the file whose name does not match.
    """
    match = pattern.fullmatch(_with_one_suffix(file))
    if match is None:
        raise DatasetProblem(f"{file}: the name is not {form}; rename or remove the file")
    return match


def has_image_named(folder: Path, pattern: re.Pattern[str]) -> bool:
    """Whether the folder's first image, by name, matches `pattern`; False where there is none."""
    try:
        return pattern.fullmatch(_with_one_suffix(image_files(folder)[0])) is not None
    except DatasetProblem:
        return False


def _with_one_suffix(file: Path) -> str:
    repeated = Path(file.stem).suffix.lower() == file.suffix.lower()
    return file.stem if repeated else file.name
