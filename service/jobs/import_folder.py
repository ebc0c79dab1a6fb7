"""The folder of an import: where it is, its manifest, and its images."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from model.crops.decode import CropProblem
from model.crops.file_forms import resolve_in_any_form
from model.crops.manifest import (
    MANIFEST,
    MAX_EXPORTED_BYTES,
    MAX_MANIFEST_BYTES,
    find_manifest,
)
from model.crops.names import shown
from model.problems import is_of_the_machine
from service.errors import InvalidField


def mounted_folder(root: Path | None, folder: str, gallery: str | None) -> Path:
    """Return a folder in the import directory, or in a gallery's part of it if one is given.

    Args:
        root: the import directory; None if folders are not imported.

    Raises:
        InvalidField: there is no such folder.
    """
    if root is None:
        raise InvalidField(
            "folder: this service imports no folders; send an archive, or set GMN_IMPORT_DIR"
        )
    root = root.resolve()
    allowed = root / gallery if gallery else root
    path = _resolve(root, folder)
    if path is None or not path.is_relative_to(allowed) or not path.is_dir():
        key_note = f", in {gallery}/ as the key is for that gallery" if gallery else ""
        raise InvalidField(
            f"folder: there is no folder {folder[:200]!r} below GMN_IMPORT_DIR{key_note}; name one"
        )
    return path


def locate_manifest(folder: Path, root: Path, name: str | None, is_export: bool) -> Path | None:
    if name:
        # The path may be written as on Windows.
        manifest = _resolve(folder, name) or _resolve(folder, name.replace("\\", "/"))
    else:
        found = find_manifest(root)
        manifest = found and _resolve(root, found.name)
    # An error about a file outside the import could reveal its content.
    if manifest is not None and not manifest.is_relative_to(folder):
        raise InvalidField("manifest: lies outside the import; put it among the images")
    if manifest is None or not manifest.is_file():
        if name:
            raise InvalidField(
                f"manifest: there is no file {shown(name)!r} in the import; name one"
            )
        if is_export:
            raise InvalidField(f"archive: {MANIFEST} of the export is missing; download it again")
        return None
    max_bytes = MAX_EXPORTED_BYTES if is_export else MAX_MANIFEST_BYTES
    if manifest.stat().st_size > max_bytes:
        raise InvalidField(f"manifest: has over {max_bytes:,} bytes; import fewer crops at once")
    return manifest


def read_file(
    folder: Path, path: Path | None, max_bytes: int, is_mounted: bool
) -> bytes | CropProblem | None:
    if path is None:
        return None
    try:
        path = path.resolve()
        if not path.is_relative_to(folder):
            return CropProblem("unreadable", "leads out of the folder; copy the file into it")
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size <= max_bytes:
                return file.read(max_bytes)
    except (OSError, ValueError, RuntimeError) as error:
        # A file that a mounted folder cannot read may never be read.
        may_be_the_folder = is_mounted and getattr(error, "errno", None) == errno.EIO
        if is_of_the_machine(error) and not may_be_the_folder:
            raise
        reason = getattr(error, "strerror", None) or type(error).__name__
        return CropProblem("unreadable", f"cannot be read ({reason}); make it readable")
    return CropProblem(
        "file_too_large",
        f"the file has {size:,} bytes, over the limit of {max_bytes:,}; send the person's crop",
    )


def _resolve(folder: Path, name: str) -> Path | None:
    """Return the real path of a name in a resolved folder, in any Unicode form, or None."""
    try:
        return resolve_in_any_form(folder / name, folder).resolve(strict=True)
    except (OSError, ValueError, RuntimeError) as error:
        if is_of_the_machine(error):
            raise
        return None
