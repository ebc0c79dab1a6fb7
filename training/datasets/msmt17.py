"""MSMT17, versions 1 and 2: crops listed in `list_train.txt`, `list_val.txt` and so on."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from training.datasets.kind import DatasetKind, descend
from training.datasets.record import CropRecord, Dataset, DatasetProblem, crop_in_file

FILE_NAME = re.compile(r"\d{4}_\d+_(?P<camera>\d{2})_\w+\.jpg")
FILE_FORM = "like 0000_000_01_0303morning_0015_0.jpg (identity, image, camera, time, frame, box)"
VERSIONS = {"V1": ("train", "test"), "V2": ("mask_train_v2", "mask_test_v2")}
DROPPED = " without its validation list"


def _folder_of_lists(folder: Path) -> Path:
    return descend(folder, *(f"MSMT17_{version}" for version in VERSIONS))


def looks_like_msmt17(path: Path) -> bool:
    """Return whether the folder, or the one in it, holds lists and crops of either version."""
    folder = _folder_of_lists(path)
    return (folder / "list_train.txt").is_file() and any(
        (folder / train).is_dir() for train, _ in VERSIONS.values()
    )


def read_msmt17(kind: DatasetKind, path: Path, validation: str = "train") -> Dataset:
    """Reads MSMT17 from the folder that holds its lists, or from the one above it.

    Training and test people are both numbered from 0000, so an identity is `train-0000` or
    `test-0000`. The validation list shows the training people; its crops are of the training split,
    as papers count it, unless `validation=drop`.

    Raises:
        DatasetProblem: naming the first file, line or folder that is wrong.
    """
    folder = _folder_of_lists(path)
    if not folder.is_dir():
        raise DatasetProblem(f"{folder}: no such folder; name the one that holds list_train.txt")
    version = next((v for v, own in VERSIONS.items() if (folder / own[0]).is_dir()), None)
    if version is None:
        raise DatasetProblem(
            f"{folder}: holds neither train (version 1) nor mask_train_v2 (version 2); name the "
            "folder that holds list_train.txt"
        )
    train, test = (folder / name for name in VERSIONS[version])
    lists = [("train", train, "train"), ("val", train, "train")]
    if validation == "drop":
        lists = lists[:1]
        version = version + DROPPED
    lists += [("query", test, "query"), ("gallery", test, "gallery")]
    return kind.dataset(
        (
            record
            for name, images, split in lists
            for record in _read_list(kind.name, folder / f"list_{name}.txt", images, split)
        ),
        version,
    )


def _read_list(dataset: str, file: Path, images: Path, split: str) -> Iterator[CropRecord]:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetProblem(
            f"{file}: cannot be read ({error}); unpack it beside {images.name}"
        ) from error
    part = "train" if split == "train" else "test"
    for number, line in enumerate(map(str.strip, lines), start=1):
        if not line:
            continue
        name, _, identity = line.rpartition(" ")
        match = FILE_NAME.fullmatch(name.rpartition("/")[2])
        if match is None or not identity.isdecimal():
            raise DatasetProblem(
                f"{file}, line {number}: {line!r} is not a file {FILE_FORM}, a space and an "
                "identity; unpack the list again"
            )
        crop = images / name
        if not crop.is_file():
            raise DatasetProblem(
                f"{crop}: no such file, yet {file}, line {number} lists it; unpack it again"
            )
        yield crop_in_file(crop, dataset, f"{part}-{int(identity):04d}", match["camera"], split)
