"""`gmn bench train`: a step of the trainer against a bare forward and backward pass.

The bare pass has the same networks and the same loss, on tensors that are drawn on the device
beforehand. The trainer's step has all the rest: crops from memory, augmentation, the optimiser, the
watch for divergence, the log. Both are taken in turn within one real run.
"""

from __future__ import annotations

import contextlib
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from bench.result import ROUNDS, BenchResult, compare
from model.precision import choose_device
from training.datasets.synthetic import draw_people
from training.objective import loss_terms
from training.recipe import read_recipe
from training.run import Run, prepare_run
from training.step import autocast_type, total
from training.trainer import train

# The bare pass has no optimiser and no data: 1.1 times its time is what a step may take on a CPU.
REACH = {"cpu": 1 / 1.1, "cuda": 0.9}
RECIPES = {"cpu": "small-gmn", "cuda": "gmn-r50"}
STEPS_A_ROUND = {"cpu": 4, "cuda": 40}
SETTLING_STEPS = 8


class EnoughError(Exception):
    """Ends the run once everything is measured."""


def bench_train(device: str = "auto") -> BenchResult:
    """Crops a second, the trainer's divided by the bare pass's.

    Args:
        device: `auto`, `cpu` or `cuda`.

    Raises:
        InputProblem: when there is no such device.
    """
    chosen = choose_device(device)
    settings = ["initial_weights=none", "optimisation.epochs=1000"]
    recipe = read_recipe(RECIPES[chosen.type], settings)
    crops = draw_people(5, 8, 2 * recipe.sampling.identities).records
    with tempfile.TemporaryDirectory() as folder:
        run = prepare_run(recipe, crops, Path(folder), device_name=chosen.type)
        sides = time_rounds(run, STEPS_A_ROUND[chosen.type])
    size = recipe.sampling.identities * recipe.sampling.images
    details = {
        "recipe": recipe.name,
        "device": str(chosen),
        "precision": str(autocast_type(recipe, chosen)).removeprefix("torch."),
        "crops_a_step": size,
    }
    for name, seconds in zip(("trainer", "bare"), map(statistics.median, sides), strict=True):
        details[f"{name}_step_ms"] = round(1000 * seconds, 2)
        details[f"{name}_crops_per_second"] = round(size / seconds, 1)
    ours, theirs = ([size / one for one in side] for side in sides)
    return compare("train", ours, theirs, REACH[chosen.type], details)


def time_rounds(
    run: Run, steps: int, rounds: int = ROUNDS, settling: int = SETTLING_STEPS
) -> tuple[list[float], list[float]]:
    """Trains, and times some steps of the trainer, then as many bare ones, by turns.

    Returns:
        Seconds a step, the trainer's and the bare ones', one figure per round.
    """
    bare = _bare_step(run)
    ours: list[float] = []
    theirs: list[float] = []

    def now() -> float:
        if run.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def turns() -> Iterator[None]:
        """Goes on after each of the trainer's steps."""
        for _ in range(settling):
            yield
            bare()
        for _ in range(rounds):
            began = now()
            for _ in range(steps):
                yield
            between = now()
            for _ in range(steps):
                bare()
            ours.append((between - began) / steps)
            theirs.append((now() - between) / steps)
        raise EnoughError

    turn = turns()
    with contextlib.suppress(EnoughError):
        train(run, lambda *_: next(turn))
    return ours, theirs


def _bare_step(run: Run) -> Callable[[], None]:
    """Forward, loss and backward on a drawn batch; the weights stay as they are."""
    recipe, networks, size = run.recipe, run.networks, run.recipe.preprocessing
    count = recipe.sampling.identities * recipe.sampling.images
    images = torch.randn(count, 3, size.height, size.width, device=run.device)
    images = images.to(memory_format=torch.channels_last)
    labels = torch.arange(recipe.sampling.identities, device=run.device)
    labels = labels.repeat_interleave(recipe.sampling.images)
    kind = autocast_type(recipe, run.device)

    def step() -> None:
        networks.zero_grad(set_to_none=True)
        with torch.autocast(run.device.type, dtype=kind, enabled=kind is not torch.float32):
            features = networks.embedder.features(images)
        torch.autograd.backward(total(loss_terms(networks, features, labels, recipe.losses)))

    return step
