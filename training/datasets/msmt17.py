"""MSMT17, versions 1 and 2: crops listed in `list_train.txt`, `list_val.txt` and so on."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from training.datasets.folder import DatasetProblem, descend, named_path
from training.datasets.kind import DatasetKind, PublishedCount
from training.datasets.options import split_options
from training.datasets.record import CropRecord, Dataset, crop_in_file

NAME = "msmt17"
TERMS = "Research only, under the agreement its authors have signed; not to be redistributed."
OPTIONS = {"validation": ("train", "drop")}
FILE_NAME = re.compile(r"\d{4}_\d+_(?P<camera>\d{2})_\w+\.jpg")
FILE_FORM = "like 0000_000_01_0303morning_0015_0.jpg (identity, image, camera, time, frame, box)"
DROPPED = " without its validation list"
LISTS = ("list_train.txt", "list_val.txt", "list_query.txt", "list_gallery.txt")


@dataclass(frozen=True)
class Version:
    """One published version: what it is called and the folders its lists speak of."""

    name: str
    train: str
    test: str


VERSIONS = (Version("V1", "train", "test"), Version("V2", "mask_train_v2", "mask_test_v2"))


def read_msmt17(text: str) -> Dataset:
    """Reads MSMT17 from the folder that holds its lists, or from the one above it.

    Training and test people are both numbered from 0000, so an identity is `train-0000` or
    `test-0000`. The validation list shows the training people; its crops are of the training split,
    as papers count it, unless `validation=drop`.

    Raises:
        DatasetProblem: naming the first file, line or folder that is wrong.
    """
    path, options = split_options(NAME, text, OPTIONS)
    folder = _folder_of_lists(named_path(path))
    version = _version_in(folder)
    lists = [
        ("list_train.txt", version.train, "train"),
        ("list_val.txt", version.train, "train"),
        ("list_query.txt", version.test, "query"),
        ("list_gallery.txt", version.test, "gallery"),
    ]
    described = version.name
    if options.get("validation") == "drop":
        del lists[1]
        described += DROPPED
    records = [
        record
        for file, images, split in lists
        for record in _read_list(folder / file, folder / images, split)
    ]
    return Dataset(NAME, f"{NAME}:{text}", TERMS, tuple(records), described)


def looks_like_msmt17(folder: Path) -> bool:
    """Whether the folder holds the lists and one version's images."""
    folder = _folder_of_lists(folder)
    return (folder / LISTS[0]).is_file() and any(
        (folder / version.train).is_dir() for version in VERSIONS
    )


def _folder_of_lists(folder: Path) -> Path:
    return descend(folder, *(f"MSMT17_{version.name}" for version in VERSIONS))


def _version_in(folder: Path) -> Version:
    if not folder.is_dir():
        raise DatasetProblem(f"{folder}: no such folder; name the one that holds {LISTS[0]}")
    version = next((each for each in VERSIONS if (folder / each.train).is_dir()), None)
    if version is None:
        raise DatasetProblem(
            f"{folder}: holds neither {VERSIONS[0].train} (version 1) nor {VERSIONS[1].train} "
            f"(version 2); name the folder that holds {LISTS[0]}"
        )
    return version


def _read_list(file: Path, images: Path, split: str) -> list[CropRecord]:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetProblem(
            f"{file}: cannot be read ({error}); unpack it beside {images.name}"
        ) from error
    part = "train" if split == "train" else "test"
    return [
        _read_line(f"{file}, line {number}", line, images, part, split)
        for number, line in enumerate(lines, start=1)
        if line.strip()
    ]


def _read_line(where: str, line: str, images: Path, part: str, split: str) -> CropRecord:
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
    return crop_in_file(crop, NAME, f"{part}-{int(identity):04d}", match["camera"], split)


KIND = DatasetKind(
    kind=NAME,
    path="the folder that holds list_train.txt, or the one above it",
    read=read_msmt17,
    looks_like=looks_like_msmt17,
    obtain="https://www.pkuvmc.com/dataset.html, after signing its agreement",
    terms=TERMS,
    options=OPTIONS,
    published=(
        *(PublishedCount("train", 32_621, 1_041, version.name) for version in VERSIONS),
        *(PublishedCount("train", 30_248, 1_041, version.name + DROPPED) for version in VERSIONS),
        PublishedCount("query", 11_659, 3_060),
        PublishedCount("gallery", 82_161, 3_060),
    ),
)
