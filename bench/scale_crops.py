"""Any number of crops without pictures: real features with noise, or clusters."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model.problems import InputProblem
from service.record.values import ArchivedCrop, StoredCrop

Array = NDArray[np.float32]
KINDS = ("people", "clusters")
CROPS_PER_PERSON = {"people": 20, "clusters": 8}
# One seed draws a block of crops.
BLOCK = 8000
QUERIED_BLOCKS = 8
CAMERAS = 20
# People are like these drawn ones if no features are given.
DRAWN_PEOPLE = 1000
DRAWN_CROPS_PER_PERSON = 8
BEGAN = datetime(2026, 1, 1, tzinfo=UTC)


class ScaleCrops:
    """Crops by their index, the same in every run.

    `people` have centres with the mean and covariance of the people in a feature file, and each
    crop differs from its centre as a random crop of the file differs from its person's. Without
    a file a spectrum is drawn that falls as real features' does. `clusters` are as far from each
    other as chance allows, in all dimensions, which suits no list and no graph.
    """

    def __init__(self, kind: str, features: Path | None, dimension: int) -> None:
        """Read or draw the features that the people are like.

        Args:
            kind: `people` or `clusters`.
            features: a file with the arrays `features` and `identities`, as `gmn embed` writes it.
            dimension: the dimension of drawn features, if no file is given.

        Raises:
            InputProblem: the file lacks these arrays.
        """
        self.kind = kind
        rows, people = _read(features) if features else _drawn(dimension)
        self.dimension = rows.shape[1]
        means = np.zeros((people.max() + 1, self.dimension), np.float32)
        np.add.at(means, people, rows)
        means /= np.bincount(people)[:, None]
        self._mean = means.mean(axis=0)
        self._centres = means - self._mean
        self._noise = rows - means[people]
        self._drawn = lru_cache(maxsize=1)(self._block)

    def crops(self, start: int, stop: int) -> Iterator[ArchivedCrop]:
        """Yield the crops from one index up to another, in the order of enrollment."""
        for index in range(start, stop):
            block, row = divmod(index, BLOCK)
            record = StoredCrop(
                row_id=0,
                crop_id=f"crop-{index:09}",
                identity=f"person-{index // CROPS_PER_PERSON[self.kind]:08}",
                camera=f"camera-{index % CAMERAS:02}",
                captured_at=BEGAN + timedelta(seconds=index),
                sha256=hashlib.sha256(str(index).encode()).hexdigest(),
                created_at=BEGAN,
            )
            yield ArchivedCrop(record, self._drawn(block)[row], None)

    def queries(self, count: int, crops: int) -> Array:
        """Draw about `count` other crops `(n, d)` of people among the first `crops`."""
        random = np.random.default_rng(1)
        queries = []
        for block in random.integers(-(-crops // BLOCK), size=QUERIED_BLOCKS).tolist():
            rows = random.integers(min(BLOCK, crops - block * BLOCK), size=count // QUERIED_BLOCKS)
            queries.append(self._block(block, variant=1)[rows])
        return np.concatenate(queries)

    def _block(self, number: int, variant: int = 0) -> Array:
        """Draw the crops `(BLOCK, d)` of one seed; each variant has other crops of its people."""
        crops_per_person = CROPS_PER_PERSON[self.kind]
        people = BLOCK // crops_per_person
        random = np.random.default_rng(number)
        noise = np.random.default_rng([number, variant])
        if self.kind == "clusters":
            centres = random.standard_normal((people, self.dimension), np.float32)
            offsets = 0.5 * noise.standard_normal((BLOCK, self.dimension), np.float32)
        else:
            weights = random.standard_normal((people, len(self._centres)), np.float32)
            centres = self._mean + weights @ self._centres / np.float32(len(self._centres) ** 0.5)
            offsets = self._noise[noise.integers(len(self._noise), size=BLOCK)]
        return np.asarray(np.repeat(centres, crops_per_person, axis=0) + offsets, np.float32)


def _read(path: Path) -> tuple[Array, NDArray[np.int64]]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            rows = arrays["features"]
            names = arrays["identities"]
    except (OSError, ValueError, KeyError) as error:
        raise InputProblem(
            f"{path}: has no features with identities ({error}); name a file that gmn embed wrote"
        ) from error
    _, people = np.unique(names, return_inverse=True)
    return rows.astype(np.float32), people.astype(np.int64)


def _drawn(dimension: int) -> tuple[Array, NDArray[np.int64]]:
    random = np.random.default_rng(0)
    people = np.repeat(np.arange(DRAWN_PEOPLE), DRAWN_CROPS_PER_PERSON)
    spectrum = (1 + np.arange(dimension, dtype=np.float32)) ** -0.5
    centres = random.standard_normal((DRAWN_PEOPLE, dimension), np.float32)[people]
    offsets = 0.7 * random.standard_normal(centres.shape, np.float32)
    return spectrum * (centres + offsets), people
