"""Finds the people who look alike, by the networks as they are before an epoch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from model.precision import choose_dtype
from training.evaluation.embedding import embed_records
from training.hard_sampler import HardSampler
from training.run import Run


def refresh_neighbours(run: Run, epoch: int) -> None:
    """Finds each person's nearest others, where the run's sampler needs them before an epoch.

    Leaves the networks in evaluation mode.

    Raises:
        InputProblem: naming the crop that cannot be read.
    """
    if isinstance(run.sampler, HardSampler) and run.sampler.is_due(epoch):
        run.networks.eval()
        run.sampler.find(lambda rows: _embed(run, rows))


def _embed(run: Run, rows: Sequence[int]) -> NDArray[np.float32]:
    """Features of training crops, of which each process embeds its share."""
    count = run.processes.count
    padded = [*rows, *[rows[0]] * (-len(rows) % count)]
    own = [run.records[row] for row in padded[run.processes.share(len(padded))]]
    precision = run.recipe.precision
    half = precision != "float16" and choose_dtype(run.device, precision) is torch.bfloat16
    size = run.recipe.preprocessing
    features = embed_records(run.networks.embedder, size, own, bfloat16=half)
    gathered = run.processes.gather(torch.from_numpy(features).to(run.device))
    return np.asarray(gathered[: len(rows)].cpu().numpy())
