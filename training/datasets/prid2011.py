"""PRID 2011, single shot: the first 200 people of both cameras are the same, the others are not."""

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

NAME = "prid2011"
TERMS = "Research only; made by Graz University of Technology."
FILE_NAME = re.compile(r"person_(?P<number>\d{4})\.png", re.IGNORECASE)
FILE_FORM = "like person_0001.png"
FOLDERS = {"cam_a": "a", "cam_b": "b"}

IN_BOTH_CAMERAS = 200
"""People 0001 to 0200 are the same in both cameras; from 0201 on a number in one camera is another
person than that number in the other."""


def read_prid2011(path: str) -> Dataset:
    """Reads the single-shot part: one crop of every person in each camera that saw them.

    People of one camera only are called `a-0201` or `b-0201`.

    Args:
        path: the folder that holds `cam_a` and `cam_b`, `single_shot` or `prid_2011`.

    Raises:
        DatasetProblem: naming the first file or folder that is wrong.
    """
    folder = _single_shot(named_path(path))
    records = []
    for name, camera in FOLDERS.items():
        for file in image_files(folder / name):
            number = matched_name(file, FILE_NAME, FILE_FORM)["number"]
            identity = number if int(number) <= IN_BOTH_CAMERAS else f"{camera}-{number}"
            records.append(crop_in_file(file, NAME, identity, camera))
    return Dataset(NAME, f"{NAME}:{path}", TERMS, tuple(records), "single shot")


def looks_like_prid2011(folder: Path) -> bool:
    """Whether `cam_a` of the single-shot part holds files named as PRID names them."""
    return has_image_named(_single_shot(folder) / "cam_a", FILE_NAME)


def _single_shot(folder: Path) -> Path:
    return descend(folder, "prid_2011", "single_shot")


KIND = DatasetKind(
    kind=NAME,
    path="the folder that holds single_shot",
    read=read_prid2011,
    looks_like=looks_like_prid2011,
    obtain="https://www.tugraz.at/institute/icg/research/team-bischof/lrs/downloads/PRID11/",
    terms=TERMS,
    # 385 people in camera a, 749 in camera b, of whom 200 are in both.
    published=(PublishedCount(None, 1_134, 934),),
    trials=Trials(test_people=100, sides="cameras"),
)
