"""The part of `bench.gpu_check` about the trainer: a step on the device and on the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

from bench.gpu_measuring import Check, Row
from training.batches import Batch
from training.datasets.drawn import draw_people
from training.recipe import read_recipe
from training.run import prepare_run
from training.step import TrainingStep, gradients_of

# The second one differentiates twice.
RECIPES = ("gmn-r50", "msfl-msgr-r50")
TINY_RECIPES = ("quick",)
PRECISIONS = ("float32", "bfloat16", "float16")


def step(check: Check) -> Iterator[Row]:
    """Compare the gradient of a recipe's first step with the CPU's, and measure the step."""
    for recipe in TINY_RECIPES if check.is_tiny else RECIPES:
        _, _, expected = _first_step(recipe, "float32", "cpu")
        for precision in PRECISIONS[:1] if check.is_tiny else PRECISIONS:
            training, batch, gradient = _first_step(recipe, precision, check.device)
            difference = float((gradient - expected).norm() / expected.norm())
            crops = len(batch.labels)
            figures = {
                "gradient, relative difference": float(f"{difference:.2e}"),
                "crops/s": check.rate(crops, training.train, batch, 0),
            }
            yield Row(f"{recipe}, {precision}, {crops} crops", figures)


def _first_step(
    recipe_name: str, precision: str, device: str
) -> tuple[TrainingStep, Batch, torch.Tensor]:
    """Return the first step of a run, its batch, and its gradient as a vector on the CPU."""
    recipe = read_recipe(recipe_name, ["initial_weights=none", f"precision={precision}"])
    records = draw_people(5, 2, 2 * recipe.sampling.identities).records
    # The folder would hold teachers, which these recipes do not have.
    run = prepare_run(recipe, records, Path(), device_name=device)
    run.networks.train()
    batch = run.batches.make(0, 0, run.sampler.epoch(0)[0])
    training = TrainingStep(run)
    training.gradients(batch, seed=1)
    gradients = [
        gradient.flatten().float().cpu() for gradient in gradients_of(run.networks.parameters())
    ]
    return training, batch, torch.cat(gradients)
