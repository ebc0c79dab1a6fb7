"""Readers of own data: a CSV manifest, or a folder with one sub-folder of images per person."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from model.crops.manifest import MANIFEST as MANIFEST_NAME
from model.crops.manifest import ManifestProblem, find_manifest, read_manifest
from model.crops.names import Ignored, is_image_name
from model.crops.texts import nfc
from training.datasets.kind import DatasetKind, image_files, listed
from training.datasets.record import Dataset, DatasetProblem, crop_in_file

TERMS_FILE = "TERMS.txt"
NO_PERSON = "it lies in no person's sub-folder; put it into one"


def _read_manifest(kind: DatasetKind, path: Path) -> Dataset:
    """Read a CSV with the columns `path,identity,camera[,captured_at,split]`.

    The path is the file, or a folder with a `manifest.csv`. The set is named after the file, or
    after its folder if the file is called `manifest.csv`.

    Raises:
        ManifestProblem: a row is wrong; the message names the first one.
    """
    manifest = path
    if path.is_dir():
        manifest = find_manifest(path) or path / MANIFEST_NAME
    name = manifest.stem
    if manifest.name.casefold() == MANIFEST_NAME:
        name = manifest.resolve().parent.name
    ignored = Ignored()
    # `read_manifest` refuses rows without identity or camera.
    records = [
        crop_in_file(row.path, name, str(row.identity), str(row.camera), row.split, row.captured_at)
        for row in read_manifest(manifest, ignored=ignored)
    ]
    return Dataset(name, "", _terms(kind, manifest.parent), tuple(records), ignored=ignored)


def _read_people(kind: DatasetKind, folder: Path) -> Dataset:
    """Read a folder whose sub-folders are named after the people in their images.

    Cameras are unknown, so that every image of a person gets a camera of its own, `shot1`, `shot2`
    and so on. An evaluation then drops only the query itself from its gallery. The set is named
    after the folder.

    Raises:
        DatasetProblem: the folder has no sub-folders, or a sub-folder has no image.
    """
    name = folder.resolve().name
    ignored = Ignored()
    # Names that differ only in the Unicode form are of one person, whose cameras differ too.
    files: defaultdict[str, list[Path]] = defaultdict(list)
    for person in listed(folder, ignored):
        if person.is_dir():
            files[nfc(person.name)] += image_files(person, ignored)
        elif is_image_name(person.name):
            ignored.add(str(person), NO_PERSON)
        elif person.name != TERMS_FILE:
            ignored.add_unused(str(person))
    records = [
        crop_in_file(file, name, identity, f"shot{number}")
        for identity, images in files.items()
        for number, file in enumerate(images, start=1)
    ]
    if not records:
        raise DatasetProblem(
            f"{folder}: has no sub-folder; put the images of each person into a sub-folder named "
            "after the person, or write a manifest"
        )
    return Dataset(name, "", _terms(kind, folder), tuple(records), ignored=ignored)


def _terms(kind: DatasetKind, folder: Path) -> str:
    """Return the first line of a folder's `TERMS.txt`; without this file, the kind's terms."""
    file = folder / TERMS_FILE
    if not file.is_file():
        return kind.terms
    try:
        lines = file.read_text(encoding="utf-8-sig").strip().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestProblem(f"{file}: cannot be read ({error}); save it as UTF-8 text") from error
    return lines[0].strip() if lines else kind.terms


MANIFEST = DatasetKind(
    "manifest",
    "a CSV file, or a folder with a manifest.csv",
    "Unknown: stated by the owner of the manifest.",
    "your own crops",
    read=_read_manifest,
)
PEOPLE_FOLDER = DatasetKind(
    "folder",
    "a folder with one sub-folder of images per person",
    "Unknown: stated by the owner of the folder.",
    "your own crops",
    read=_read_people,
    stands_for_camera="every image of a person counts as one of another camera",
)
