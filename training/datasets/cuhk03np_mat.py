"""CUHK03 as published: every crop within `cuhk-03.mat`, the new protocol in a file beside it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.crops.decode import CropProblem
from training.datasets.folder import DatasetProblem
from training.datasets.mat import read_mat
from training.datasets.record import CropRecord

RAW = Path("cuhk03_release", "cuhk-03.mat")
VARIABLES = {"labelled": "labeled", "detected": "detected"}
CROP_NAME = re.compile(r"(?P<pair>\d)_(?P<person>\d{3})_(?P<view>[12])_(?P<shot>\d{2})\.\w+")
CROP_FORM = "like 1_001_1_01.png (pair of cameras, person, camera, image)"
SPLITS = {"train": "train_idx", "query": "query_idx", "gallery": "gallery_idx"}


@dataclass(frozen=True)
class CropInMat:
    """A crop within `cuhk-03.mat`, which is HDF5.

    Attributes:
        file: the archive.
        variable: `labeled` or `detected`.
        pair, person, shot: where it lies, each from 0.
    """

    file: Path
    variable: str
    pair: int
    person: int
    shot: int

    def __call__(self) -> NDArray[np.uint8]:
        """The crop's pixels, `(h, w, 3)` uint8 RGB."""
        # Opened for every crop: an open HDF5 file cannot be handed to another process.
        with _open(self.file) as archive:
            try:
                people = archive[archive[self.variable][0, self.pair]]
                # MATLAB stores columns first, so HDF5 shows (3, width, height).
                stored = archive[people[self.shot, self.person]][()].T
            except (KeyError, IndexError, ValueError, OSError) as error:
                raise CropProblem(
                    "truncated", f"cannot be read from {self.file} ({error}); unpack it again"
                ) from error
        if stored.ndim != 3 or stored.dtype != np.uint8:
            raise CropProblem("empty", f"there is no image in {self.file}; unpack it again")
        return np.ascontiguousarray(stored)


def looks_like_raw(folder: Path) -> bool:
    """Whether the folder holds the archive."""
    return (folder / RAW).is_file()


def read_raw(folder: Path, dataset: str, boxes: str) -> list[CropRecord]:
    """Reads the split; the crops stay in the archive until they are needed.

    Args:
        folder: what holds `cuhk03_release` and `cuhk03_new_protocol_config_….mat`.
        dataset: the data set's name.
        boxes: `labelled` or `detected`.

    Raises:
        DatasetProblem: naming the file that is wrong.
    """
    variable = VARIABLES[boxes]
    protocol = folder / f"cuhk03_new_protocol_config_{variable}.mat"
    names = [str(name) for name in np.atleast_1d(read_mat(protocol, "filelist"))]
    labels = _numbers(protocol, "labels")
    if len(labels) != len(names):
        raise DatasetProblem(
            f"{protocol}: has {len(names):,} files and {len(labels):,} labels; unpack it again"
        )
    people = _people_in_pairs(folder / RAW, variable)
    records = []
    for split, indices in SPLITS.items():
        for index in _numbers(protocol, indices):
            if not 1 <= index <= len(names):
                raise DatasetProblem(
                    f"{protocol}: {indices} names file {index} of {len(names):,}; unpack it again"
                )
            crop = _crop(folder / RAW, protocol, variable, names[index - 1], people)
            records.append(
                CropRecord(
                    source=f"{crop.file}#{variable}/{names[index - 1]}",
                    dataset=dataset,
                    identity=f"{labels[index - 1]:04d}",
                    camera=f"c{1 if crop.shot < 5 else 2}",
                    domain=dataset,
                    split=split,
                    load=crop,
                )
            )
    return records


def _numbers(protocol: Path, variable: str) -> list[int]:
    try:
        return [int(number) for number in np.atleast_1d(read_mat(protocol, variable))]
    except (TypeError, ValueError) as error:
        raise DatasetProblem(
            f"{protocol}: {variable} is no list of numbers ({error}); unpack it again"
        ) from error


def _people_in_pairs(file: Path, variable: str) -> list[int]:
    """How many people each pair of cameras has in the archive."""
    with _open(file) as archive:
        try:
            return [archive[pair].shape[1] for pair in archive[variable][0]]
        except (KeyError, IndexError, ValueError, AttributeError, OSError) as error:
            raise DatasetProblem(
                f"{file}: has no pairs of cameras under {variable} ({error}); unpack it again"
            ) from error


def _crop(file: Path, protocol: Path, variable: str, name: str, people: list[int]) -> CropInMat:
    parts = CROP_NAME.fullmatch(name)
    if parts is None:
        raise DatasetProblem(f"{protocol}: {name!r} is not {CROP_FORM}; unpack it again")
    pair, person, shot = (int(parts[part]) - 1 for part in ("pair", "person", "shot"))
    if not (0 <= pair < len(people) and 0 <= person < people[pair] and 0 <= shot < 10):
        raise DatasetProblem(f"{file}: has no crop {name}, yet {protocol.name} lists it; unpack it")
    return CropInMat(file, variable, pair, person, shot)


def _open(file: Path) -> Any:
    # Imported here, since no other reader needs it.
    from h5py import File

    try:
        return File(file, "r")
    except OSError as error:
        raise DatasetProblem(
            f"{file}: cannot be read as HDF5 ({error}); unpack it again"
        ) from error
