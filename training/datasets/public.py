"""The public data sets: the table `public.toml`, and readers of layouts that it cannot express."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from model.crops.names import Ignored
from training.datasets.kind import (
    DatasetKind,
    Label,
    Layout,
    Parts,
    PublishedCount,
    RandomSplits,
    descend,
    listed,
    read_layout,
)
from training.datasets.record import CropRecord, Dataset, DatasetProblem, crop_in_file

JUNK = "-1"
"""The identity of badly drawn boxes, which an evaluation ignores."""

DISTRACTOR = "0000"
"""The identity of false detections and of people without queries: wrong answers in a gallery."""

# Market-1501.

FURTHER_DISTRACTORS = Layout(
    re.compile(r"(?P<identity>-1|0+)_(?P<camera>c[1-6]).*\.jpg"),
    "like 0000_c1s1_000151_01.jpg, as the 500k distractors are named",
    {"images": {"split": "gallery"}},
    label=lambda parts: (JUNK if parts["identity"] == JUNK else DISTRACTOR, parts["camera"]),
)


def _read_market1501(
    kind: DatasetKind,
    path: Path,
    distractors: str = "none",
) -> Dataset:
    """Read the three splits; `distractors=500k` adds the folder `images` to the gallery."""
    dataset = read_layout(kind, path)
    if distractors == "none":
        return dataset
    further = FURTHER_DISTRACTORS.records(kind, path, dataset.ignored)
    records = [*dataset.records, *further]
    return kind.dataset(records, "with the 500k distractors", dataset.ignored)


# MSMT17, versions 1 and 2: crops listed in `list_train.txt`, `list_val.txt` and so on.

MSMT17_NAME = re.compile(r"\d{4}_\d+_(?P<camera>\d{2})_\w+\.jpg")
MSMT17_FORM = "like 0000_000_01_0303morning_0015_0.jpg (identity, image, camera, time, frame, box)"
MSMT17_VERSIONS = {"V1": ("train", "test"), "V2": ("mask_train_v2", "mask_test_v2")}


def _read_msmt17(
    kind: DatasetKind,
    path: Path,
    validation: str = "train",
) -> Dataset:
    """Read MSMT17 from the folder with its lists, or from the folder above it.

    Training and test people are both numbered from 0000, so that an identity is `train-0000` or
    `test-0000`. The validation list shows training people. Its crops belong to the training split,
    as papers count it, unless `validation=drop` leaves them out.

    Raises:
        DatasetProblem: a file, line or folder is wrong; the message names the first one.
    """
    folder = descend(path, *(f"MSMT17_{version}" for version in MSMT17_VERSIONS))
    listed(folder)
    versions = [name for name, (train, _) in MSMT17_VERSIONS.items() if (folder / train).is_dir()]
    if not versions:
        raise DatasetProblem(
            f"{folder}: has neither train (version 1) nor mask_train_v2 (version 2); name the "
            "folder with list_train.txt"
        )
    version = versions[0]
    train, test = MSMT17_VERSIONS[version]
    records = list(_msmt17_list(kind, folder, "train", "train", train))
    if validation == "drop":
        version += " without its validation list"
    else:
        records += _msmt17_list(kind, folder, "val", "train", train)
    for split in ("query", "gallery"):
        records += _msmt17_list(kind, folder, split, split, test)
    return kind.dataset(records, version)


def _msmt17_list(
    kind: DatasetKind,
    folder: Path,
    name: str,
    split: str,
    images: str,
) -> Iterator[CropRecord]:
    file = folder / f"list_{name}.txt"
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetProblem(
            f"{file}: cannot be read ({error}); unpack it beside {images}"
        ) from error
    part = "train" if split == "train" else "test"
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        crop, _, identity = line.strip().rpartition(" ")
        match = MSMT17_NAME.fullmatch(crop.rpartition("/")[2])
        if match is None or not identity.isdecimal():
            raise DatasetProblem(
                f"{file}, line {number}: {line!r} is not a file name {MSMT17_FORM}, a space and "
                "an identity; unpack the list again"
            )
        path = folder / images / crop
        if not path.is_file():
            raise DatasetProblem(
                f"{path}: no such file, yet {file}, line {number} lists it; unpack it again"
            )
        yield crop_in_file(path, kind.name, f"{part}-{int(identity):04d}", match["camera"], split)


# CUHK03-NP: a folder for each of two kinds of boxes.

CUHK03_FOLDERS = {"labelled": ("labeled", "labelled"), "detected": ("detected",)}
CUHK03_LAYOUT = Layout(
    re.compile(r"(?P<identity>\d{4})_(?P<camera>c[12])_\d+\.(?:png|jpg)", re.IGNORECASE),
    "like 0001_c1_1.png (identity, camera of its pair, image)",
    {
        "bounding_box_train": {"split": "train"},
        "query": {"split": "query"},
        "bounding_box_test": {"split": "gallery"},
    },
)


def _read_cuhk03(
    kind: DatasetKind,
    folder: Path,
    boxes: str = "labelled",
) -> Dataset:
    """Read the boxes that were drawn by hand, or with `boxes=detected` those of a detector."""
    names = CUHK03_FOLDERS[boxes]
    crops = descend(folder, *names)
    if crops == folder:
        raise DatasetProblem(
            f"{folder}: has no folder {names[0]}; name the folder of CUHK03-NP that holds the "
            "folders of both kinds of boxes (the archive cuhk-03.mat is not read)"
        )
    ignored = Ignored()
    return kind.dataset(CUHK03_LAYOUT.records(kind, crops, ignored), f"{boxes} boxes", ignored)


# Sets with MATLAB files beside their crops.


@contextmanager
def _matlab(
    file: Path,
    variable: str,
    remedy: str,
) -> Iterator[Any]:
    """Yield a variable of a MATLAB file; structs become objects, and dimensions of 1 are removed.

    Raises:
        DatasetProblem: the file is missing or damaged. Damaged files may raise nearly any error,
            also while their content is used in the block.
    """
    # scipy.io is slow to import, and only two readers need it.
    from scipy.io import loadmat

    if not file.is_file():
        raise DatasetProblem(f"{file}: no such file; unpack it there")
    try:
        variables = loadmat(
            file,
            squeeze_me=True,
            struct_as_record=False,
            variable_names=[variable],
        )
        yield np.atleast_1d(variables[variable])
    except Exception as error:
        raise DatasetProblem(
            f"{file}: cannot be read, or {variable} does not list people ({error!r}); {remedy}"
        ) from error


def _read_grid(kind: DatasetKind, path: Path) -> Dataset:
    """Read GRID, and the authors' ten partitions if their file is there."""
    dataset = read_layout(kind, path)
    file = descend(path, "underground_reid") / "features_and_partitions.mat"
    if not file.exists():
        return dataset
    remedy = "unpack it again, or remove it to draw splits at random"
    training_people = []
    with _matlab(file, "trainIdxAll", remedy) as partitions:
        for partition in partitions:
            # The fields are rows of the probe features, rows of the gallery features, and people.
            _, _, people = partition._fieldnames
            numbers = np.atleast_1d(getattr(partition, people))
            training_people.append(frozenset(f"{int(number):04d}" for number in numbers))
    return replace(dataset, training_people=tuple(training_people))


