"""RandPerson, the subset of images: 8,000 people of a game engine, in eleven scenes."""

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

NAME = "randperson"
TERMS = "People made by software, no person is shown; the licence is the one in its repository."
FILE_NAME = re.compile(
    r"(?P<identity>\d{6})_"
    r"(?:s(?P<scene>\d\d)_c(?P<camera>\d\d)|c(?P<first_camera>\d\d)_s(?P<second_scene>\d\d))"
    r"_f\d{6}\.(?:jpg|png)"
)
FILE_FORM = "like 000000_s00_c01_f000264.jpg (identity, scene, camera, frame)"


def read_randperson(path: str) -> Dataset:
    """Reads the subset that its paper trains on; a camera is named with its scene, `s00c01`.

    Two releases name scene and camera in different order; both are read.

    Args:
        path: the folder `randperson_subset`, or the one above it.

    Raises:
        DatasetProblem: naming the first file or folder that is wrong.
    """
    records = []
    for file in image_files(_subset(named_path(path))):
        parts = matched_name(file, FILE_NAME, FILE_FORM)
        scene = parts["scene"] or parts["second_scene"]
        camera = parts["camera"] or parts["first_camera"]
        records.append(crop_in_file(file, NAME, parts["identity"], f"s{scene}c{camera}"))
    return Dataset(NAME, f"{NAME}:{path}", TERMS, tuple(records), "image subset")


def looks_like_randperson(folder: Path) -> bool:
    """Whether the first image in the folder is named as RandPerson names its files."""
    return has_image_named(_subset(folder), FILE_NAME)


def _subset(folder: Path) -> Path:
    return descend(folder, "randperson_subset", "subset")


KIND = DatasetKind(
    kind=NAME,
    path="the folder randperson_subset, or the one above it",
    read=read_randperson,
    looks_like=looks_like_randperson,
    obtain="https://github.com/VideoObjectSearch/RandPerson",
    terms=TERMS,
    published=(PublishedCount(None, 132_145, 8_000),),
)
