"""Trained networks that a run starts from: those of an artefact or of a run's checkpoint."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from model.architecture import EmbedderConfig, MetricNetworkConfig
from model.artefact import load_artefact, resolve_artefact
from model.calibration import Calibration
from model.embedder import Embedder
from model.metric_network import MetricNetwork
from model.preprocessing import Preprocessing
from model.problems import InputProblem

WORDS = ("none", "torchvision", "timm")
Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Start:
    """Trained networks that a run starts from.

    Attributes:
        name: the name of the file.
        preprocessing: the preprocessing of the embedder's input.
        embedder, metric_network: in evaluation mode; no M-Net if the file has none.
        left_behind: the parts of the file that no other run can use, or nothing.
        calibration: the calibration of an artefact's scores; None for a checkpoint.
    """

    name: str
    preprocessing: Preprocessing
    embedder: Embedder
    metric_network: MetricNetwork | None
    left_behind: str = ""
    calibration: Calibration | None = None


def names_no_file(initial_weights: str) -> bool:
    """Return whether these are no weights or a download, such as `torchvision:IMAGENET1K_V1`."""
    return initial_weights.partition(":")[0] in WORDS


def read_start(initial_weights: str) -> Start | None:
    """Read the networks that a recipe's `initial_weights` names.

    Args:
        initial_weights: an artefact by its name or file, or a run's checkpoint; anything else names
            weights of a backbone.

    Returns:
        The networks, or None for weights of a backbone.

    Raises:
        InputProblem: for an artefact or a checkpoint that cannot be read.
    """
    if names_no_file(initial_weights):
        return None
    path = resolve_artefact(initial_weights)
    if path.suffix != ".safetensors":
        return _read_checkpoint(path)
    artefact = load_artefact(path)
    return Start(
        path.name,
        artefact.description.preprocessing,
        artefact.embedder,
        artefact.metric_network,
        calibration=artefact.description.calibration,
    )


def sections_of(initial_weights: str) -> dict[str, dict[str, Any]]:
    """Return the sections of a recipe that continues from an artefact or a checkpoint.

    Empty for weights of a backbone, and for a file that does not exist: a recipe can be read
    without the files that its run needs.

    Raises:
        InputProblem: for an artefact or a checkpoint that cannot be read.
    """
    if names_no_file(initial_weights) or not resolve_artefact(initial_weights).exists():
        return {}
    start = read_start(initial_weights)
    if start is None:
        return {}
    sections = {
        "embedder": start.embedder.config.model_dump(mode="json"),
        "preprocessing": start.preprocessing.model_dump(mode="json"),
    }
    if start.metric_network:
        sections["metric_network"] = start.metric_network.config.model_dump(mode="json")
    return sections


def _read_checkpoint(path: Path) -> Start | None:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError):
        # Loading the file as weights of a backbone then reports the error.
        return None
    if not isinstance(state, dict) or not {"networks", "identity"} <= state.keys():
        return None
    recipe = state["identity"]["recipe"]
    networks = artefact_weights(state)
    try:
        # The random weights that are replaced must not change the draws of the run.
        with torch.random.fork_rng(devices=[]):
            embedder = Embedder(EmbedderConfig.model_validate(recipe["embedder"]))
            config = MetricNetworkConfig.model_validate(recipe["metric_network"])
            metric_network = MetricNetwork(embedder.config.dimension, config)
        embedder.load_state_dict(part_of(networks, "embedder"))
        metric_network.load_state_dict(part_of(networks, "metric_network"))
        preprocessing = Preprocessing.model_validate(recipe["preprocessing"])
    except (ValidationError, RuntimeError) as error:
        raise InputProblem(
            f"{path}: is of another version of this program ({str(error).splitlines()[0]}); start "
            "from the artefact of that run"
        ) from error
    left_behind = ""
    if part_of(networks, "losses"):
        left_behind = "losses, which are of the people or the teachers of that run"
    name = f"{path.parent.name}/{path.name}"
    return Start(name, preprocessing, embedder.eval(), metric_network.eval(), left_behind)


def artefact_weights(checkpoint: Mapping[str, Any]) -> Tensors:
    """Return the weights in a checkpoint that an artefact of its run has: averaged ones if any.

    Raises:
        KeyError: for a file that is no checkpoint.
    """
    return {**checkpoint["networks"], **part_of(checkpoint.get("average", {}), "module")}


def part_of(networks: Mapping[str, Tensor], name: str) -> Tensors:
    """Return one network's tensors, such as those of `embedder`, by its own names."""
    prefix = f"{name}."
    return {
        key.removeprefix(prefix): tensor
        for key, tensor in networks.items()
        if key.startswith(prefix)
    }
