"""Readers of GRID with its partitions, of CUHK03-NP, and of CUHK-SYSU with its own split."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from model.problems import InputProblem
from training.datasets.kind import DatasetKind, Layout, descend, read_layout
from training.datasets.record import Dataset, DatasetProblem


@contextmanager
def _name_damage(file: Path, fault: str, remedy: str = "unpack it again") -> Iterator[None]:
    """Names the file, what is wrong and the remedy: damaged bytes raise nearly anything."""
    try:
        yield
    except InputProblem:
        raise
    except Exception as error:
        raise DatasetProblem(f"{file}: {fault} ({error}); {remedy}") from error


def _read_mat(file: Path, variable: str) -> Any:
    """One variable of a MATLAB file up to version 7; structs give attributes, lengths of 1 go."""
    # Imported here, since only three of the readers need it and it is slow to import.
    from scipy.io import loadmat

    if not file.is_file():
        raise DatasetProblem(f"{file}: no such file; unpack it there")
    with _name_damage(file, "cannot be read as a MATLAB file"):
        found = loadmat(file, squeeze_me=True, struct_as_record=False, variable_names=[variable])
    if variable not in found:
        raise DatasetProblem(f"{file}: has no variable {variable}; name the file of this data set")
    return found[variable]


# QMUL GRID: two folders, and the authors' ten partitions in a file beside them.


def read_grid(kind: DatasetKind, path: Path) -> Dataset:
    """Reads GRID; its ten partitions where `features_and_partitions.mat` lies beside the folders.

    Raises:
        DatasetProblem: naming the first file or folder that is wrong.
    """
    dataset = read_layout(kind, path)
    file = descend(path, "underground_reid") / "features_and_partitions.mat"
    if not file.exists():
        return dataset
    partitions = _read_mat(file, "trainIdxAll")
    fault = "trainIdxAll does not list the people to train on"
    remedy = "unpack it again, or remove it to draw splits at random"
    with _name_damage(file, fault, remedy):
        # A partition holds three lists: rows of the probe features, rows of the gallery features,
        # and the people.
        lists = [getattr(one, one._fieldnames[2]) for one in np.atleast_1d(partitions)]
        people = [frozenset(f"{int(one):04d}" for one in np.atleast_1d(own)) for own in lists]
    return replace(dataset, training_people=tuple(people))


# CUHK03-NP: ready folders for either kind of boxes.

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


def looks_like_cuhk03(folder: Path) -> bool:
    """Return whether the folder holds the splits of either kind of boxes."""
    ready = (folder / name for names in CUHK03_FOLDERS.values() for name in names)
    return any(map(CUHK03_LAYOUT.fits, ready))


def read_cuhk03(kind: DatasetKind, folder: Path, boxes: str = "labelled") -> Dataset:
    """Read CUHK03-NP with boxes drawn by hand, or with `boxes=detected` by a detector.

    The folder holds `labeled` and `detected`, each with the three folders of Market-1501.

    Raises:
        DatasetProblem: naming the first file or folder that is wrong.
    """
    if CUHK03_LAYOUT.fits(folder):
        drawn = "detected" if folder.resolve().name.lower() == "detected" else "labelled"
        raise DatasetProblem(
            f"{folder}: holds one kind of boxes; name the folder above it, "
            f"{kind.name}:{folder.resolve().parent},boxes={drawn}"
        )
    variable = CUHK03_FOLDERS[boxes][0]
    ready = descend(folder, *CUHK03_FOLDERS[boxes])
    if ready == folder:
        raise DatasetProblem(
            f"{folder}: holds no folder {variable}; name the folder of CUHK03-NP, whose crops its "
            "authors' page has ready (the archive cuhk-03.mat is not read)"
        )
    return kind.dataset(CUHK03_LAYOUT.records(kind, ready), f"{boxes} boxes")


# CUHK-SYSU, a person-search set: crops cut from its scenes.

PERSONS = Path("annotation", "Person.mat")
SPLITS = Path("annotation", "test", "train_test")
SYSU_LAYOUT = Layout(
    re.compile(r"p(?P<person>\d+)_(?:n\d+_)?s(?P<scene>\d+)(?:_\w+)?\.(?:jpg|png)", re.IGNORECASE),
    "like p11422_s16929_1.jpg or p00001_n01_s00001_hard0.png (person, scene)",
    within=("dataset", "cropped_images", "cropped_image"),
    label=lambda of: (_numbered(f"p{of['person']}"), _numbered(f"s{of['scene']}")),
)

Box = tuple[int, ...]
"""Left, top, width, height."""


def read_cuhksysu(kind: DatasetKind, path: Path) -> Dataset:
    """Read crops of the 11,934 annotated people, every scene as a camera of its own.

    The crops lie in `cropped_images`, `cropped_image` or the folder itself. Where
    `annotation/test/train_test/Train.mat` is there, its people are the training split, the boxes
    that `TestG50.mat` searches for are the queries, and all else is the gallery.

    Raises:
        DatasetProblem: naming the first file or folder that is wrong.
    """
    folder = descend(path, "dataset")
    records = SYSU_LAYOUT.records(kind, path)
    version = f"ready crops, {descend(path, *SYSU_LAYOUT.within).name}"
    if (folder / SPLITS / "Train.mat").is_file():
        split_of = _splits(folder, _boxes(folder))
        # A person that no annotation knows cannot be one of the training split.
        records = [
            replace(record, split=split_of.get((record.identity, record.camera), "gallery"))
            for record in records
        ]
        version += ", in its own splits"
    return kind.dataset(records, version)


def _boxes(folder: Path) -> list[tuple[str, str, Box]]:
    """Return every annotated box: person, file of the scene, and where in it."""
    persons = _read_mat(folder / PERSONS, "Person")
    with _name_damage(folder / PERSONS, "lists no people with boxes"):
        return [
            (str(person.idname), *_place(scene))
            for person in np.atleast_1d(persons)
            for scene in np.atleast_1d(person.scene)
        ]


def _splits(folder: Path, boxes: list[tuple[str, str, Box]]) -> dict[tuple[str, str], str]:
    """Return the authors' own split of each identity in each scene."""
    files = ("Train", "TestG50")
    training, queries = (_read_mat(folder / SPLITS / f"{name}.mat", name) for name in files)
    with _name_damage(
        folder / SPLITS, "Train.mat or TestG50.mat lists no people", "unpack both again"
    ):
        trained = {str(person.idname) for person in np.atleast_1d(training)}
        searched = {_place(test.Query) for test in np.atleast_1d(queries)}
    splits = {}
    for person, scene, box in boxes:
        tested = "query" if (scene, box) in searched else "gallery"
        crop = _numbered(person), _numbered(Path(scene).stem)
        splits[crop] = "train" if person in trained else tested
    return splits


def _place(box: Any) -> tuple[str, Box]:
    """Return the scene's file and where in it, as a struct of the annotation states both."""
    return str(box.imname), tuple(int(side) for side in box.idlocate)


def _numbered(name: str) -> str:
    """`p00012`, however many zeros the source has: an identity is the same in either layout."""
    return f"{name[0]}{name[1:].lstrip('0').zfill(5)}"
