"""The layout that Market-1501 made common: one folder of named crops for each split."""

from __future__ import annotations

import re
from pathlib import Path

from training.datasets.folder import (
    DatasetProblem,
    has_image_named,
    image_files,
    matched_name,
)
from training.datasets.record import CropRecord, crop_in_file

FOLDER_OF_SPLIT = {"train": "bounding_box_train", "query": "query", "gallery": "bounding_box_test"}


def read_three_folders(
    folder: Path,
    dataset: str,
    pattern: re.Pattern[str],
    form: str,
    nobody: frozenset[str] = frozenset(),
) -> list[CropRecord]:
    """Reads `bounding_box_train`, `query` and `bounding_box_test`.

    Args:
        folder: what holds the three.
        dataset: the data set's name.
        pattern: of a file's name, with the groups `identity` and `camera`.
        form: the same for people.
        nobody: identities that label no person: only the gallery keeps these.

    Raises:
        DatasetProblem: naming the first file or folder that is wrong.
    """
    if not folder.is_dir():
        raise DatasetProblem(
            f"{folder}: no such folder; name the one that holds bounding_box_train"
        )
    records = []
    for split, name in FOLDER_OF_SPLIT.items():
        for file in image_files(folder / name):
            parts = matched_name(file, pattern, form)
            if split == "gallery" or parts["identity"] not in nobody:
                records.append(
                    crop_in_file(file, dataset, parts["identity"], parts["camera"], split)
                )
    return records


def looks_like_three_folders(folder: Path, pattern: re.Pattern[str]) -> bool:
    """Whether the training or the test folder holds files named so."""
    return any(
        has_image_named(folder / name, pattern)
        for name in ("bounding_box_train", "bounding_box_test")
    )
