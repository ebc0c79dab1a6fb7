"""The crops of a folder and their labels, which a manifest or the names of sub-folders give."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Set
from itertools import islice
from pathlib import Path

from model.crops.hash_set import HashSet
from model.crops.manifest import CropFile, Manifest
from model.crops.names import EXPORT_FILES, Ignored, file_names, is_hidden, is_image_name
from model.problems import InputProblem

# Names of the folders of public data sets. A single folder with one of the other names may be that
# of a person.
SURE_PARTS = frozenset({"bounding_box_train", "bounding_box_test", "gt_bbox", "gt_query"})
PARTS = SURE_PARTS | {"train", "query", "gallery", "test", "val", "valid", "validation", "probe"}


class CropFolder:
    """The crops of a folder, which are read one by one, in the same order every time.

    A manifest names the images to use and their labels. Without a manifest all images are used, and
    if none lies directly in `root`, its sub-folders name the people.
    """

    def __init__(
        self,
        folder: Path,
        manifest: Path | None = None,
        *,
        root: Path | None = None,
        within: Path | None = None,
        between: Callable[[], object] = lambda: None,
        is_export: bool = False,
    ) -> None:
        """Begin to read a folder of images and other files.

        Args:
            manifest: a CSV file, in which no label but `path` is required.
            root: `folder` by default; that of an unpacked archive is `packed_root`.
            within: see `Manifest`.
            between: called before each file and row; an error that it raises ends the reading.
            is_export: see `Manifest`.
        """
        self._folder = folder
        self._root = root or folder
        self._between = between
        self._manifest = None
        self._used = {manifest}
        if manifest is not None:
            self._manifest = Manifest(manifest, within, ("path",), is_export, between)
        if is_export:
            self._used.update(self._root / name for name in EXPORT_FILES)
        self._names: list[str] | None = None

    def check(self, ignored: Ignored) -> Iterator[CropFile]:
        """Yield all crops, and then add the unused files to `ignored`.

        Args:
            ignored: collects other and hidden files, images that the manifest does not name, and
                its unknown columns.

        Raises:
            InputProblem: the folder cannot be read, the manifest cannot be used, or the sub-folders
                are those of a public data set.
        """
        if self._manifest is None:
            self._names = sorted(self._find_images(ignored))
            yield from self.crops()
            return
        listed = HashSet()
        yield from self._manifest.check(ignored, listed)
        unlisted = []
        for name in self._find_images(ignored):
            if os.path.realpath(self._folder / name) not in listed:
                unlisted.append(name)
        for name in sorted(unlisted):
            ignored.add(name, "the manifest does not name it; add a row for it")

    def crops(self, first: int = 0) -> Iterator[CropFile]:
        """Yield the crops from one on, counted from 0; raise `InputProblem` as `check`."""
        if self._manifest is not None:
            yield from self._manifest.crops(first)
            return
        names = self._list_images()
        have_people = all(len(self._parts_of(name)) > 1 for name in names)
        if have_people:
            _require_people({self._parts_of(name)[0] for name in names})
        for name in islice(names, first, None):
            self._between()
            yield CropFile(self._folder / name, self._parts_of(name)[0] if have_people else None)

    def count(self) -> int:
        """Return the number of crops, which may be unusable; raise `InputProblem` as `check`."""
        return len(self._list_images()) if self._manifest is None else self._manifest.count()

    def _list_images(self) -> list[str]:
        if self._names is None:
            self._names = sorted(self._find_images(Ignored()))
        return self._names

    def _find_images(self, ignored: Ignored) -> Iterator[str]:
        for name in file_names(self._folder, ignored):
            self._between()
            if is_image_name(name):
                yield name
            elif self._folder / name not in self._used:
                ignored.add_unused(name)

    def _parts_of(self, name: str) -> tuple[str, ...]:
        return (self._folder / name).relative_to(self._root).parts


def _require_people(names: Set[str]) -> None:
    """Raise `InputProblem` if sub-folders have the names of a data set's parts, not of people."""
    parts = sorted(name for name in names if name.casefold() in PARTS)
    if len(parts) > 1 or any(name.casefold() in SURE_PARTS for name in parts):
        raise InputProblem(
            f"folder: {', '.join(parts)}: these are the parts of a data set, and would become "
            "people; write a manifest.csv that names the people, or have gmn enroll read the "
            "folder as a data set, such as market1501:PATH"
        )


def packed_root(folder: Path) -> Path:
    """Return the root of an unpacked archive: its only folder, if it has no other visible entry.

    Packing a folder puts its name before every path, and this name is not that of a person.
    """
    # macOS puts a `__MACOSX` with a `._manifest.csv` beside the folder.
    inside = [entry for entry in folder.iterdir() if not is_hidden(entry.name)]
    return inside[0] if len(inside) == 1 and inside[0].is_dir() else folder
