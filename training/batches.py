"""Batches of augmented crops, with a cache of decoded crops."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from model.arrays import Pixels
from model.preprocessing import Preprocessing
from training.augmentation import Augmenter, Draws
from training.datasets.record import CropRecord
from training.distributed import ALONE, Processes
from training.recipe import Recipe
from training.sampler import CropSampler, Sampling

# More threads would only wait for the interpreter's lock.
MOST_WORKERS = 16


class Batch(NamedTuple):
    """A batch of B crops; this process embeds b of them, its share.

    Attributes:
        crops: the share's crops, cut but not yet recoloured, `(b, h, w, 3)` uint8, on the CPU.
        draws: the random numbers by which augmentation changes the share.
        labels: labels of the whole batch, `(B,)` int64.
        rows: indices of the whole batch's crops among the training records, `(B,)` int64.
        sources: sources of the whole batch's crops.
    """

    crops: Tensor
    draws: Draws
    labels: Tensor
    rows: Tensor
    sources: list[str]


class BatchMaker:
    """Makes the batches of a run.

    A batch depends on the recipe's seed, the epoch and the batch's number alone. A resumed run and
    several processes together therefore see the batches of an uninterrupted run of one process.
    People are labelled from 0 in the order of their names.
    """

    def __init__(
        self,
        records: Sequence[CropRecord],
        recipe: Recipe,
        device: torch.device,
    ) -> None:
        people = sorted({record.person for record in records})
        label_of = {person: label for label, person in enumerate(people)}
        labels = [label_of[record.person] for record in records]
        self._labels = torch.tensor(labels)
        self._recipe = recipe
        self._records = records
        self._augmenter = Augmenter(recipe.augmentation, recipe.preprocessing)
        self._cache = CropCache(records, recipe.decoded, recipe.cache_megabytes)
        self.device = device
        self.workers = recipe.workers

    def make(
        self,
        epoch: int,
        number: int,
        rows: list[int],
        processes: Processes = ALONE,
    ) -> Batch:
        """Decode a process's share of a batch, draw its augmentation, and cut its crops."""
        share = processes.local_slice(len(rows))
        seed = step_seed(self._recipe.seed, epoch, number)
        draws = self._augmenter.draw(len(rows), seed, share)
        whole_crops = [self._cache.crop(row) for row in rows[share]]
        crops = self._augmenter.cut(whole_crops, draws)
        labels = self._labels[rows]
        if self.device.type == "cuda":
            # A copy to the GPU runs beside other work only from pinned memory.
            crops = crops.pin_memory()
            labels = labels.pin_memory()
            draws = {name: numbers.pin_memory() for name, numbers in draws.items()}
        sources = [self._records[row].source for row in rows]
        return Batch(crops, draws, labels, torch.tensor(rows), sources)

    def plain_images(self, count: int) -> Iterator[Tensor]:
        """Yield images of P × K crops in the recipe's usual order, for BatchNorm statistics.

        They are the first batches of the epoch after the last one, on the device.
        """
        recipe = self._recipe
        epoch = recipe.optimisation.epochs
        plain = Sampling(identities=recipe.sampling.identities, images=recipe.sampling.images)
        order = CropSampler(self._records, plain, recipe.seed).epoch(epoch)[:count]
        for batch in load_batches(self, epoch, order):
            yield self.images(batch)

    def images(self, batch: Batch) -> Tensor:
        """Return the share as the network's input, `(b, 3, h, w)` float32, on the device."""
        crops = batch.crops.to(self.device, non_blocking=True)
        recoloured = self._augmenter.recolour(crops, batch.draws)
        return self._recipe.preprocessing.normalise(recoloured)


class CropCache:
    """A cache of decoded and resized crops. Crops that no longer fit are decoded each time."""

    def __init__(
        self,
        records: Sequence[CropRecord],
        decoded: Preprocessing,
        megabytes: int,
    ) -> None:
        self._records = records
        self._preprocessing = decoded
        self._room = megabytes * 1_000_000
        self._crops: dict[int, Pixels] = {}
        self._lock = threading.Lock()

    def crop(self, row: int) -> Pixels:
        """Return the crop of one record, `(H, W, 3)` uint8, before augmentation."""
        crop = self._crops.get(row)
        if crop is not None:
            return crop
        crop = self._preprocessing.resize(self._records[row].decode())
        with self._lock:
            if crop.nbytes <= self._room and row not in self._crops:
                self._room -= crop.nbytes
                self._crops[row] = crop
        return crop


def step_seed(
    seed: int,
    epoch: int,
    step: int,
) -> int:
    """Derive the seed of one step, which depends on these numbers alone."""
    sequence = np.random.SeedSequence((seed, epoch, step))
    return int(sequence.generate_state(1, np.uint32)[0])


def worker_count(
    workers: int | None,
    device: torch.device,
    processes: Processes,
) -> int:
    """Return the number of threads that prepare batches in advance.

    Args:
        workers: the recipe's number. None is 0 on a CPU, where the training takes all processors,
            and for a GPU this process's share of the processors, `MOST_WORKERS` at most.
        device: the device of the networks.
        processes: the processes that train together.
    """
    if workers is not None:
        return workers
    if device.type == "cpu":
        return 0
    return max(1, min((os.cpu_count() or 1) // processes.count, MOST_WORKERS))


def load_batches(
    maker: BatchMaker,
    epoch: int,
    batches: list[list[int]],
    first: int = 0,
    processes: Processes = ALONE,
) -> Iterator[Batch]:
    """Yield the batches of an epoch from number `first` on, in order.

    Args:
        maker: makes the batches.
        epoch: number of the epoch.
        batches: the rows of every batch of the epoch.
        first: number of the first batch to make.
        processes: the processes that share a batch.
    """
    workers = worker_count(maker.workers, maker.device, processes)
    numbers = range(first, len(batches))
    if workers == 0:
        for number in numbers:
            yield maker.make(epoch, number, batches[number], processes)
        return
    with ThreadPoolExecutor(workers, thread_name_prefix="batches") as pool:
        ahead: deque[Future[Batch]] = deque()
        try:
            for number in numbers:
                ahead.append(pool.submit(maker.make, epoch, number, batches[number], processes))
                if len(ahead) > 2 * workers:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            for future in ahead:
                future.cancel()
