"""A run: what its recipe and its data make, and what its steps share."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import nn

from model.embedder import Embedder
from model.folding import folded
from model.precision import choose_device
from model.problems import InputProblem
from training.checkpoint import RunIdentity
from training.datasets.record import CropRecord
from training.distributed import Processes
from training.hard_sampler import build_sampler
from training.identity import run_identity
from training.initial_weights import StartingNetworks, starting_networks
from training.loader import BatchMaker
from training.objective import TrainedNetworks
from training.recipe import Recipe
from training.sampler import PKSampler
from training.schedule import build_optimiser
from training.synchronised_norm import synchronise_norms
from training.teachers import Teacher, ask_teachers


@dataclass
class Run:
    """One training run and everything that its steps share.

    Attributes:
        notes: what was taken over from the initial weights and what was not, a line each.
        anchor: the embedder as it starts, in evaluation mode; None where no loss compares with it.
    """

    recipe: Recipe
    records: Sequence[CropRecord]
    folder: Path
    device: torch.device
    networks: TrainedNetworks
    optimiser: torch.optim.Optimizer
    sampler: PKSampler
    batches: BatchMaker
    teachers: Sequence[Teacher] = ()
    processes: Processes = field(default_factory=Processes)
    notes: tuple[str, ...] = ()
    anchor: nn.Module | None = None

    @cached_property
    def identity(self) -> RunIdentity:
        """What a resumed run must have in common with its checkpoint."""
        return run_identity(self.recipe, self.records)


def prepare_run(
    recipe: Recipe,
    records: Sequence[CropRecord],
    folder: Path,
    processes: Processes | None = None,
    device_name: str = "auto",
) -> Run:
    """Builds networks, optimiser and sampler; writes nothing.

    Args:
        recipe: decides everything but the data.
        records: the training crops.
        folder: where the run will write.
        processes: those that train together; None is this one alone.
        device_name: `auto`, `cpu` or `cuda`.

    Raises:
        InputProblem: when the data does not fill a batch, the batch does not divide among the
            processes, or the initial weights do not fit.
    """
    device, together = choose_device(device_name), processes or Processes()
    together.share(recipe.sampling.identities * recipe.sampling.images)
    sampler = build_sampler(records, recipe)
    people = sorted({record.person for record in records})
    index = {person: label for label, person in enumerate(people)}
    labels = np.array([index[record.person] for record in records], dtype=np.int64)
    cache = Path(recipe.distillation.cache) if recipe.distillation.cache else folder / "teachers"
    teachers = ask_teachers(recipe.distillation.teachers, records, cache, together)
    torch.manual_seed(recipe.seed)
    start = starting_networks(recipe)
    networks = TrainedNetworks(
        start, recipe, len(people), [teacher.dimension for teacher in teachers]
    )
    anchor = _anchor(recipe, start, device)
    networks = networks.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if together.count > 1:
        _share_statistics(networks.embedder, recipe, together, device)
    batches = BatchMaker(records, labels, recipe, device)
    optimiser = build_optimiser(networks, recipe.optimisation)
    return Run(
        recipe,
        records,
        folder,
        device,
        networks,
        optimiser,
        sampler,
        batches,
        teachers,
        together,
        start.notes,
        anchor,
    )


def _anchor(recipe: Recipe, start: StartingNetworks, device: torch.device) -> nn.Module | None:
    """The starting embedder, made to be run only."""
    if not recipe.losses.anchor:
        return None
    if not start.is_whole:
        raise InputProblem(
            f"losses.anchor keeps embeddings near those of initial_weights, and "
            f"{recipe.initial_weights} gives none; set initial_weights to an artefact or to a "
            "run's checkpoint, or losses.anchor=0"
        )
    embedder = copy.deepcopy(start.embedder).eval().requires_grad_(False)
    anchor: nn.Module = folded(embedder, recipe.preprocessing).to(device)
    return anchor.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def _share_statistics(
    embedder: Embedder, recipe: Recipe, processes: Processes, device: torch.device
) -> None:
    """BatchNorm over all processes' crops, but for the neck, which sees the whole batch anyway."""
    regulariser = recipe.losses.gradient_regulariser
    twice = bool(regulariser.weight) and regulariser.form == "penalty"
    neck = embedder.neck
    synchronise_norms(embedder, processes, twice, device)
    embedder.neck = neck
