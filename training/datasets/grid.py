"""QMUL GRID, the underground: 250 people in `probe` and `gallery`, and 775 distractors."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from training.datasets.folder import (
    DatasetProblem,
    descend,
    has_image_named,
    image_files,
    matched_name,
    named_path,
)
from training.datasets.kind import DatasetKind, PublishedCount
from training.datasets.mat import read_mat
from training.datasets.record import Dataset, crop_in_file
from training.datasets.trials import Trials

NAME = "grid"
TERMS = "Published for research; ask its authors before any other use."
FILE_NAME = re.compile(r"(?P<identity>\d{4})_(?P<camera>[1-8])_.+\.jpe?g", re.IGNORECASE)
FILE_FORM = "like 0001_1_25004_107_32_106_221.jpeg (identity, camera, frame, box)"
FOLDER_OF_SPLIT = {"query": "probe", "gallery": "gallery"}
PARTITIONS = "features_and_partitions.mat"

DISTRACTOR = "0000"
"""Many people who are in no probe: always a wrong answer."""


def read_grid(path: str) -> Dataset:
    """Reads GRID from the folder that holds `probe` and `gallery`, or from the one above it.

    Probes are the query split. Where `features_and_partitions.mat` lies beside them, its ten
    partitions become `training_people`.

    Raises:
        DatasetProblem: naming the first file or folder that is wrong.
    """
    folder = descend(named_path(path), "underground_reid")
    records = []
    for split, name in FOLDER_OF_SPLIT.items():
        for file in image_files(folder / name):
            parts = matched_name(file, FILE_NAME, FILE_FORM)
            records.append(crop_in_file(file, NAME, parts["identity"], parts["camera"], split))
    partitions = _read_partitions(folder / PARTITIONS) if (folder / PARTITIONS).exists() else ()
    return Dataset(NAME, f"{NAME}:{path}", TERMS, tuple(records), training_people=partitions)


def looks_like_grid(folder: Path) -> bool:
    """Whether `probe` holds files named as GRID names them."""
    return has_image_named(descend(folder, "underground_reid") / "probe", FILE_NAME)


def _read_partitions(file: Path) -> tuple[frozenset[str], ...]:
    partitions = read_mat(file, "trainIdxAll")
    try:
        return tuple(_people(partition) for partition in np.atleast_1d(partitions))
    except (AttributeError, IndexError, TypeError, ValueError) as error:
        raise DatasetProblem(
            f"{file}: trainIdxAll does not list the people to train on ({error}); unpack it again, "
            "or remove it to draw splits at random"
        ) from error


def _people(partition: Any) -> frozenset[str]:
    # A partition holds three lists: rows of the probe features, rows of the gallery features, and
    # the people, which is the one that names anybody.
    field = partition._fieldnames[2]
    return frozenset(f"{int(number):04d}" for number in np.atleast_1d(getattr(partition, field)))


KIND = DatasetKind(
    kind=NAME,
    path="the folder that holds probe and gallery, or the one above it",
    read=read_grid,
    looks_like=looks_like_grid,
    obtain="https://personal.ie.cuhk.edu.hk/~ccloy/downloads_qmul_underground_reid.html",
    terms=TERMS,
    published=(PublishedCount("query", 250, 250), PublishedCount("gallery", 1_025, 250)),
    not_people=frozenset({DISTRACTOR}),
    trials=Trials(test_people=125, sides="splits"),
)
