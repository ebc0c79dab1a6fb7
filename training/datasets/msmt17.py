"""MSMT17, versions 1 and 2: crops listed in `list_train.txt`, `list_val.txt` and so on."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from training.datasets.kind import DatasetKind, PublishedCount, descend
from training.datasets.record import CropRecord, Dataset, DatasetProblem, crop_in_file

FILE_NAME = re.compile(r"\d{4}_\d+_(?P<camera>\d{2})_\w+\.jpg")
FILE_FORM = "like 0000_000_01_0303morning_0015_0.jpg (identity, image, camera, time, frame, box)"
VERSIONS = {"V1": ("train", "test"), "V2": ("mask_train_v2", "mask_test_v2")}
DROPPED = " without its validation list"


def _read(kind: DatasetKind, path: Path, validation: str = "train") -> Dataset:
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
    lists = {"list_train.txt": (train, "train"), "list_val.txt": (train, "train")}
    if validation == "drop":
        del lists["list_val.txt"]
        version += DROPPED
    lists |= {"list_query.txt": (test, "query"), "list_gallery.txt": (test, "gallery")}
    records = [
        record
        for name, (images, split) in lists.items()
        for record in _read_list(kind.name, folder / name, images, split)
    ]
    return kind.dataset(records, version)


def _folder_of_lists(folder: Path) -> Path:
    return descend(folder, *(f"MSMT17_{version}" for version in VERSIONS))


def _looks_like(path: Path) -> bool:
    folder = _folder_of_lists(path)
    return (folder / "list_train.txt").is_file() and any(
        (folder / train).is_dir() for train, _ in VERSIONS.values()
    )


def _read_list(dataset: str, file: Path, images: Path, split: str) -> Iterator[CropRecord]:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetProblem(
            f"{file}: cannot be read ({error}); unpack it beside {images.name}"
        ) from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{file}, line {number}"
        name, _, identity = line.strip().rpartition(" ")
        match = FILE_NAME.fullmatch(name.rpartition("/")[2])
        if match is None or not identity.isdecimal():
            raise DatasetProblem(
                f"{where}: {line.strip()!r} is not a file {FILE_FORM}, a space and an identity; "
                "unpack the list again"
            )
        crop = images / name
        if not crop.is_file():
            raise DatasetProblem(f"{crop}: no such file, yet {where} lists it; unpack it again")
        part = "train" if split == "train" else "test"
        yield crop_in_file(crop, dataset, f"{part}-{int(identity):04d}", match["camera"], split)


MSMT17 = DatasetKind(
    name="msmt17",
    path="the folder that holds list_train.txt, or the one above it",
    terms="Research only, under the agreement its authors have signed; not to be redistributed.",
    obtain="https://www.pkuvmc.com/dataset.html, after signing its agreement",
    read=_read,
    looks_like=_looks_like,
    options={"validation": ("train", "drop")},
    published=(
        *(PublishedCount("train", 32_621, 1_041, version) for version in VERSIONS),
        *(PublishedCount("train", 30_248, 1_041, version + DROPPED) for version in VERSIONS),
        PublishedCount("query", 11_659, 3_060),
        PublishedCount("gallery", 82_161, 3_060),
    ),
)
