"""Batches of augmented crops, decoded once and kept as far as memory is given for it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from training.augmentation import augment, build_augmentation
from training.datasets.record import CropRecord
from training.recipe import Recipe


class Batch(NamedTuple):
    """Crops `(B, h, w, 3)` uint8, labels and rows among the records `(B,)` int64, and sources."""

    crops: torch.Tensor
    labels: torch.Tensor
    rows: torch.Tensor
    sources: list[str]


class BatchesOfOneEpoch(TorchDataset[Batch]):
    """Item i is batch i.

    A batch is a function of (recipe seed, epoch, number of the batch), so that a resumed run sees
    what the uninterrupted one would have.
    """

    def __init__(
        self,
        records: Sequence[CropRecord],
        labels: NDArray[np.int64],
        recipe: Recipe,
        cache: CropCache,
    ) -> None:
        self.records, self.labels, self.recipe, self.cache = records, labels, recipe, cache
        self.transform = build_augmentation(recipe.augmentation, recipe.preprocessing)
        self.epoch = 0
        self.batches: list[list[int]] = []

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, number: int) -> Batch:
        rows = self.batches[number]
        crops = torch.from_numpy(np.stack([self.cache.crop(row) for row in rows]))
        seed = step_seed(self.recipe.seed, self.epoch, number)
        crops = augment(crops.permute(0, 3, 1, 2), self.transform, seed).permute(0, 2, 3, 1)
        sources = [self.records[row].source for row in rows]
        labels = torch.from_numpy(self.labels[rows])
        return Batch(crops, labels, torch.tensor(rows), sources)


class CropCache:
    """Decoded and resized crops, kept until the given memory is full, decoded anew beyond it."""

    def __init__(self, records: Sequence[CropRecord], recipe: Recipe) -> None:
        self._records, self._preprocessing = records, recipe.decoded
        self._room = recipe.cache_megabytes * 1_000_000
        self._kept: dict[int, NDArray[np.uint8]] = {}

    def crop(self, row: int) -> NDArray[np.uint8]:
        """The crop of one record, `(h, w, 3)` uint8, before augmentation."""
        kept = self._kept.get(row)
        if kept is not None:
            return kept
        crop = self._preprocessing.resize(self._records[row].decode())
        if crop.nbytes <= self._room:
            self._room -= crop.nbytes
            self._kept[row] = crop
        return crop


def step_seed(seed: int, epoch: int, step: int) -> int:
    """The seed of everything random in one step."""
    return int(np.random.SeedSequence((seed, epoch, step)).generate_state(1, np.uint32)[0])


def load_batches(
    dataset: BatchesOfOneEpoch, epoch: int, batches: list[list[int]], first: int, workers: int
) -> Iterator[Batch]:
    """The batches of an epoch from number `first` on, in order."""
    dataset.epoch, dataset.batches = epoch, batches
    remaining = range(first, len(batches))
    yield from DataLoader(dataset, batch_size=None, sampler=remaining, num_workers=workers)
