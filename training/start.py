"""What a run starts from where that is more than a backbone: an artefact or a run's checkpoint."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ValidationError

from model.architecture import EmbedderConfig, MetricNetworkConfig
from model.artefact import load_artefact, resolve_artefact
from model.calibration import Calibration
from model.embedder import Embedder
from model.metric_network import MetricNetwork
from model.preprocessing import Preprocessing
from model.problems import InputProblem

WORDS = ("none", "torchvision", "timm")


@dataclass(frozen=True)
class Start:
    """Trained networks that a run starts from.

    Attributes:
        name: of the file.
        preprocessing: what the embedder's input is.
        embedder, metric_network: in evaluation mode; no M-Net where there is none.
        left_behind: parts of the file that no other run can use.
        calibration: of its scores; None of a checkpoint.
    """

    name: str
    preprocessing: Preprocessing
    embedder: Embedder
    metric_network: MetricNetwork | None
    left_behind: tuple[str, ...] = ()
    calibration: Calibration | None = None


def names_no_file(initial_weights: str) -> bool:
    """Return whether these are no weights or a download, such as `torchvision:IMAGENET1K_V1`."""
    return initial_weights.partition(":")[0] in WORDS


def read_start(initial_weights: str) -> Start | None:
    """Return the networks that a recipe's `initial_weights` names.

    Args:
        initial_weights: an artefact by its name or file, or a run's checkpoint; anything else is
            of a backbone.

    Returns:
        The networks, or None for what is of a backbone.

    Raises:
        InputProblem: for an artefact or a checkpoint that cannot be read.
    """
    if names_no_file(initial_weights):
        return None
    path = resolve_artefact(initial_weights)
    return _from_artefact(path) if path.suffix == ".safetensors" else _from_checkpoint(path)


def sections_of(initial_weights: str) -> dict[str, dict[str, Any]]:
    """Return the sections of a recipe that continues from an artefact or a checkpoint.

    Empty for what is of a backbone, and for a file that is not there: a recipe can be read without
    the files that its run needs.

    Raises:
        InputProblem: for an artefact or a checkpoint that cannot be read.
    """
    if names_no_file(initial_weights) or not resolve_artefact(initial_weights).exists():
        return {}
    start = read_start(initial_weights)
    if start is None:
        return {}
    held: dict[str, BaseModel] = {
        "embedder": start.embedder.config,
        "preprocessing": start.preprocessing,
    }
    if start.metric_network:
        held["metric_network"] = start.metric_network.config
    return {name: section.model_dump(mode="json") for name, section in held.items()}


def _from_artefact(path: Path) -> Start:
    artefact = load_artefact(path)
    about = artefact.description
    return Start(
        path.name,
        about.preprocessing,
        artefact.embedder,
        artefact.metric_network,
        calibration=about.calibration,
    )


def _from_checkpoint(path: Path) -> Start | None:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError):
        # The backbone, which then reads the file, reports what is wrong with it.
        return None
    if not isinstance(state, dict) or not {"networks", "identity"} <= state.keys():
        return None
    recipe = state["identity"]["recipe"]
    networks = artefact_weights(state)
    try:
        # What they would start from is not used; the run draws its own.
        with torch.random.fork_rng(devices=[]):
            embedder = Embedder(EmbedderConfig.model_validate(recipe["embedder"]))
            config = MetricNetworkConfig.model_validate(recipe["metric_network"])
            metric_network = MetricNetwork(embedder.config.dimension, config)
        embedder.load_state_dict(part_of(networks, "embedder"))
        metric_network.load_state_dict(part_of(networks, "metric_network"))
        return Start(
            f"{path.parent.name}/{path.name}",
            Preprocessing.model_validate(recipe["preprocessing"]),
            embedder.eval(),
            metric_network.eval(),
            ("losses, which are of the people or the teachers of that run",)
            if part_of(networks, "losses")
            else (),
        )
    except (ValidationError, RuntimeError) as error:
        raise InputProblem(
            f"{path}: is of another version of this program ({str(error).splitlines()[0]}); start "
            "from the artefact of that run"
        ) from error


def artefact_weights(checkpoint: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """The weights in a checkpoint that an artefact of its run has: averaged ones where it has any.

    Raises:
        KeyError: where it is no checkpoint.
    """
    return {**checkpoint["networks"], **part_of(checkpoint.get("average", {}), "module")}


def part_of(networks: Mapping[str, torch.Tensor], name: str) -> dict[str, torch.Tensor]:
    """Return one network's tensors, such as those of `embedder`, by its own names."""
    start = f"{name}."
    return {
        key.removeprefix(start): tensor for key, tensor in networks.items() if key.startswith(start)
    }
