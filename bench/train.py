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
from pathlib import Path

import torch

from bench.result import BenchResult, compare
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
ROUNDS = 5


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
        rounds = Rounds(run, STEPS_A_ROUND[chosen.type])
        with contextlib.suppress(EnoughError):
            train(run, rounds.after_step)
    size = recipe.sampling.identities * recipe.sampling.images
    details = {
        "recipe": recipe.name,
        "device": str(chosen),
        "precision": str(autocast_type(recipe, chosen)).removeprefix("torch."),
        "crops_a_step": size,
        "trainer_step_ms": round(1000 * statistics.median(rounds.ours), 2),
        "bare_step_ms": round(1000 * statistics.median(rounds.theirs), 2),
        "trainer_crops_per_second": round(size / statistics.median(rounds.ours), 1),
        "bare_crops_per_second": round(size / statistics.median(rounds.theirs), 1),
    }
    ours, theirs = ([size / one for one in side] for side in (rounds.ours, rounds.theirs))
    return compare("train", ours, theirs, REACH[chosen.type], details)


class Rounds:
    """Times some steps of the trainer, then as many bare ones, by turns.

    Attributes:
        ours, theirs: seconds a step, one figure per round.
    """

    def __init__(
        self, run: Run, steps: int, rounds: int = ROUNDS, settling: int = SETTLING_STEPS
    ) -> None:
        self._run, self._steps, self._rounds = run, steps, rounds
        self._bare = BareStep(run)
        self._settled = False
        self._settling = self._left = settling
        self._began = 0.0
        self.ours: list[float] = []
        self.theirs: list[float] = []

    def after_step(self, _done: int, _total: int, _values: dict[str, float]) -> None:
        """Is called by the trainer after each of its steps."""
        self._left -= 1
        if self._left:
            return
        if self._settled:
            self.ours.append(self._seconds_since(self._began))
        for _ in range(0 if self._settled else self._settling):
            self._bare()
        self._synchronise()
        began = time.perf_counter()
        for _ in range(self._steps):
            self._bare()
        if self._settled:
            self.theirs.append(self._seconds_since(began))
        if len(self.theirs) == self._rounds:
            raise EnoughError
        self._synchronise()
        self._settled, self._left = True, self._steps
        self._began = time.perf_counter()

    def _seconds_since(self, began: float) -> float:
        self._synchronise()
        return (time.perf_counter() - began) / self._steps

    def _synchronise(self) -> None:
        if self._run.device.type == "cuda":
            torch.cuda.synchronize()


class BareStep:
    """Forward, loss and backward on a drawn batch."""

    def __init__(self, run: Run) -> None:
        recipe, self._run = run.recipe, run
        count = recipe.sampling.identities * recipe.sampling.images
        size = recipe.preprocessing
        self._images = torch.randn(count, 3, size.height, size.width, device=run.device).to(
            memory_format=torch.channels_last
        )
        labels = torch.arange(recipe.sampling.identities, device=run.device)
        self._labels = labels.repeat_interleave(recipe.sampling.images)
        self._type = autocast_type(recipe, run.device)

    def __call__(self) -> None:
        """Computes gradients, and leaves the weights as they are."""
        networks, recipe = self._run.networks, self._run.recipe
        networks.zero_grad(set_to_none=True)
        cast = self._type is not torch.float32
        with torch.autocast(self._run.device.type, dtype=self._type, enabled=cast):
            features = networks.embedder.features(self._images)
        terms = loss_terms(networks, features, self._labels, recipe.losses)
        torch.autograd.backward(total(terms))
