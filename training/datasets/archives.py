"""Readers of sets with MATLAB files: GRID, CUHK03's archive and the scenes of CUHK-SYSU."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.crops.decode import CropProblem, decode_crop
from model.problems import InputProblem
from training.datasets.kind import DatasetKind, Layout, descend, read_layout
from training.datasets.record import CropRecord, Dataset, DatasetProblem


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


# CUHK03: every crop within `cuhk-03.mat`, the new protocol in a file beside it.

CUHK03_ARCHIVE = Path("cuhk03_release", "cuhk-03.mat")
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
CROP_NAME = re.compile(r"(?P<pair>\d)_(?P<person>\d{3})_(?P<view>[12])_(?P<shot>\d{2})\.\w+")
CROP_FORM = "like 1_001_1_01.png (pair of cameras, person, camera, image)"
INDICES = {"train": "train_idx", "query": "query_idx", "gallery": "gallery_idx"}


def looks_like_cuhk03(folder: Path) -> bool:
    """Whether the folder holds the archive, or the ready splits of either kind of boxes."""
    ready = (folder / name for names in CUHK03_FOLDERS.values() for name in names)
    return (folder / CUHK03_ARCHIVE).is_file() or any(map(CUHK03_LAYOUT.fits, ready))


def read_cuhk03(kind: DatasetKind, folder: Path, boxes: str = "labelled") -> Dataset:
    """Reads CUHK03-NP with boxes drawn by hand, or with `boxes=detected` by a detector.

    The folder holds either `labeled` and `detected`, each with the three folders of Market-1501, or
    the archive as published, `cuhk03_release/cuhk-03.mat` and the protocol's `.mat` files; crops in
    that archive are read as they are needed. Labels are the same either way.

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
    if ready != folder:
        records = CUHK03_LAYOUT.records(kind, ready)
    elif (folder / CUHK03_ARCHIVE).is_file():
        records = list(_crops_of_archive(kind.name, folder, variable))
    else:
        raise DatasetProblem(
            f"{folder}: holds neither a folder {variable} nor {CUHK03_ARCHIVE}; "
            "name the folder of CUHK03-NP"
        )
    return kind.dataset(records, f"{boxes} boxes")


def _crops_of_archive(dataset: str, folder: Path, variable: str) -> Iterator[CropRecord]:
    """The crops that the protocol lists; `variable` is `labeled` or `detected`."""
    archive = folder / CUHK03_ARCHIVE
    protocol = folder / f"cuhk03_new_protocol_config_{variable}.mat"

    def numbers(listed: str) -> list[int]:
        found = _read_mat(protocol, listed)
        with _name_damage(protocol, f"{listed} is no list of numbers"):
            return [int(number) for number in np.atleast_1d(found)]

    names = [str(name) for name in np.atleast_1d(_read_mat(protocol, "filelist"))]
    labels = numbers("labels")
    if len(labels) != len(names):
        raise DatasetProblem(
            f"{protocol}: has {len(names):,} files and {len(labels):,} labels; unpack it again"
        )
    with (
        _open_archive(archive) as opened,
        _name_damage(archive, f"has no pairs of cameras under {variable}"),
    ):
        people = [opened[pair].shape[1] for pair in opened[variable][0]]
    for split, indices in INDICES.items():
        for index in numbers(indices):
            if not 1 <= index <= len(names):
                raise DatasetProblem(
                    f"{protocol}: {indices} names file {index} of {len(names):,}; unpack it again"
                )
            name = names[index - 1]
            parts = CROP_NAME.fullmatch(name)
            if parts is None:
                raise DatasetProblem(f"{protocol}: {name!r} is not {CROP_FORM}; unpack it again")
            pair, person, shot = (int(parts[part]) - 1 for part in ("pair", "person", "shot"))
            if not (0 <= pair < len(people) and 0 <= person < people[pair] and 0 <= shot < 10):
                raise DatasetProblem(
                    f"{archive}: has no crop {name}, yet {protocol.name} lists it; unpack it"
                )
            yield CropRecord(
                source=f"{archive}#{variable}/{name}",
                dataset=dataset,
                identity=f"{labels[index - 1]:04d}",
                camera=f"c{1 if shot < 5 else 2}",
                domain=dataset,
                split=split,
                load=partial(_crop_of_archive, archive, variable, pair, person, shot),
            )


def _crop_of_archive(
    archive: Path, variable: str, pair: int, person: int, shot: int
) -> NDArray[np.uint8]:
    """A crop within `cuhk-03.mat`, `(h, w, 3)` uint8 RGB; pair, person and shot count from 0."""
    # Opened for every crop: an open HDF5 file cannot be handed to another process.
    with _open_archive(archive) as opened:
        try:
            people = opened[opened[variable][0, pair]]
            # MATLAB stores columns first, so HDF5 shows (3, width, height).
            stored = opened[people[shot, person]][()].T
        except (KeyError, IndexError, ValueError, OSError) as error:
            raise CropProblem(
                "truncated", f"cannot be read from {archive} ({error}); unpack it again"
            ) from error
    if stored.ndim != 3 or stored.dtype != np.uint8:
        raise CropProblem("empty", f"there is no image in {archive}; unpack it again")
    return np.ascontiguousarray(stored)


