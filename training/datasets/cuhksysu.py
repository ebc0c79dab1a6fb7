"""CUHK-SYSU, a person-search set: whole scenes with boxes, or crops cut from them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.crops.decode import CropProblem, decode_crop
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
from training.datasets.options import split_options
from training.datasets.record import CropRecord, Dataset, crop_in_file

NAME = "cuhksysu"
TERMS = "Academic research only, given on request; not to be redistributed."
OPTIONS = {"crops": ("scenes", "cut")}
FILE_NAME = re.compile(
    r"p(?P<identity>\d+)_(?:n\d+_)?s(?P<scene>\d+)(?:_\w+)?\.(?:jpg|png)", re.IGNORECASE
)
FILE_FORM = "like p11422_s16929_1.jpg or p00001_n01_s00001_hard0.png (person, scene)"
PERSONS = Path("annotation", "Person.mat")
SCENES = Path("Image", "SSM")
CUT_FOLDERS = ("cropped_images", "cropped_image")
FROM_SCENES = "cut from the scenes by annotation/Person.mat"


@dataclass(frozen=True)
class BoxInScene:
    """A crop within a whole scene.

    Attributes:
        scene: the image file.
        left, top, width, height: the box as the annotation has it: the first pixel is 1, and the
            crop runs to `left + width` and `top + height`, both included.
    """

    scene: Path
    left: int
    top: int
    width: int
    height: int

    def __call__(self) -> NDArray[np.uint8]:
        """The crop's pixels, `(h, w, 3)` uint8 RGB; a box over the edge ends there."""
        pixels = decode_crop(self.scene.read_bytes())
        rows = slice(max(self.top - 1, 0), max(self.top + self.height, 0))
        columns = slice(max(self.left - 1, 0), max(self.left + self.width, 0))
        crop = np.ascontiguousarray(pixels[rows, columns])
        if crop.size == 0:
            raise CropProblem("too_small", "the box lies outside its scene; unpack the set again")
        return crop


def read_cuhksysu(text: str) -> Dataset:
    """Reads the 11,934 annotated people, every scene as a camera of its own.

    From the archive as published, the boxes of `annotation/Person.mat` are cut from the scenes in
    `Image/SSM` as they are needed. Without it, or with `crops=cut`, ready crops are read:
    `cropped_images`, `cropped_image` or the folder itself.

    Raises:
        DatasetProblem: naming the first file or folder that is wrong.
    """
    path, options = split_options(NAME, text, OPTIONS)
    folder = descend(named_path(path), "dataset")
    way = options.get("crops", "scenes" if (folder / PERSONS).is_file() else "cut")
    if way == "scenes":
        return Dataset(NAME, f"{NAME}:{text}", TERMS, tuple(_from_scenes(folder)), FROM_SCENES)
    folder = descend(folder, *CUT_FOLDERS)
    records = []
    for file in image_files(folder):
        parts = matched_name(file, FILE_NAME, FILE_FORM)
        camera = _scene_name(parts["scene"])
        records.append(crop_in_file(file, NAME, _person_name(parts["identity"]), camera))
    return Dataset(NAME, f"{NAME}:{text}", TERMS, tuple(records), f"ready crops, {folder.name}")


def looks_like_cuhksysu(folder: Path) -> bool:
    """Whether the folder holds the annotation, or crops named after person and scene."""
    folder = descend(folder, "dataset")
    return (folder / PERSONS).is_file() or has_image_named(descend(folder, *CUT_FOLDERS), FILE_NAME)


def _from_scenes(folder: Path) -> list[CropRecord]:
    file = folder / PERSONS
    persons = read_mat(file, "Person")
    try:
        boxes = [
            (str(person.idname), str(scene.imname), [int(side) for side in scene.idlocate])
            for person in np.atleast_1d(persons)
            for scene in np.atleast_1d(person.scene)
        ]
    except (AttributeError, TypeError, ValueError) as error:
        raise DatasetProblem(
            f"{file}: lists no people with boxes ({error}); unpack it again"
        ) from error
    there: set[str] = set()
    return [_record(folder, *box, there) for box in boxes]


def _record(folder: Path, person: str, scene: str, box: Any, there: set[str]) -> CropRecord:
    """The record of one box; `there` remembers the scenes that were seen to be there."""
    image = folder / SCENES / scene
    if scene not in there and not image.is_file():
        raise DatasetProblem(f"{image}: no such file, yet {PERSONS} has {person} there; unpack it")
    there.add(scene)
    if len(box) != 4 or min(box[2:]) < 1:
        raise DatasetProblem(
            f"{folder / PERSONS}: {person} in {scene} has the box {box}, not left, top, width and "
            "height; unpack it again"
        )
    return CropRecord(
        source=f"{image}#{person}",
        dataset=NAME,
        identity=_person_name(person[1:]),
        camera=_scene_name(image.stem[1:]),
        domain=NAME,
        load=BoxInScene(image, *box),
    )


def _person_name(digits: str) -> str:
    """`p00012`, however many zeros the source has: an identity is the same in either layout."""
    return f"p{digits.lstrip('0').zfill(5)}"


def _scene_name(digits: str) -> str:
    return f"s{digits.lstrip('0').zfill(5)}"


KIND = DatasetKind(
    kind=NAME,
    path="the folder that holds annotation and Image, or one of ready crops",
    read=read_cuhksysu,
    looks_like=looks_like_cuhksysu,
    obtain="http://www.ee.cuhk.edu.hk/~xgwang/PS/dataset.html, on request",
    terms=TERMS,
    options=OPTIONS,
    stands_for_camera="every scene counts as a camera",
    published=(PublishedCount(None, 34_574, 11_934),),
)
