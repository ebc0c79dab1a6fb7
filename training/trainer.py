"""The training loop: from records to trained networks, resumable at any checkpoint."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from model.embedder import Embedder
from model.metric_network import MetricNetwork
from model.precision import choose_device, choose_dtype
from model.problems import InputProblem
from training.checkpoint import Progress, load_checkpoint, save_checkpoint
from training.datasets.record import CropRecord
from training.loader import Batch, BatchesOfOneEpoch, CropCache, load_batches, step_seed
from training.objective import (
    Lesson,
    TrainedNetworks,
    gradient_norms,
    inactive_terms,
    loss_terms,
)
from training.recipe import Recipe
from training.run_log import RunLog
from training.sampler import PKSampler
from training.schedule import build_optimiser, learning_rate, set_learning_rate
from training.teachers import Teacher, read_teachers

Report = Callable[[int, int, dict[str, float]], None]


@dataclass
class Run:
    """One training run and everything that its steps share."""

    recipe: Recipe
    records: Sequence[CropRecord]
    folder: Path
    device: torch.device
    networks: TrainedNetworks
    optimiser: torch.optim.Optimizer
    sampler: PKSampler
    batches: BatchesOfOneEpoch
    teachers: Sequence[Teacher] = ()

    @property
    def identity(self) -> dict[str, object]:
        """What a resumed run must have in common with its checkpoint."""
        return {
            "recipe": self.recipe.model_dump(mode="json"),
            "data": data_digest(self.records),
        }


def prepare_run(recipe: Recipe, records: Sequence[CropRecord], folder: Path) -> Run:
    """Builds networks, optimiser and sampler.

    Raises:
        InputProblem: when the data does not fill a batch or the initial weights do not fit.
    """
    device = choose_device("auto")
    sampler = PKSampler(
        records, recipe.sampling.identities, recipe.sampling.images, seed=recipe.seed
    )
    people = sorted({record.person for record in records})
    index = {person: label for label, person in enumerate(people)}
    labels = np.array([index[record.person] for record in records], dtype=np.int64)
    teachers = read_teachers(recipe.distillation.features, records)
    torch.manual_seed(recipe.seed)
    networks = TrainedNetworks(
        Embedder(recipe.embedder, recipe.initial_weights),
        MetricNetwork(recipe.embedder.dimension, recipe.metric_network),
        len(people),
        [teacher.dimension for teacher in teachers],
    )
    networks = networks.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    batches = BatchesOfOneEpoch(records, labels, recipe, CropCache(records, recipe))
    optimiser = build_optimiser(networks, recipe.optimisation)
    return Run(recipe, records, folder, device, networks, optimiser, sampler, batches, teachers)


def data_digest(records: Sequence[CropRecord]) -> str:
    """A digest of the list of training crops: names and labels, not pixels."""
    digest = hashlib.sha256()
    for record in records:
        digest.update(f"{record.source}\0{record.identity}\0{record.camera}\n".encode())
    return digest.hexdigest()


def train(run: Run, report: Report) -> None:
    """Trains to the recipe's last epoch, from the run's checkpoint where there is one.

    Args:
        run: what `prepare_run` built; its networks are trained in place.
        report: called after every step with steps done, steps in all, and the loss terms.
    """
    recipe = run.recipe
    progress = load_checkpoint(run.folder, run.networks, run.optimiser, run.identity)
    with RunLog(run.folder) as log:
        for epoch in range(progress.epoch, recipe.optimisation.epochs):
            order = run.sampler.epoch(epoch)
            first = progress.step if epoch == progress.epoch else 0
            _train_epoch(run, log, epoch, order, first, report)
            save_checkpoint(
                run.folder, run.networks, run.optimiser, Progress(epoch + 1), run.identity
            )


def _train_epoch(
    run: Run, log: RunLog, epoch: int, order: list[list[int]], first: int, report: Report
) -> None:
    recipe = run.recipe
    run.networks.train()
    start = recipe.losses.perturbation_from_epoch
    run.networks.metric_network.perturb(start is not None and epoch >= start)
    began = time.perf_counter()
    loader = load_batches(run.batches, epoch, order, first, recipe.workers)
    for step, batch in enumerate(loader, start=first):
        moment = epoch + step / len(order)
        rate = learning_rate(recipe.optimisation, moment)
        set_learning_rate(run.optimiser, rate)
        torch.manual_seed(step_seed(recipe.seed, epoch, step) ^ 0x5EED)
        done = epoch * len(order) + step
        logged = done % recipe.log_every_steps == 0
        values, norms = _train_step(run, batch, with_norms=logged)
        if logged:
            crops = (step - first + 1) * len(batch.labels)
            log.write(
                "step",
                done,
                epoch=round(moment, 4),
                learning_rate=rate,
                loss=values,
                gradient_norm=norms,
                inactive=inactive_terms(norms),
                crops_per_second=round(crops / (time.perf_counter() - began), 1),
            )
        report(done + 1, recipe.optimisation.epochs * len(order), values)
        if (step + 1) % recipe.checkpoint_every_steps == 0 and step + 1 < len(order):
            now = Progress(epoch, step + 1)
            save_checkpoint(run.folder, run.networks, run.optimiser, now, run.identity)


def _train_step(
    run: Run, batch: Batch, with_norms: bool
) -> tuple[dict[str, float], dict[str, float]]:
    labels = batch.labels.to(run.device)
    images = run.recipe.preprocessing.normalise(batch.crops.to(run.device))
    dtype = choose_dtype(run.device, run.recipe.precision)
    with torch.autocast(run.device.type, dtype=dtype, enabled=dtype is not torch.float32):
        features = run.networks.embedder.features(images)
    taught = [teacher.features[batch.rows].to(run.device) for teacher in run.teachers]
    lesson = Lesson(taught, run.recipe.distillation)
    terms = loss_terms(run.networks, features, labels, run.recipe.losses, lesson)
    norms = gradient_norms(terms, features.before_neck) if with_norms else {}
    loss = torch.stack(list(terms.values())).sum()
    if not torch.isfinite(loss):
        raise InputProblem(
            f"the loss is {loss.item()} on the batch of {', '.join(batch.sources[:4])}, …; "
            "lower optimisation.learning_rate or set precision=float32"
        )
    run.optimiser.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    run.optimiser.step()
    return {name: float(term.detach()) for name, term in terms.items()}, norms
