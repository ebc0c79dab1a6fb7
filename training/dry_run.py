"""The cost of a run, estimated from a few of its steps; nothing is written."""

from __future__ import annotations

import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial

import torch
from pydantic import BaseModel, ConfigDict
from torch.autograd.graph import saved_tensors_hooks

from training.batches import worker_count
from training.cost import Cost, embedder_cost, pair_cost
from training.datasets.record import CropRecord
from training.papers import PaperRow, paper_rows
from training.run import Run
from training.step import TrainingStep, autocast_type

TIMED_STEPS = 3


class DomainSize(BaseModel):
    """How much of one domain is trained on."""

    model_config = ConfigDict(frozen=True)

    crops: int
    identities: int


class RunEstimate(BaseModel):
    """The estimated cost of a run.

    Attributes:
        recipe: its name.
        device, precision: where and in what the steps were computed.
        processes: how many train together.
        domains: what is trained on.
        steps_per_epoch, epochs, steps: the run's length.
        crops_in_epoch: how many of the crops an epoch shows; the next one shows others.
        single_crop_identities: people with one crop; they are left out.
        embedder, metric_network: their cost; M-Net's is for one pair.
        published: rows of a paper on this recipe with the costs that it reports.
        seconds_per_step: the median of a few steps after a first one, whose memory is set up.
        seconds_to_read: for reading all crops once, or as often as they do not fit into memory.
        seconds: of the whole run, without the measurement at its end.
        memory_bytes: the largest amount this process has had, and the crops it is to keep; measured
            with a part of a batch, what the whole one's tensors take.
        gpu_memory_bytes: the largest amount allocated on the GPU; None without one.
    """

    model_config = ConfigDict(frozen=True)

    recipe: str
    device: str
    precision: str
    processes: int
    domains: dict[str, DomainSize]
    steps_per_epoch: int
    epochs: int
    steps: int
    crops_in_epoch: int
    single_crop_identities: int
    embedder: Cost
    metric_network: Cost
    published: tuple[PaperRow, ...]
    seconds_per_step: float
    seconds_to_read: float
    seconds: float
    memory_bytes: int
    gpu_memory_bytes: int | None


def estimate_run(run: Run, identities: int | None = None) -> RunEstimate:
    """Trains a few steps in memory and estimates the whole run's cost.

    Args:
        run: what `prepare_run` built; its networks are spent.
        identities: how many of a batch's identities the steps are measured with, where a whole
            batch takes minutes or more memory than there is; time and memory are then taken to
            grow with the crops. None measures whole batches.

    Raises:
        InputProblem: as the run itself would.
    """
    recipe = run.recipe
    order = run.sampler.epoch(0)
    step = TrainingStep(run)
    run.networks.train()
    crops = (identities or recipe.sampling.identities) * recipe.sampling.images
    scale = max(1.0, len(order[0]) / crops)
    seconds = []
    reading = []
    if run.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    had = _largest_memory()
    saved = _SavedTensors()
    for number in range(1 + TIMED_STEPS):
        rows = order[number % len(order)][:crops]
        began = time.perf_counter()
        batch = run.batches.make(0, number, rows, run.processes)
        if number < len(order):
            reading.append((time.perf_counter() - began) / len(batch.crops))
        with saved if identities and number == 0 else nullcontext():
            seconds.append(_time(partial(step.train, batch, number), run.device))
    per_step = scale * statistics.median(seconds[1:])
    memory = _largest_memory()
    if identities:
        numbers = sum(one.nbytes for one in run.networks.parameters())
        # Gradients and two moments of Adam; what backward needs grows with the crops.
        memory = had + 3 * numbers + int(scale * saved.bytes)
    epochs = recipe.optimisation.epochs
    crop_bytes = 3 * recipe.decoded.height * recipe.decoded.width
    kept = min(len(run.records), recipe.cache_megabytes * 1_000_000 // crop_bytes)
    read = kept + (len(run.records) - kept) * epochs
    workers = worker_count(recipe.workers, run.device, run.processes)
    to_read = statistics.median(reading) * read / max(workers, 1) / run.processes.count
    return RunEstimate(
        recipe=recipe.name,
        device=str(run.device),
        precision=str(autocast_type(recipe, run.device)).removeprefix("torch."),
        processes=run.processes.count,
        domains=domain_sizes(run.records),
        steps_per_epoch=len(order),
        epochs=epochs,
        steps=len(order) * epochs,
        crops_in_epoch=run.sampler.crops_per_epoch(0),
        single_crop_identities=run.sampler.single_crop_identities,
        embedder=embedder_cost(recipe.embedder, recipe.preprocessing),
        metric_network=pair_cost(recipe.embedder.dimension, recipe.metric_network),
        published=tuple(
            row
            for row in paper_rows()
            if row.recipe == recipe.name and row.parameters_millions is not None
        ),
        seconds_per_step=per_step,
        seconds_to_read=to_read,
        seconds=per_step * len(order) * epochs + to_read,
        memory_bytes=memory + kept * crop_bytes,
        gpu_memory_bytes=(torch.cuda.max_memory_allocated() if run.device.type == "cuda" else None),
    )


class _SavedTensors(saved_tensors_hooks):
    """Counts the bytes of all tensors that autograd keeps for the backward pass."""

    def __init__(self) -> None:
        self._storages: dict[int, int] = {}
        super().__init__(self._keep, lambda tensor: tensor)

    @property
    def bytes(self) -> int:
        return sum(self._storages.values())

    def _keep(self, tensor: torch.Tensor) -> torch.Tensor:
        if not tensor.is_leaf:
            storage = tensor.untyped_storage()
            self._storages[storage.data_ptr()] = storage.nbytes()
        return tensor


def domain_sizes(records: Sequence[CropRecord]) -> dict[str, DomainSize]:
    """Crops and identities by domain."""
    found: dict[str, list[CropRecord]] = {}
    for record in records:
        found.setdefault(record.domain, []).append(record)
    return {
        name: DomainSize(crops=len(own), identities=len({record.person for record in own}))
        for name, own in sorted(found.items())
    }


def _time(work: Callable[[], object], device: torch.device) -> float:
    began = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def _largest_memory() -> int:
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # macOS counts bytes, Linux KiB.
    return largest if sys.platform == "darwin" else 1024 * largest
