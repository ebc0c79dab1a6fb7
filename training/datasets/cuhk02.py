"""CUHK02: five pairs of cameras, `P1` to `P5`; the people and crops of `P1` are those of CUHK01."""

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

NAME = "cuhk02"
TERMS = "Academic research only; provided by the Chinese University of Hong Kong."
FILE_NAME = re.compile(r"(?P<identity>\d+)_\w+\.png", re.IGNORECASE)
FILE_FORM = "like 001_1.png (identity within its pair of cameras, image)"
PAIRS = ("P1", "P2", "P3", "P4", "P5")
CAMERAS = ("cam1", "cam2")


def read_cuhk02(path: str) -> Dataset:
    """Reads CUHK02 from the folder that holds `P1` to `P5`, or from the one above it, `Dataset`.

    Every pair numbers its people from the start, so an identity is `P1-001`, a camera `P1-cam1`.

    Raises:
        DatasetProblem: naming the first file or folder that is wrong.
    """
    folder = descend(named_path(path), "Dataset")
    records = []
    for pair in PAIRS:
        for camera in CAMERAS:
            for file in image_files(folder / pair / camera):
                parts = matched_name(file, FILE_NAME, FILE_FORM)
                identity = f"{pair}-{parts['identity']}"
                records.append(crop_in_file(file, NAME, identity, f"{pair}-{camera}"))
    return Dataset(NAME, f"{NAME}:{path}", TERMS, tuple(records))


def looks_like_cuhk02(folder: Path) -> bool:
    """Whether the folder holds the first pair of cameras."""
    return has_image_named(descend(folder, "Dataset") / PAIRS[0] / CAMERAS[0], FILE_NAME)


KIND = DatasetKind(
    kind=NAME,
    path="the folder that holds P1 to P5, or the one above it",
    read=read_cuhk02,
    looks_like=looks_like_cuhk02,
    obtain="https://www.ee.cuhk.edu.hk/~xgwang/CUHK_identification.html",
    terms=TERMS,
    published=(PublishedCount(None, 7_264, 1_816),),
    overlaps=frozenset({"cuhk01"}),
)
