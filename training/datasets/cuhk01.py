"""CUHK01, "campus": files `IIIIKKK.png`, two images of every person in each of two cameras."""

from __future__ import annotations

import re
from pathlib import Path

from training.datasets.folder import has_image_named, image_files, matched_name, named_path
from training.datasets.record import CropRecord, Dataset

NAME = "cuhk01"
TERMS = "Academic research only; provided by the Chinese University of Hong Kong."
FILE_NAME = re.compile(r"(?P<identity>\d{4})(?P<shot>00[1-4])\.png", re.IGNORECASE)
FILE_FORM = "IIIIKKK.png with a four-digit identity and KKK from 001 to 004"
CAMERA_OF_SHOT = {"001": "A", "002": "A", "003": "B", "004": "B"}


def read_cuhk01(path: str) -> Dataset:
    """Reads CUHK01 from its folder, or from `campus` inside it.

    Raises:
        DatasetProblem: naming the first file or folder that is wrong.
    """
    records = []
    for file in image_files(_images_folder(named_path(path))):
        parts = matched_name(file, FILE_NAME, FILE_FORM)
        records.append(
            CropRecord(
                source=str(file),
                dataset=NAME,
                identity=parts["identity"],
                camera=CAMERA_OF_SHOT[parts["shot"]],
                domain=NAME,
                path=file,
            )
        )
    return Dataset(name=NAME, spec=f"cuhk01:{path}", terms=TERMS, records=tuple(records))


def looks_like_cuhk01(folder: Path) -> bool:
    """Whether the first image in the folder is named as CUHK01 names its files."""
    return has_image_named(_images_folder(folder), FILE_NAME)


def _images_folder(folder: Path) -> Path:
    campus = folder / "campus"
    return campus if campus.is_dir() else folder
