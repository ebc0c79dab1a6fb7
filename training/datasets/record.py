"""Labelled crops and data sets, as every reader returns them."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from PIL import Image

from model.arrays import Pixels
from model.crops.decode import CropProblem, decode_crop
from model.crops.names import Ignored
from model.crops.texts import nfc
from model.problems import InputProblem
from model.wording import counted

UNREADABLE_NAMED = 5
"""The number of unreadable crops that a message names."""

Person = tuple[str, str]
"""The data set and the identity of a person."""


class DatasetProblem(InputProblem):
    """Raised for a data set that cannot be read; names the first wrong file and a remedy."""


@dataclass(frozen=True)
class CropRecord:
    """One labelled crop.

    Attributes:
        source: the crop's name in messages: a path, or `synthetic:7/d2/0031/c1/0`.
        dataset: the name of its data set, such as `cuhk01`. Identities are unique only within it.
        domain: the data set, or one domain of a drawn set; samplers mix domains.
        path, pixels, load: one of the three provides the image: a file, `(h, w, 3)` uint8 RGB, or a
            function that returns such pixels.
        split: `train`, `query`, `gallery`, or None if the set has no splits.
    """

    source: str
    dataset: str
    identity: str
    camera: str
    domain: str
    path: Path | None = None
    pixels: Pixels | None = None
    load: Callable[[], Pixels] | None = None
    split: str | None = None
    captured_at: datetime | None = None

    @property
    def person(self) -> Person:
        """The label (data set, identity): "1" of two data sets are two people."""
        return (self.dataset, self.identity)

    def decode(self) -> Image.Image:
        """Return the crop as a picture in RGB.

        Raises:
            InputProblem: the file cannot be read; the message names it.
        """
        if self.pixels is not None:
            return Image.fromarray(self.pixels)
        try:
            if self.load is not None:
                return Image.fromarray(self.load())
            if self.path is not None:
                return decode_crop(self.path.read_bytes())
        except (CropProblem, OSError) as error:
            raise InputProblem(f"{self.source}: {error}") from error
        raise InputProblem(f"{self.source}: the record has neither a file nor pixels")

    def content(self) -> bytes:
        """Return the bytes of the crop's file, or of a PNG if it has no file.

        Raises:
            InputProblem, OSError: the crop cannot be read.
        """
        if self.path is not None:
            return self.path.read_bytes()
        file = io.BytesIO()
        self.decode().save(file, "PNG")
        return file.getvalue()


def crop_in_file(
    file: Path,
    dataset: str,
    identity: str,
    camera: str,
    split: str | None = None,
    captured_at: datetime | None = None,
) -> CropRecord:
    """Make the record of an image file in a data set with one domain, with its labels in NFC."""
    labels = (dataset, nfc(identity), nfc(camera), dataset)
    return CropRecord(str(file), *labels, path=file, split=split, captured_at=captured_at)


@dataclass(frozen=True)
class Dataset:
    """A data set as read.

    Attributes:
        name: the name, such as `cuhk01`, which is part of every label.
        spec: the `KIND:PATH` that it was read from.
        terms: one sentence on how the data may be used.
        records: every crop, in a stable order.
        version: the version that was read, such as `V2` or `labelled boxes`; figures of two
            versions cannot be compared. Empty if there is only one.
        training_people: the identities to train on, for each of the authors' own random splits.
        training_splits: the splits that a run trains on; None if the set has no splits.
        ignored: the files and columns that were not read.
    """

    name: str
    spec: str
    terms: str
    records: tuple[CropRecord, ...]
    version: str = ""
    training_people: tuple[frozenset[str], ...] = ()
    training_splits: tuple[str, ...] | None = None
    ignored: Ignored = field(default_factory=Ignored, compare=False)

    @property
    def identities(self) -> list[str]:
        return sorted({record.identity for record in self.records})

    @property
    def cameras(self) -> list[str]:
        return sorted({record.camera for record in self.records})


def refuse_unreadable(
    records: Sequence[CropRecord], on_crops: Callable[[int], None] = lambda _: None
) -> None:
    """Decode every crop once, in as many threads as there are processors, before a training.

    Args:
        records: the crops; drawn ones are skipped.
        on_crops: called with the number of crops that were read since the last call.

    Raises:
        DatasetProblem: crops cannot be read; counts them and names the first.
    """

    def problem_with(record: CropRecord) -> str | None:
        try:
            record.decode()
        except InputProblem as problem:
            return str(problem)
        return None

    files = [record for record in records if record.pixels is None]
    problems = []
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for problem in pool.map(problem_with, files):
            if problem is not None:
                problems.append(problem)
            on_crops(1)
    if problems:
        unnamed = len(problems) - UNREADABLE_NAMED
        more = f", and {unnamed:,} more" if unnamed > 0 else ""
        raise DatasetProblem(
            f"{len(problems):,} of {counted(len(files), 'crop')} cannot be read: "
            f"{'; '.join(problems[:UNREADABLE_NAMED])}{more}; repair, convert or remove them "
            "(gmn check-data lists them), then train again"
        )
