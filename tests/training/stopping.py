"""A run beside one that is stopped and resumed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from training.datasets.record import CropRecord
from training.recipe import Recipe
from training.run import prepare_run
from training.train import train_networks


def weights_whole_and_resumed(
    recipe: Recipe, records: Sequence[CropRecord], folder: Path, stop_after: int
) -> list[dict[str, torch.Tensor]]:
    """The last weights of a run in `folder / "whole"`, and of one stopped after some steps."""

    def stop(done: int, *_: object) -> None:
        if done == stop_after:
            raise KeyboardInterrupt

    weights = []
    for name in ("whole", "resumed"):
        place = folder / name
        place.mkdir()
        if name == "resumed":
            with pytest.raises(KeyboardInterrupt):
                train_networks(prepare_run(recipe, records, place), stop)
        run = prepare_run(recipe, records, place)
        train_networks(run, lambda *_: None)
        weights.append(run.networks.state_dict())
    return weights
