"""Estimates of a run's cost from a few of its steps; nothing is written."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence

import torch

from training.cost import Cost, embedder_cost, pair_cost
from training.evaluation.results import Result
from training.papers import PaperRow, paper_rows
from training.run import Run
from training.step import TrainingStep, autocast_type

TIMED_STEPS = 3
# The number of people in the small batches of `estimate_step`, and of steps with them.
FEW_PEOPLE = 4
FEW_STEPS = 2


class DomainSize(Result):
    """The number of crops and people that are trained on in one domain."""

    crops: int
    identities: int


class RunEstimate(Result):
    """The estimated cost of a run.

    Attributes:
        recipe: the recipe's name.
        device, precision: the device and the number format of the measured steps.
        processes: the number of processes that train together.
        domains: the size of each domain of the training data.
        steps_per_epoch, epochs, steps: the length of the run.
        crops_in_epoch: the number of different crops in an epoch; the next epoch has others.
        single_crop_identities: the number of people with one crop, who are left out.
        embedder, metric_network: the cost of one crop, and of one pair.
        published: the papers' rows on this recipe, with the costs that they report.
        seconds_per_step: the median of a few steps, including the reading of crops. A first step,
            which allocates memory, is not counted.
        seconds: the time of all steps, without the evaluation at the end.
    """

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
    seconds: float


def estimate_run(run: Run) -> RunEstimate:
    """Train a few steps in memory and estimate the whole run's cost.

    Args:
        run: built by `prepare_run`; its networks are changed by the steps.

    Raises:
        InputProblem: the run itself would fail in its first steps.
    """
    recipe = run.recipe
    domains = {}
    for name in sorted({record.domain for record in run.records}):
        crops = [record for record in run.records if record.domain == name]
        people = {record.person for record in crops}
        domains[name] = DomainSize(crops=len(crops), identities=len(people))
    order = run.sampler.epoch(0)
    per_step = _seconds_per_step(run, order, TIMED_STEPS)
    steps = len(order) * recipe.optimisation.epochs
    return RunEstimate(
        recipe=recipe.name,
        device=str(run.device),
        precision=str(autocast_type(recipe, run.device)).removeprefix("torch."),
        processes=run.processes.count,
        domains=domains,
        steps_per_epoch=len(order),
        epochs=recipe.optimisation.epochs,
        steps=steps,
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
        seconds=per_step * steps,
    )


def estimate_step(run: Run) -> float:
    """Estimate the seconds of a step in less time than `estimate_run`; for many runs.

    On a CPU, where a step takes as long as its crops together, batches of a few people are timed.

    Raises:
        InputProblem: the run itself would fail in its first steps.
    """
    order = run.sampler.epoch(0)
    people = run.sampler.identities
    if run.device.type != "cpu" or run.processes.count > 1 or people <= FEW_PEOPLE:
        return _seconds_per_step(run, order, TIMED_STEPS)
    # The crops of a person are side by side.
    few = [rows[: FEW_PEOPLE * run.sampler.images] for rows in order]
    return _seconds_per_step(run, few, FEW_STEPS) * people / FEW_PEOPLE


def _seconds_per_step(run: Run, batches: Sequence[list[int]], count: int) -> float:
    """Train with `count` batches after a first one, and return their median time."""
    step = TrainingStep(run)
    run.networks.train()
    seconds = []
    for number in range(1 + count):
        began = time.perf_counter()
        batch = run.batches.make(0, number, batches[number % len(batches)], run.processes)
        step.train(batch, number)
        if run.device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[1:])
