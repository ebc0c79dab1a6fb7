"""Crops of as many people as wanted, without pictures: real features with noise, or clusters."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model.problems import InputProblem
from service.record.records import ArchivedCrop, StoredCrop

Array = NDArray[np.float32]
KINDS = ("people", "clusters")
# Crops of one person; so many come of one seed.
CROPS_EACH = {"people": 20, "clusters": 8}
BLOCK = 8000
QUERIED_BLOCKS = 8
CAMERAS = 20
# What is drawn where no features are given: so many people with so many crops.
DRAWN_PEOPLE = 1000
DRAWN_EACH = 8
BEGAN = datetime(2026, 1, 1, tzinfo=UTC)


class ScaleCrops:
    """Crops by their place, the same in every run.

    `people` have centres with the mean and covariance of the people in a feature file, and each
    crop differs from its centre as a random crop of the file differs from its person's. Without
    a file a spectrum is drawn that falls as real features' does. `clusters` are as far from each
    other as chance allows, in all dimensions, which suits no list and no graph.
    """

    def __init__(self, kind: str, features: Path | None, dimension: int) -> None:
        """Reads the features.

        Args:
            kind: `people` or `clusters`.
            features: with `features` and `identities`, as `gmn embed` writes them.
            dimension: without features.

        Raises:
            InputProblem: the file holds no such arrays.
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
        """Those from one place to another, to be enrolled in this order."""
        for place in range(start, stop):
            block, row = divmod(place, BLOCK)
            record = StoredCrop(
                row_id=0,
                crop_id=f"crop-{place:09}",
                identity=f"person-{place // CROPS_EACH[self.kind]:08}",
                camera=f"camera-{place % CAMERAS:02}",
                captured_at=BEGAN + timedelta(seconds=place),
                sha256=hashlib.sha256(str(place).encode()).hexdigest(),
                created_at=BEGAN,
            )
            yield ArchivedCrop(record, self._drawn(block)[row], None)

    def queries(self, count: int, crops: int) -> Array:
        """About `count` other crops `(n, d)` of people among the first crops, of a few seeds."""
        random = np.random.default_rng(1)
        found = []
        for block in random.integers(-(-crops // BLOCK), size=QUERIED_BLOCKS).tolist():
            rows = random.integers(min(BLOCK, crops - block * BLOCK), size=count // QUERIED_BLOCKS)
            found.append(self._block(block, 1)[rows])
        return np.concatenate(found)

    def _block(self, number: int, variant: int = 0) -> Array:
        """The crops `(BLOCK, d)` of one seed; another variant has others of the same people."""
        each = CROPS_EACH[self.kind]
        random = np.random.default_rng(number)
        noise = np.random.default_rng([number, variant])
        if self.kind == "clusters":
            shape = BLOCK // each, self.dimension
            centres = random.standard_normal(shape, np.float32)
            near = 0.5 * noise.standard_normal((BLOCK, self.dimension), np.float32)
        else:
            mixed = random.standard_normal((BLOCK // each, len(self._centres)), np.float32)
            centres = self._mean + mixed @ self._centres / np.float32(len(self._centres) ** 0.5)
            near = self._noise[noise.integers(len(self._noise), size=BLOCK)]
        return np.asarray(np.repeat(centres, each, axis=0) + near, np.float32)


def _read(path: Path) -> tuple[Array, NDArray[np.int64]]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            rows = arrays["features"]
            names = arrays["identities"]
    except (OSError, ValueError, KeyError) as error:
        raise InputProblem(
            f"{path}: has no features with identities ({error}); name a file that gmn embed wrote"
        ) from error
    return rows.astype(np.float32), np.unique(names, return_inverse=True)[1].astype(np.int64)


def _drawn(dimension: int) -> tuple[Array, NDArray[np.int64]]:
    random = np.random.default_rng(0)
    people = np.repeat(np.arange(DRAWN_PEOPLE), DRAWN_EACH)
    spectrum = (1 + np.arange(dimension, dtype=np.float32)) ** -0.5
    centres = random.standard_normal((DRAWN_PEOPLE, dimension), np.float32)[people]
    return spectrum * (centres + 0.7 * random.standard_normal(centres.shape, np.float32)), people
