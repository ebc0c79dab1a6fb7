"""A run: networks, optimiser, sampler and batches, built from a recipe and training crops."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import nn

from model.precision import choose_device
from training.batches import BatchMaker
from training.checkpoint import RunIdentity, run_identity
from training.datasets.record import CropRecord
from training.distributed import ALONE, Processes, synchronise_norms
from training.networks import TrainedNetworks, starting_embedder, starting_networks
from training.optimiser import OPTIMISERS
from training.recipe import Recipe
from training.sampler import PKSampler, build_sampler
from training.teachers import load_teacher_features


@dataclass
class Run:
    """One training run and everything that its steps share.

    Attributes:
        teachers: each teacher's features of the training crops, `(n, t)` of unit length.
        notes: a line for each part that was, or was not, taken over from the initial weights.
        anchor: a frozen copy of the initial embedder; None unless a loss compares with it.
    """

    recipe: Recipe
    records: Sequence[CropRecord]
    folder: Path
    device: torch.device
    networks: TrainedNetworks
    optimiser: torch.optim.Optimizer
    sampler: PKSampler
    batches: BatchMaker
    teachers: Sequence[torch.Tensor] = ()
    processes: Processes = ALONE
    notes: tuple[str, ...] = ()
    anchor: nn.Module | None = None

    @cached_property
    def identity(self) -> RunIdentity:
        """The settings and data that a checkpoint must have in common with the run."""
        return run_identity(self.recipe, self.records)


def prepare_run(
    recipe: Recipe,
    records: Sequence[CropRecord],
    folder: Path,
    processes: Processes = ALONE,
    device_name: str = "auto",
) -> Run:
    """Build networks, optimiser and sampler; write nothing.

    Args:
        recipe: all settings of the run.
        records: the training crops.
        folder: where the run will write.
        processes: the processes that train together.
        device_name: `auto`, `cpu` or `cuda`.

    Raises:
        InputProblem: the data do not fill a batch, the batch cannot be shared evenly by the
            processes, or the initial weights do not fit.
    """
    device = choose_device(device_name)
    processes.local_slice(recipe.sampling.identities * recipe.sampling.images)
    sampler = build_sampler(records, recipe.sampling, recipe.seed)
    cache = Path(recipe.distillation.cache) if recipe.distillation.cache else folder / "teachers"
    teachers = load_teacher_features(recipe.distillation.teachers, records, cache, processes)
    torch.manual_seed(recipe.seed)
    start = starting_networks(recipe)
    networks = TrainedNetworks(
        start,
        recipe,
        len({record.person for record in records}),
        [features.shape[1] for features in teachers],
    )
    anchor = starting_embedder(recipe, start, device) if recipe.losses.need("start") else None
    networks = networks.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if processes.count > 1:
        # The neck keeps its BatchNorm: it is given the gathered features of the whole batch.
        neck = networks.embedder.neck
        differentiated_twice = recipe.losses.need("terms")
        synchronise_norms(networks.embedder, processes, differentiated_twice, device)
        networks.embedder.neck = neck
    optimisation = recipe.optimisation
    build = OPTIMISERS[optimisation.optimiser.name].build
    return Run(
        recipe=recipe,
        records=records,
        folder=folder,
        device=device,
        networks=networks,
        optimiser=build(networks.parameter_groups(optimisation), optimisation),
        sampler=sampler,
        batches=BatchMaker(records, recipe, device),
        teachers=teachers,
        processes=processes,
        notes=start.notes,
        anchor=anchor,
    )
