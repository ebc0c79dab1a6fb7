"""CUHK03 under its new protocol: 767 people to train on, 700 to search for, two kinds of boxes."""

from __future__ import annotations

import re
from pathlib import Path

from training.datasets.cuhk03np_mat import RAW, looks_like_raw, read_raw
from training.datasets.folder import DatasetProblem, descend, named_path
from training.datasets.kind import DatasetKind, PublishedCount
from training.datasets.options import split_options
from training.datasets.record import Dataset
from training.datasets.three_folders import looks_like_three_folders, read_three_folders

NAME = "cuhk03np"
TERMS = "Academic research only; provided by the Chinese University of Hong Kong."
OPTIONS = {"boxes": ("labelled", "detected")}
FILE_NAME = re.compile(r"(?P<identity>\d{4})_(?P<camera>c[12])_\d+\.(?:png|jpg)", re.IGNORECASE)
FILE_FORM = "like 0001_c1_1.png (identity, camera of its pair, image)"
FOLDERS = {"labelled": ("labeled", "labelled"), "detected": ("detected",)}


def read_cuhk03np(text: str) -> Dataset:
    """Reads CUHK03-NP with boxes drawn by hand, or with `boxes=detected` by a detector.

    The folder holds either `labeled` and `detected`, each with the three folders of Market-1501, or
    the archive as published, `cuhk03_release/cuhk-03.mat` and the protocol's `.mat` files; crops in
    that archive are read as they are needed. Labels are the same either way.

    Raises:
        DatasetProblem: naming the first file or folder that is wrong.
    """
    path, options = split_options(NAME, text, OPTIONS)
    boxes = options.get("boxes", "labelled")
    folder = named_path(path)
    if looks_like_cuhk03np_boxes(folder):
        drawn = "detected" if folder.resolve().name.lower() == "detected" else "labelled"
        raise DatasetProblem(
            f"{folder}: holds one kind of boxes; name the folder above it, "
            f"{NAME}:{folder.resolve().parent},boxes={drawn}"
        )
    ready = descend(folder, *FOLDERS[boxes])
    if ready != folder:
        records = read_three_folders(ready, NAME, FILE_NAME, FILE_FORM)
    elif looks_like_raw(folder):
        records = read_raw(folder, NAME, boxes)
    else:
        raise DatasetProblem(
            f"{folder}: holds neither a folder {FOLDERS[boxes][0]} nor {RAW}; "
            "name the folder of CUHK03-NP"
        )
    return Dataset(NAME, f"{NAME}:{text}", TERMS, tuple(records), f"{boxes} boxes")


def looks_like_cuhk03np(folder: Path) -> bool:
    """Whether the folder holds the ready splits of either kind of boxes, or the raw archive."""
    return looks_like_raw(folder) or any(
        looks_like_cuhk03np_boxes(folder / name) for names in FOLDERS.values() for name in names
    )


def looks_like_cuhk03np_boxes(folder: Path) -> bool:
    """Whether the folder holds the three folders of one kind of boxes."""
    return looks_like_three_folders(folder, FILE_NAME)


KIND = DatasetKind(
    kind=NAME,
    path="the folder that holds labeled and detected, or cuhk03_release",
    read=read_cuhk03np,
    looks_like=looks_like_cuhk03np,
    obtain=(
        "https://www.ee.cuhk.edu.hk/~xgwang/CUHK_identification.html; the protocol is in "
        "https://github.com/zhunzhong07/person-re-ranking"
    ),
    terms=TERMS,
    options=OPTIONS,
    published=(
        PublishedCount("train", 7_368, 767, "labelled boxes"),
        PublishedCount("query", 1_400, 700),
        PublishedCount("gallery", 5_328, 700, "labelled boxes"),
        PublishedCount("train", 7_365, 767, "detected boxes"),
        PublishedCount("gallery", 5_332, 700, "detected boxes"),
    ),
)