def _open_archive(archive: Path) -> Any:
    # Imported here, since no other reader needs it.
    from h5py import File

    with _name_damage(archive, "cannot be read as HDF5"):
        return File(archive, "r")


# CUHK-SYSU, a person-search set: whole scenes with boxes, or crops cut from them.

PERSONS = Path("annotation", "Person.mat")
SPLITS = Path("annotation", "test", "train_test")
SCENES = Path("Image", "SSM")
SYSU_LAYOUT = Layout(
    re.compile(r"p(?P<person>\d+)_(?:n\d+_)?s(?P<scene>\d+)(?:_\w+)?\.(?:jpg|png)", re.IGNORECASE),
    "like p11422_s16929_1.jpg or p00001_n01_s00001_hard0.png (person, scene)",
    within=("dataset", "cropped_images", "cropped_image"),
    label=lambda of: (_numbered(f"p{of['person']}"), _numbered(f"s{of['scene']}")),
)

Box = tuple[int, ...]
"""Left, top, width, height: the first pixel is 1, and a crop runs to left + width and top + height,
both included."""


def looks_like_cuhksysu(folder: Path) -> bool:
    """Whether the folder holds the annotation, or crops named after person and scene."""
    return (descend(folder, "dataset") / PERSONS).is_file() or SYSU_LAYOUT.fits(folder)


def read_cuhksysu(kind: DatasetKind, path: Path, crops: str = "") -> Dataset:
    """Reads the 11,934 annotated people, every scene as a camera of its own.

    From the archive as published, the boxes of `annotation/Person.mat` are cut from the scenes in
    `Image/SSM` as they are needed. Without it, or with `crops=cut`, ready crops are read:
    `cropped_images`, `cropped_image` or the folder itself.

    Where `annotation/test/train_test/Train.mat` is there, its people are the training split, the
    boxes that `TestG50.mat` searches for are the queries, and all else is the gallery.

    Raises:
        DatasetProblem: naming the first file or folder that is wrong.
    """
    folder = descend(path, "dataset")
    cut = crops == "cut" or (not crops and not (folder / PERSONS).is_file())
    splits = (folder / SPLITS / "Train.mat").is_file()
    boxes = _boxes(folder) if splits or not cut else []
    split_of = _splits(folder, boxes) if splits else {}
    if cut:
        records = SYSU_LAYOUT.records(kind, path)
        version = f"ready crops, {descend(path, *SYSU_LAYOUT.within).name}"
    else:
        records = list(_crops_of_scenes(kind.name, folder, boxes))
        version = f"cut from the scenes by {PERSONS}"
    if splits:
        # A person that no annotation knows cannot be one of the training split.
        records = [
            replace(record, split=split_of.get((record.identity, record.camera), "gallery"))
            for record in records
        ]
        version += ", in its own splits"
    return kind.dataset(records, version)


def _boxes(folder: Path) -> list[tuple[str, str, Box]]:
    """Every annotated box: person, file of the scene, and where in it."""
    persons = _read_mat(folder / PERSONS, "Person")
    with _name_damage(folder / PERSONS, "lists no people with boxes"):
        return [
            (str(person.idname), *_place(scene))
            for person in np.atleast_1d(persons)
            for scene in np.atleast_1d(person.scene)
        ]


def _splits(folder: Path, boxes: list[tuple[str, str, Box]]) -> dict[tuple[str, str], str]:
    """The authors' own split of each identity in each scene."""
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
    """The scene's file and where in it, as a struct of the annotation states both."""
    return str(box.imname), tuple(int(side) for side in box.idlocate)


def _crops_of_scenes(
    dataset: str, folder: Path, boxes: list[tuple[str, str, Box]]
) -> Iterator[CropRecord]:
    there: set[str] = set()
    for person, scene, box in boxes:
        image = folder / SCENES / scene
        if scene not in there and not image.is_file():
            raise DatasetProblem(
                f"{image}: no such file, yet {PERSONS} has {person} there; unpack it"
            )
        there.add(scene)
        if len(box) != 4 or min(box[2:]) < 1:
            raise DatasetProblem(
                f"{folder / PERSONS}: {person} in {scene} has the box {list(box)}, not left, top, "
                "width and height; unpack it again"
            )
        yield CropRecord(
            source=f"{image}#{person}",
            dataset=dataset,
            identity=_numbered(person),
            camera=_numbered(image.stem),
            domain=dataset,
            load=partial(_cut, image, box),
        )


def _cut(scene: Path, box: Box) -> NDArray[np.uint8]:
    """A crop within a scene, `(h, w, 3)` uint8 RGB; a box over the edge ends there."""
    left, top, width, height = box
    pixels = decode_crop(scene.read_bytes())
    rows = slice(max(top - 1, 0), max(top + height, 0))
    columns = slice(max(left - 1, 0), max(left + width, 0))
    crop = np.ascontiguousarray(pixels[rows, columns])
    if crop.size == 0:
        raise CropProblem("too_small", "the box lies outside its scene; unpack the set again")
    return crop


def _numbered(name: str) -> str:
    """`p00012`, however many zeros the source has: an identity is the same in either layout."""
    return f"{name[0]}{name[1:].lstrip('0').zfill(5)}"
