"""Market-1501: three folders of files like `0002_c1s1_000451_03.jpg`, one a split."""

from __future__ import annotations

import re
from pathlib import Path

from training.datasets.folder import image_files, matched_name, named_path
from training.datasets.kind import DatasetKind, PublishedCount
from training.datasets.options import split_options
from training.datasets.record import Dataset, crop_in_file
from training.datasets.three_folders import looks_like_three_folders, read_three_folders

NAME = "market1501"
TERMS = "Research only; its authors ask not to distribute it or use it commercially."
OPTIONS = {"distractors": ("none", "500k")}
FILE_NAME = re.compile(r"(?P<identity>-1|\d{4})_(?P<camera>c[1-6])s\d_\d{6}_\d{2}\.jpg")
FILE_FORM = "like 0002_c1s1_000451_03.jpg (identity, camera, sequence, frame, box)"
DISTRACTORS_FOLDER = "images"
DISTRACTOR_NAME = re.compile(r"(?P<identity>-1|0+)_(?P<camera>c[1-6]).*\.jpg")
DISTRACTOR_FORM = "like 0000_c1s1_000151_01.jpg, as the 500k distractors are named"

JUNK = "-1"
"""A badly drawn box of some person: evaluation drops it, it counts neither for nor against."""

DISTRACTOR = "0000"
"""A false detection: evaluation keeps it in the gallery, where it is always a wrong answer."""


def read_market1501(text: str) -> Dataset:
    """Reads the three splits of Market-1501.

    Junk (identity `-1`) and distractors (`0000`) stay in the gallery under these identities; they
    are nobody, so the training and query splits leave them out. With `distractors=500k` the folder
    `images` of the 500,000 further distractors joins the gallery.

    Raises:
        DatasetProblem: naming the first file or folder that is wrong.
    """
    path, options = split_options(NAME, text, OPTIONS)
    folder = named_path(path)
    records = read_three_folders(
        folder, NAME, FILE_NAME, FILE_FORM, nobody=frozenset({JUNK, DISTRACTOR})
    )
    version = ""
    if options.get("distractors") == "500k":
        version = "with the 500k distractors"
        for file in image_files(folder / DISTRACTORS_FOLDER):
            parts = matched_name(file, DISTRACTOR_NAME, DISTRACTOR_FORM)
            identity = JUNK if parts["identity"] == JUNK else DISTRACTOR
            records.append(crop_in_file(file, NAME, identity, parts["camera"], "gallery"))
    return Dataset(NAME, f"{NAME}:{text}", TERMS, tuple(records), version)


def looks_like_market1501(folder: Path) -> bool:
    """Whether the folder holds Market-1501's folders."""
    return looks_like_three_folders(folder, FILE_NAME)


KIND = DatasetKind(
    kind=NAME,
    path="the folder that holds bounding_box_train",
    read=read_market1501,
    looks_like=looks_like_market1501,
    obtain="https://zheng-lab.cecs.anu.edu.au/Project/project_reid.html",
    terms=TERMS,
    options=OPTIONS,
    # The gallery's 19,732 images hold 3,819 of junk and the distractors.
    published=(
        PublishedCount("train", 12_936, 751),
        PublishedCount("query", 3_368, 750),
        PublishedCount("gallery", 19_732, 750, version=""),
    ),
    not_people=frozenset({JUNK, DISTRACTOR}),
)
