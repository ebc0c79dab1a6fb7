"""The result of every reader: crops with a label, and where they come from."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from model.crops.decode import CropProblem, decode_crop
from model.problems import InputProblem

UNREADABLE_NAMED = 5
"""How many unreadable crops a message names."""


class DatasetProblem(InputProblem):
    """A data set that cannot be read: the first file or folder that is wrong and what to do."""


@dataclass(frozen=True)
class CropRecord:
    """One labelled crop.

    Attributes:
        source: what a message calls it: a path, or `synthetic:7/domain2/0031/c1/0`.
        dataset: name of its data set, such as `cuhk01`. Identities are unique within it only.
        identity: who it shows.
        camera: which camera took it.
        domain: what the sampler mixes; the data set's name, or one drawn domain of `synthetic`.
        path: the crop's own image file; None where it has none.
        pixels: the drawn crop, `(h, w, 3)` uint8 RGB, or None.
        load: reads the pixels of a crop that lies within a larger file, or None; it can be pickled,
            since loading runs in other processes.
        split: `train`, `query`, `gallery`, or None where the set does not say.
        captured_at: when, or None.
    """

    source: str
    dataset: str
    identity: str
    camera: str
    domain: str
    path: Path | None = None
    pixels: NDArray[np.uint8] | None = None
    load: Callable[[], NDArray[np.uint8]] | None = None
    split: str | None = None
    captured_at: datetime | None = None

    @property
    def person(self) -> tuple[str, str]:
        """The label: (data set, identity), since "1" in two sets is two people."""
        return (self.dataset, self.identity)

    def decode(self) -> NDArray[np.uint8]:
        """Return the crop's pixels, `(h, w, 3)` uint8 RGB.

        Raises:
            InputProblem: naming the file that cannot be read.
        """
        if self.pixels is not None:
            return self.pixels
        try:
            if self.load is not None:
                return self.load()
            if self.path is not None:
                return decode_crop(self.path.read_bytes())
        except (CropProblem, OSError) as error:
            raise InputProblem(f"{self.source}: {error}") from error
        raise InputProblem(f"{self.source}: the record has neither a file nor pixels")

    def content(self) -> bytes:
        """The bytes of the crop's image file, as `gmn enroll` sends them; a PNG where it has none.

        Raises:
            InputProblem, OSError: where it cannot be read.
        """
        if self.path is not None:
            return self.path.read_bytes()
        file = io.BytesIO()
        Image.fromarray(self.decode()).save(file, "PNG")
        return file.getvalue()


def crop_in_file(
    file: Path,
    dataset: str,
    identity: str,
    camera: str,
    split: str | None = None,
    captured_at: datetime | None = None,
) -> CropRecord:
    """Return the record of a crop that is an image file, in a set that is one domain."""
    labels = (dataset, identity, camera, dataset)
    return CropRecord(str(file), *labels, path=file, split=split, captured_at=captured_at)


@dataclass(frozen=True)
class Dataset:
    """A data set as read.

    Attributes:
        name: such as `cuhk01`; part of every label.
        spec: the `KIND:PATH` it was read from.
        terms: under what terms the data may be used, one sentence.
        records: every crop, in a stable order.
        version: which of its versions was read, such as `V2` or `labelled boxes`, since figures of
            two versions do not compare; empty where there is one only.
        training_people: the identities that each of the authors' own random splits trains on
            (`DatasetKind.random_splits`), one set a split; empty where the authors ship none.
        training_splits: of which splits the crops are that a run may train on; None where the set
            has none.
    """

    name: str
    spec: str
    terms: str
    records: tuple[CropRecord, ...]
    version: str = ""
    training_people: tuple[frozenset[str], ...] = ()
    training_splits: tuple[str, ...] | None = None

    @property
    def identities(self) -> list[str]:
        """Every identity once, sorted."""
        return sorted({record.identity for record in self.records})

    @property
    def cameras(self) -> list[str]:
        """Every camera once, sorted."""
        return sorted({record.camera for record in self.records})


def refuse_unreadable(
    records: Sequence[CropRecord], on_crops: Callable[[int], None] = lambda _: None
) -> None:
    """Decodes every crop once before a training, so that none ends it in the middle.

    Reads in as many threads as there are processors, and keeps no pixels.

    Args:
        records: the crops; drawn ones are passed over.
        on_crops: called with a number of crops whenever so many were read.

    Raises:
        DatasetProblem: with the number of crops that cannot be read, and the first of them.
    """

    def problem_with(record: CropRecord) -> str | None:
        try:
            record.decode()
        except InputProblem as problem:
            return str(problem)
        return None

    files = [record for record in records if record.pixels is None]
    found = []
    with ThreadPoolExecutor(os.cpu_count() or 1, "reading") as pool:
        for problem in pool.map(problem_with, files):
            found += [problem] if problem else []
            on_crops(1)
    if found:
        unnamed = len(found) - UNREADABLE_NAMED
        more = f", and {unnamed:,} more" if unnamed > 0 else ""
        raise DatasetProblem(
            f"{len(found):,} of {len(files):,} crops cannot be read: "
            f"{'; '.join(found[:UNREADABLE_NAMED])}{more}; repair, convert or remove them "
            "(gmn check-data lists them), then train again"
        )
