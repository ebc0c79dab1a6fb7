"""VIPeR: 632 people, one crop of each in `cam_a` and one in `cam_b`."""

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

NAME = "viper"
TERMS = "Published for research; ask its authors before any other use."
FILE_NAME = re.compile(r"(?P<identity>\d{3})_\d{1,3}\.(?:bmp|png)", re.IGNORECASE)
FILE_FORM = "like 000_45.bmp (identity, viewing angle)"
FOLDERS = {"cam_a": "a", "cam_b": "b"}


def read_viper(path: str) -> Dataset:
    """Reads VIPeR from the folder that holds `cam_a` and `cam_b`, or from the one above it.

    Raises:
        DatasetProblem: naming the first file or folder that is wrong.
    """
    folder = descend(named_path(path), "VIPeR")
    records = []
    for name, camera in FOLDERS.items():
        for file in image_files(folder / name):
            identity = matched_name(file, FILE_NAME, FILE_FORM)["identity"]
            records.append(crop_in_file(file, NAME, identity, camera))
    return Dataset(NAME, f"{NAME}:{path}", TERMS, tuple(records))


def looks_like_viper(folder: Path) -> bool:
    """Whether `cam_a` holds files named as VIPeR names them."""
    return has_image_named(descend(folder, "VIPeR") / "cam_a", FILE_NAME)


KIND = DatasetKind(
    kind=NAME,
    path="the folder that holds cam_a and cam_b, or the one above it",
    read=read_viper,
    looks_like=looks_like_viper,
    obtain="https://vision.soe.ucsc.edu/node/178",
    terms=TERMS,
    published=(PublishedCount(None, 1_264, 632),),
    trials=Trials(test_people=316, sides="cameras"),
)