def _read_cuhksysu(kind: DatasetKind, path: Path) -> Dataset:
    """Read crops of CUHK-SYSU; every scene counts as a camera.

    If `annotation/test/train_test/Train.mat` exists, its people are the training split, the queries
    of `TestG50.mat` are the query split, and all other crops are the gallery.

    Raises:
        DatasetProblem: a file or folder is wrong; the message names the first one.
    """
    assert kind.layout is not None
    ignored = Ignored()
    records = kind.layout.records(kind, path, ignored)
    version = f"ready crops, {descend(path, *kind.layout.within).name}"
    lists = descend(path, "dataset") / "annotation" / "test" / "train_test"
    if not (lists / "Train.mat").is_file():
        return kind.dataset(records, version, ignored)
    remedy = "unpack it again"
    with _matlab(lists / "Train.mat", "Train", remedy) as people:
        training = {_numbered(person.idname) for person in people}
    queries = set()
    with _matlab(lists / "TestG50.mat", "TestG50", remedy) as searches:
        for search in searches:
            scene = Path(search.Query.imname).stem
            queries.add((_numbered(search.Query.idname), _numbered(scene)))
    split_records = []
    for record in records:
        if record.identity in training:
            split = "train"
        elif (record.identity, record.camera) in queries:
            split = "query"
        else:
            split = "gallery"
        split_records.append(replace(record, split=split))
    return kind.dataset(split_records, f"{version}, in its own splits", ignored)


