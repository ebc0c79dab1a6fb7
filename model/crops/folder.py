"""The crops of a folder and their labels: by a manifest, or by the folder of each person."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from model.crops.manifest import CropFile, read_manifest
from model.crops.names import NO_IMAGE, Ignored, file_names, is_image_name


def read_folder(
    folder: Path,
    ignored: Ignored,
    manifest: Path | None = None,
    *,
    root: Path | None = None,
    within: Path | None = None,
) -> list[CropFile]:
    """Return the images below a folder, in the same order every time.

    A manifest names the images to take, and their labels. Without one every image is taken, and
    where none lies directly in `root`, the sub-folders of `root` name the people on theirs.

    Args:
        folder: a folder of images, and of anything else.
        ignored: takes the files and columns that are not used: other files, images that the
            manifest does not name, and its unknown columns.
        manifest: a CSV file; no label but `path` is required.
        root: the folder itself unless given; of an archive `packed_root`.
        within: see `read_manifest`.

    Raises:
        InputProblem: for a folder that cannot be read, or a manifest that cannot be used.
    """
    names = []
    for name in file_names(folder, ignored):
        if is_image_name(name):
            names.append(name)
        elif folder / name != manifest:
            ignored.add(name, NO_IMAGE)
    names.sort()
    if manifest is None:
        return _by_folders(folder, names, 0 if root in (None, folder) else 1)
    crops = read_manifest(manifest, within, ("path",), ignored)
    listed = {str(crop.path) for crop in crops}
    for name in names:
        if os.path.realpath(folder / name) not in listed:
            ignored.add(name, "the manifest does not name it; add a row for it")
    return crops


def packed_root(folder: Path) -> Path:
    """Return the root of an unpacked archive: the one folder in it, if it holds nothing else.

    Packing a folder puts its name before every path; the name is no person's.
    """
    inside = list(folder.iterdir())
    if len(inside) == 1 and inside[0].is_dir():
        return inside[0]
    return folder


def _by_folders(
    folder: Path,
    names: Sequence[str],
    depth: int,
) -> list[CropFile]:
    places = [Path(name).parts[depth:] for name in names]
    named = all(len(place) > 1 for place in places)
    return [
        CropFile(folder / name, place[0] if named else None)
        for name, place in zip(names, places, strict=True)
    ]
