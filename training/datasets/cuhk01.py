"""CUHK01, "campus": files `IIIIKKK.png`, two images of every person in each of two cameras."""

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
from training.datasets.record import CropRecord, Dataset, crop_in_file

NAME = "cuhk01"
TERMS = "Academic research only; provided by the Chinese University of Hong Kong."
FILE_NAME = re.compile(r"(?P<identity>\d{4})(?P<shot>00[1-4])\.png", re.IGNORECASE)
FILE_FORM = "IIIIKKK.png with a four-digit identity and KKK from 001 to 004"
CAMERA_OF_SHOT = {"001": "A", "002": "A", "003": "B", "004": "B"}


def read_cuhk01(path: str) -> Dataset:
    """Reads CUHK01 from its folder, or from `campus` inside it.

    Raises:
        DatasetProblem: naming the first file or folder that is wrong.
    """
    records: list[CropRecord] = []
    for file in image_files(descend(named_path(path), "campus")):
        parts = matched_name(file, FILE_NAME, FILE_FORM)
        records.append(crop_in_file(file, NAME, parts["identity"], CAMERA_OF_SHOT[parts["shot"]]))
    return Dataset(NAME, f"{NAME}:{path}", TERMS, tuple(records))


def looks_like_cuhk01(folder: Path) -> bool:
    """Whether the first image in the folder is named as CUHK01 names its files."""
    return has_image_named(descend(folder, "campus"), FILE_NAME)


KIND = DatasetKind(
    kind=NAME,
    path="the folder of IIIIKKK.png files, or the one above it",
    read=read_cuhk01,
    looks_like=looks_like_cuhk01,
    obtain="https://www.ee.cuhk.edu.hk/~xgwang/CUHK_identification.html",
    terms=TERMS,
    published=(PublishedCount(None, 3_884, 971),),
    overlaps=frozenset({"cuhk02"}),
)