def _numbered(name: str) -> str:
    """Return `p00012` for `p12` and `p0000012`, since archive and ready crops pad differently."""
    return f"{name[0]}{int(name[1:]):05d}"


# The table.


def _label_of_cuhk01(parts: Parts) -> Label:
    return (parts["identity"], "A" if parts["shot"] in "12" else "B")


def _label_of_cuhk02(parts: Parts) -> Label:
    return (f"{parts['pair']}-{parts['person']}", parts["camera"])


def _label_of_cuhksysu(parts: Parts) -> Label:
    return (_numbered(f"p{parts['person']}"), _numbered(f"s{parts['scene']}"))


def _label_of_ilids(parts: Parts) -> Label:
    return (parts["identity"], f"shot{int(parts['shot'])}")


def _label_of_prid2011(parts: Parts) -> Label:
    person = parts["person"]
    camera = parts["camera"]
    return (person if int(person) <= 200 else f"{camera}-{person}", camera)


def _label_of_randperson(parts: Parts) -> Label:
    scene = parts.get("scene") or parts["scene_last"]
    camera = parts.get("camera") or parts["camera_first"]
    return (parts["identity"], scene + camera)


LABELS: dict[str, Callable[[Parts], Label]] = {
    "cuhk01": _label_of_cuhk01,
    "cuhk02": _label_of_cuhk02,
    "cuhksysu": _label_of_cuhksysu,
    "ilids": _label_of_ilids,
    "prid2011": _label_of_prid2011,
    "randperson": _label_of_randperson,
}
"""Functions that return identity and camera, for names that do not state just these two."""

CODE: dict[str, dict[str, Any]] = {
    "market1501": {"read": _read_market1501},
    "msmt17": {"read": _read_msmt17},
    "cuhk03np": {"read": _read_cuhk03},
    "cuhksysu": {"read": _read_cuhksysu},
    "grid": {"read": _read_grid},
}
"""Fields of `DatasetKind` that a TOML file cannot hold."""


def _kind(name: str, row: Mapping[str, Any]) -> DatasetKind:
    fields = {**row, **CODE.get(name, {})}
    if "file_name" in row:
        keys = ("form", "folders", "within")
        stated = {key: fields.pop(key) for key in keys if key in row}
        if name in LABELS:
            stated["label"] = LABELS[name]
        fields["layout"] = Layout(re.compile(fields.pop("file_name")), **stated)
    if "random_splits" in row:
        fields["random_splits"] = RandomSplits(**row["random_splits"])
    fields["published"] = tuple(PublishedCount(**count) for count in row["published"])
    for key in ("not_people", "overlaps"):
        fields[key] = frozenset(row.get(key, ()))
    return DatasetKind(name, **fields)


TABLE = Path(__file__).with_name("public.toml")
ROWS = tomllib.loads(TABLE.read_text("utf-8"))
PUBLIC_SETS = tuple(_kind(name, row) for name, row in ROWS.items())
