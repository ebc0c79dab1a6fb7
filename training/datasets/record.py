"""What every reader returns: crops with a label, and where they come from."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model.crops.decode import CropProblem, decode_crop
from model.problems import InputProblem


@dataclass(frozen=True)
class CropRecord:
    """One labelled crop.

    Attributes:
        source: what a message calls it: a path, or `synthetic:7/domain2/0031/c1/0`.
        dataset: name of its data set, such as `cuhk01`. Identities are unique within it only.
        identity: who it shows.
        camera: which camera took it.
        domain: what the sampler mixes; the data set's name, or one drawn domain of `synthetic`.
        path: the image file, or None where `pixels` holds the drawn crop.
        pixels: `(h, w, 3)` uint8 RGB, or None.
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
    split: str | None = None
    captured_at: datetime | None = None

    @property
    def person(self) -> tuple[str, str]:
        """The label: (data set, identity), since "1" in two sets is two people."""
        return (self.dataset, self.identity)

    def decode(self) -> NDArray[np.uint8]:
        """The crop's pixels, `(h, w, 3)` uint8 RGB.

        Raises:
            InputProblem: naming the file that cannot be read.
        """
        if self.pixels is not None:
            return self.pixels
        if self.path is None:
            raise InputProblem(f"{self.source}: the record has neither a file nor pixels")
        try:
            return decode_crop(self.path.read_bytes())
        except (CropProblem, OSError) as error:
            raise InputProblem(f"{self.source}: {error}") from error


@dataclass(frozen=True)
class Dataset:
    """A data set as read.

    Attributes:
        name: such as `cuhk01`; part of every label.
        spec: the `KIND:PATH` it was read from.
        terms: under what terms the data may be used, one sentence.
        records: every crop, in a stable order.
    """

    name: str
    spec: str
    terms: str
    records: tuple[CropRecord, ...]

    @property
    def identities(self) -> list[str]:
        """Every identity once, sorted."""
        return sorted({record.identity for record in self.records})

    @property
    def cameras(self) -> list[str]:
        """Every camera once, sorted."""
        return sorted({record.camera for record in self.records})
