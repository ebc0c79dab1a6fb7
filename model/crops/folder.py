"""The crops of a folder and their labels, which a manifest or the names of sub-folders give."""

from __future__ import annotations

import os
from collections.abc import Callable, Set
from pathlib import Path

from model.crops.manifest import CropFile, read_manifest
from model.crops.names import EXPORT_FILES, Ignored, file_names, is_hidden, is_image_name
from model.problems import InputProblem

# Names of the folders of public data sets. A single folder with one of the other names may be that
# of a person.
SURE_PARTS = frozenset({"bounding_box_train", "bounding_box_test", "gt_bbox", "gt_query"})
PARTS = SURE_PARTS | {"train", "query", "gallery", "test", "val", "valid", "validation", "probe"}


def read_folder(
    folder: Path,
    ignored: Ignored,
    manifest: Path | None = None,
    *,
    root: Path | None = None,
    within: Path | None = None,
    between: Callable[[], object] = lambda: None,
    is_export: bool = False,
) -> list[CropFile]:
    """Return the images below a folder, in the same order every time.

    A manifest names the images to use and their labels. Without a manifest all images are used, and
    if none lies directly in `root`, its sub-folders name the people.

    Args:
        folder: a folder of images and other files.
        ignored: collects other and hidden files, images that the manifest does not name, and its
            unknown columns.
        manifest: a CSV file, in which no label but `path` is required.
        root: `folder` by default; that of an unpacked archive is `packed_root`.
        within: see `read_manifest`.
        between: called before each file and row; an error that it raises ends the reading.
        is_export: see `read_manifest`.

    Raises:
        InputProblem: the folder cannot be read, the manifest cannot be used, or the sub-folders
            are those of a public data set.
    """
    root = root or folder
    used = {manifest, *(root / name for name in EXPORT_FILES if is_export)}
    names = []
    for name in file_names(folder, ignored):
        between()
        if is_image_name(name):
            names.append(name)
        elif folder / name not in used:
            ignored.add_unused(name)
    names.sort()
    if manifest is None:
        places = [(folder / name).relative_to(root).parts for name in names]
        have_people = all(len(place) > 1 for place in places)
        if have_people:
            _require_people({place[0] for place in places})
        return [
            CropFile(folder / name, place[0] if have_people else None)
            for name, place in zip(names, places, strict=True)
        ]
    crops = read_manifest(manifest, within, ("path",), ignored, between, is_export)
    listed = {str(crop.path) for crop in crops}
    for name in names:
        between()
        if os.path.realpath(folder / name) not in listed:
            ignored.add(name, "the manifest does not name it; add a row for it")
    return crops


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
