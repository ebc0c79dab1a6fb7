"""Checkpoints that are either whole or absent."""

from __future__ import annotations

import os
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from model.problems import InputProblem
from training.objective import TrainedNetworks
from training.recipe import Recipe

FILE_NAME = "checkpoint.pt"


@dataclass(frozen=True)
class Progress:
    """Where a run stands: the next step to do, `step` within `epoch`, both counted from 0."""

    epoch: int = 0
    step: int = 0


def save_checkpoint(
    run: Path,
    networks: TrainedNetworks,
    optimiser: torch.optim.Optimizer,
    progress: Progress,
    identity: dict[str, Any],
) -> None:
    """Replaces the run's checkpoint once the new one is on disk.

    Args:
        identity: what a resumed run must share: the recipe and the data's digest.
    """
    beside = run / f".{FILE_NAME}.tmp"
    with beside.open("wb") as file:
        torch.save(
            {
                "networks": networks.state_dict(),
                "optimiser": optimiser.state_dict(),
                "epoch": progress.epoch,
                "step": progress.step,
                "identity": identity,
            },
            file,
        )
        file.flush()
        os.fsync(file.fileno())
    beside.replace(run / FILE_NAME)


def load_checkpoint(
    run: Path,
    networks: TrainedNetworks,
    optimiser: torch.optim.Optimizer,
    identity: dict[str, Any],
) -> Progress:
    """Continues where the run stopped; a run without a checkpoint starts from the beginning.

    Raises:
        InputProblem: when the checkpoint is damaged, or belongs to another recipe or other data.
    """
    path = run / FILE_NAME
    if not path.exists():
        return Progress()
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        raise InputProblem(
            f"{path}: damaged ({type(error).__name__}); delete it to start the run afresh"
        ) from error
    found = state["identity"]
    # A setting that is newer than the checkpoint had its default then.
    found["recipe"] = Recipe.model_validate(found["recipe"]).model_dump(mode="json")
    for part, value in identity.items():
        if found.get(part) != value:
            raise InputProblem(
                f"{path}: was made with another {part}; resume with the same one, or train into "
                "another --out"
            )
    networks.load_state_dict(state["networks"])
    optimiser.load_state_dict(state["optimiser"])
    return Progress(state["epoch"], state["step"])
