"""DukeMTMC-reID, withdrawn by its authors: read only to stand beside an old paper's row."""

from __future__ import annotations

import re
from pathlib import Path

from training.datasets.folder import named_path
from training.datasets.kind import DatasetKind, PublishedCount
from training.datasets.record import Dataset
from training.datasets.three_folders import looks_like_three_folders, read_three_folders

NAME = "dukemtmc"
TERMS = (
    "Withdrawn by its authors in 2019, since its people never agreed to be recorded: do not use it "
    "for anything new; this reader exists to check a row of an older paper."
)
FILE_NAME = re.compile(r"(?P<identity>\d{4})_(?P<camera>c[1-8])_f\d{7}\.jpg")
FILE_FORM = "like 0001_c2_f0046182.jpg (identity, camera, frame)"


def read_dukemtmc(path: str) -> Dataset:
    """Reads the three splits of DukeMTMC-reID.

    Raises:
        DatasetProblem: naming the first file or folder that is wrong.
    """
    records = read_three_folders(named_path(path), NAME, FILE_NAME, FILE_FORM)
    return Dataset(NAME, f"{NAME}:{path}", TERMS, tuple(records))


def looks_like_dukemtmc(folder: Path) -> bool:
    """Whether the folder holds DukeMTMC-reID's folders."""
    return looks_like_three_folders(folder, FILE_NAME)


KIND = DatasetKind(
    kind=NAME,
    path="the folder that holds bounding_box_train",
    read=read_dukemtmc,
    looks_like=looks_like_dukemtmc,
    obtain="nowhere: its authors took it down",
    terms=TERMS,
    # The gallery shows 408 more people, who are under one camera only and answer no query.
    published=(
        PublishedCount("train", 16_522, 702),
        PublishedCount("query", 2_228, 702),
        PublishedCount("gallery", 17_661, 1_110),
    ),
)
