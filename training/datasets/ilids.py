"""QMUL i-LIDS: 476 crops of 119 people in an airport; the files do not say which camera."""

from __future__ import annotations

import re
from pathlib import Path

from training.datasets.folder import (
    descend,
    has_image_named,
    image_files,
    matched_name,
    named_path,
)
from training.datasets.kind import DatasetKind, PublishedCount
from training.datasets.record import Dataset, crop_in_file
from training.datasets.trials import Trials

NAME = "ilids"
TERMS = "Published for research; the i-LIDS video it is cut from has a licence of its own."
FILE_NAME = re.compile(r"(?P<identity>\d{4})(?P<shot>\d{3})\.jpg", re.IGNORECASE)
FILE_FORM = "like 0001001.jpg (four digits of identity, three of the image)"


def read_ilids(path: str) -> Dataset:
    """Reads i-LIDS from its `Persons` folder, or from the one above it.

    No camera is stated, so every image of a person counts as another camera, `shot1`, `shot2` and
    so on: evaluation then drops the query itself from its gallery and nothing else.

    Raises:
        DatasetProblem: naming the first file or folder that is wrong.
    """
    records = []
    for file in image_files(_persons(named_path(path))):
        parts = matched_name(file, FILE_NAME, FILE_FORM)
        records.append(crop_in_file(file, NAME, parts["identity"], f"shot{int(parts['shot'])}"))
    return Dataset(NAME, f"{NAME}:{path}", TERMS, tuple(records))


def looks_like_ilids(folder: Path) -> bool:
    """Whether the first image in the folder is named as i-LIDS names its files."""
    return has_image_named(_persons(folder), FILE_NAME)


def _persons(folder: Path) -> Path:
    return descend(folder, "i-LIDS_Pedestrian", "Persons", "images")


KIND = DatasetKind(
    kind=NAME,
    path="the folder Persons, or the one above it",
    read=read_ilids,
    looks_like=looks_like_ilids,
    obtain="http://www.eecs.qmul.ac.uk/~jason/data/i-LIDS_Pedestrian.tgz",
    terms=TERMS,
    published=(PublishedCount(None, 476, 119),),
    stands_for_camera="every image of a person counts as one of another camera",
    trials=Trials(test_people=60, sides="crops"),
)
