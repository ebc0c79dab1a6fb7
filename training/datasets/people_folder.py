"""A data set of one's own without a manifest: a folder with one sub-folder of images per person."""

from __future__ import annotations

from pathlib import Path

from training.datasets.folder import DatasetProblem, image_files, named_path, sub_folders
from training.datasets.kind import DatasetKind
from training.datasets.manifest import stated_terms
from training.datasets.record import Dataset, crop_in_file

NAME = "folder"
TERMS = "Unknown: stated by the owner of the folder."


def read_people_folder(path: str) -> Dataset:
    """Reads a folder whose sub-folders are named after the people on their images.

    No camera is stated, so every image of a person counts as another camera, `shot1`, `shot2` and
    so on: evaluation then drops the query itself from its gallery and nothing else. The set is
    named after the folder.

    Raises:
        DatasetProblem: for a folder without sub-folders, or a sub-folder without an image.
    """
    folder = named_path(path)
    people = sub_folders(folder)
    if not people:
        raise DatasetProblem(
            f"{folder}: has no sub-folder; put the images of each person into a sub-folder named "
            "after the person, or write a manifest"
        )
    name = folder.resolve().name
    records = tuple(
        crop_in_file(file, name, person.name, f"shot{number}")
        for person in people
        for number, file in enumerate(image_files(person), start=1)
    )
    return Dataset(name, f"{NAME}:{path}", stated_terms(folder, TERMS), records)


def _never(_: Path) -> bool:
    """Any folder of folders looks like one, so none is suggested."""
    return False


KIND = DatasetKind(
    kind=NAME,
    path="a folder with one sub-folder of images per person",
    read=read_people_folder,
    looks_like=_never,
    obtain="your own crops",
    terms=TERMS,
    stands_for_camera="every image of a person counts as one of another camera",
)
