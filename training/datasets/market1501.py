"""Market-1501: three folders of files like `0002_c1s1_000451_03.jpg`, one a split."""

from __future__ import annotations

import re
from pathlib import Path

from training.datasets.folder import DatasetProblem, image_files, matched_name, named_path
from training.datasets.record import CropRecord, Dataset

NAME = "market1501"
TERMS = "Research only; its authors ask not to distribute it or use it commercially."
FILE_NAME = re.compile(r"(?P<identity>-1|\d{4})_(?P<camera>c[1-6])s\d_\d{6}_\d{2}\.jpg")
FILE_FORM = "like 0002_c1s1_000451_03.jpg (identity, camera, sequence, frame, box)"
FOLDER_OF_SPLIT = {"train": "bounding_box_train", "query": "query", "gallery": "bounding_box_test"}

JUNK = "-1"
"""A badly drawn box of some person: evaluation drops it, it counts neither for nor against."""

DISTRACTOR = "0000"
"""A false detection: evaluation keeps it in the gallery, where it is always a wrong answer."""


def read_market1501(path: str) -> Dataset:
    """Reads the three splits of Market-1501.

    Junk (identity `-1`) and distractors (`0000`) stay in the gallery under these identities; they
    are nobody, so the training and query splits leave them out.

    Raises:
        DatasetProblem: naming the first file or folder that is wrong.
    """
    folder = named_path(path)
    if not folder.is_dir():
        raise DatasetProblem(
            f"{folder}: no such folder; name the one that holds bounding_box_train"
        )
    records = [
        record
        for split, name in FOLDER_OF_SPLIT.items()
        for record in _read_split(folder / name, split)
    ]
    return Dataset(name=NAME, spec=f"market1501:{path}", terms=TERMS, records=tuple(records))


def looks_like_market1501(folder: Path) -> bool:
    """Whether the folder holds Market-1501's folders."""
    return any((folder / name).is_dir() for name in ("bounding_box_train", "bounding_box_test"))


def _read_split(folder: Path, split: str) -> list[CropRecord]:
    records = []
    for file in image_files(folder):
        parts = matched_name(file, FILE_NAME, FILE_FORM)
        if split != "gallery" and parts["identity"] in (JUNK, DISTRACTOR):
            continue
        records.append(
            CropRecord(
                source=str(file),
                dataset=NAME,
                identity=parts["identity"],
                camera=parts["camera"],
                domain=NAME,
                path=file,
                split=split,
            )
        )
    return records
