"""Crops in folders: what their files' and folders' names state of them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from training.datasets.record import CropRecord, DatasetProblem, crop_in_file

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff"})
ARCHIVE_FOLDERS = frozenset({"__macosx", "@eadir"})
"""Folders that archivers and network drives add, lower case; no person and no crop is in them."""

Parts = Mapping[str, str]
"""What the names of a file and its folder state, such as `identity`, `camera` and `split`."""

THREE_FOLDERS: dict[str, Parts] = {
    "bounding_box_train": {"split": "train"},
    "query": {"split": "query"},
    "bounding_box_test": {"split": "gallery"},
}
"""The layout that Market-1501 made common: one folder of named crops for each split."""


@dataclass(frozen=True)
class Layout:
    """How a public set lays out its crops.

    Attributes:
        file_name: what the whole name of a file must match; its groups are parts of the label.
        form: the same for people, such as `like 000_45.bmp (identity, viewing angle)`.
        folders: the folders of the crops below the root, and the parts that each of them states.
        within: folders of the archive that may lie above the root, from the outside inwards.
        label: identity and camera, from all parts of a crop.
    """

    file_name: re.Pattern[str]
    form: str
    folders: Mapping[str, Parts] = field(default_factory=lambda: {"": {}})
    within: tuple[str, ...] = ()
    label: Callable[[Parts], tuple[str, str]] = lambda parts: (parts["identity"], parts["camera"])

    def records(
        self, path: Path, dataset: str, not_people: frozenset[str] = frozenset()
    ) -> list[CropRecord]:
        """Every crop, folder by folder, in the order of the names.

        Args:
            path: the root, or a folder above it.
            dataset: the data set's name.
            not_people: identities that label no person: of these only a gallery keeps crops.

        Raises:
            DatasetProblem: naming the first file or folder that is wrong.
        """
        root = descend(path, *self.within)
        listed(root)
        found = []
        for folder, stated in self.folders.items():
            for file in image_files(root / folder):
                parts = {**stated, **self._parts(file)}
                identity, camera = self.label(parts)
                split = parts.get("split")
                if split in (None, "gallery") or identity not in not_people:
                    found.append(crop_in_file(file, dataset, identity, camera, split))
        return found

    def _parts(self, file: Path) -> Parts:
        match = self.file_name.fullmatch(_with_one_suffix(file))
        if match is None:
            raise DatasetProblem(f"{file}: the name is not {self.form}; rename or remove the file")
        return {name: part for name, part in match.groupdict().items() if part is not None}

    def fits(self, path: Path) -> bool:
        """Whether the first image of some folder is named so."""
        root = descend(path, *self.within)
        return any(self._fits_first_of(root / folder) for folder in self.folders)

    def _fits_first_of(self, folder: Path) -> bool:
        try:
            return self.file_name.fullmatch(_with_one_suffix(image_files(folder)[0])) is not None
        except DatasetProblem:
            return False


def descend(folder: Path, *names: str) -> Path:
    """Goes down into each named folder that is there: what an archive unpacks to, or inside it."""
    for name in names:
        if (folder / name).is_dir():
            folder = folder / name
    return folder


def sub_folders(folder: Path) -> list[Path]:
    """Every folder directly in `folder`, sorted by name, without hidden and archivers' folders.

    Raises:
        DatasetProblem: as `listed`.
    """
    return [
        place
        for place in listed(folder)
        if place.is_dir() and place.name.lower() not in ARCHIVE_FOLDERS
    ]


def image_files(folder: Path) -> list[Path]:
    """Every image file directly in `folder`, sorted by name.

    Passed over are hidden files (`.DS_Store`, `._0001.jpg`) and what is no image by its suffix,
    such as the `Thumbs.db` and `readme.txt` of the official releases.

    Raises:
        DatasetProblem: as `listed`, or if the folder holds no image.
    """
    files = [
        file for file in listed(folder) if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file()
    ]
    if not files:
        raise DatasetProblem(f"{folder}: holds no image; name the data set's folder")
    return files


def listed(folder: Path) -> list[Path]:
    """What lies in `folder`, sorted by name, without what is hidden.

    Raises:
        DatasetProblem: if the folder is missing, is a file or cannot be read.
    """
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


def _with_one_suffix(file: Path) -> str:
    """The name; Market-1501 as published has 24 files like `1488_c1s6_023021_00.jpg.jpg`."""
    repeated = Path(file.stem).suffix.lower() == file.suffix.lower()
    return file.stem if repeated else file.name
