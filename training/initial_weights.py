"""What a run starts from where that is more than a backbone: an artefact or a run's checkpoint."""

from __future__ import annotations

import json
import pickle
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pydantic import BaseModel, ValidationError

from model.artefact import load_artefact, resolve_artefact
from model.embedder import Embedder, EmbedderConfig
from model.metric_network import MetricNetwork, MetricNetworkConfig
from model.preprocessing import Preprocessing
from model.problems import InputProblem
from training.backbone_weights import load_backbone_weights
from training.depthwise import replace_strided_depthwise
from training.metric_start import can_start_at_cosine, start_at_cosine

if TYPE_CHECKING:
    from training.recipe import Recipe

NO_FILE = ("none", "torchvision", "timm")
State = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Start:
    """Trained networks that a run starts from.

    Attributes:
        name: of the file.
        embedder, preprocessing: how they were built, and what the embedder's input is.
        metric_network: how M-Net was built; None where there is none.
        embedder_state, metric_network_state: their tensors, by their own names.
        left_behind: parts of the file that no other run can use.
    """

    name: str
    embedder: EmbedderConfig
    preprocessing: Preprocessing
    metric_network: MetricNetworkConfig | None
    embedder_state: State
    metric_network_state: State
    left_behind: tuple[str, ...] = ()

    def networks(self) -> tuple[Embedder, MetricNetwork | None]:
        """Embedder and M-Net as they are in the file, in evaluation mode."""
        embedder = Embedder(self.embedder)
        embedder.load_state_dict(self.embedder_state)
        if self.metric_network is None:
            return embedder.eval(), None
        metric_network = MetricNetwork(self.embedder.dimension, self.metric_network)
        metric_network.load_state_dict(self.metric_network_state)
        return embedder.eval(), metric_network.eval()


@dataclass(frozen=True)
class StartingNetworks:
    """The networks before the first step.

    Attributes:
        embedder, metric_network: with what weights the run starts.
        is_whole: whether the initial weights are of the whole embedder, not of its backbone.
        notes: what was taken over and what was not, a line each.
    """

    embedder: Embedder
    metric_network: MetricNetwork
    is_whole: bool = False
    notes: tuple[str, ...] = ()


def read_start(initial_weights: str) -> Start | None:
    """The networks that a recipe's `initial_weights` names.

    Args:
        initial_weights: an artefact by its name or file, or a run's checkpoint; anything else is
            of a backbone.

    Returns:
        The networks, or None for what is of a backbone.

    Raises:
        InputProblem: for an artefact or a checkpoint that cannot be read.
    """
    if initial_weights in NO_FILE:
        return None
    path = resolve_artefact(initial_weights)
    return _from_artefact(path) if path.suffix == ".safetensors" else _from_checkpoint(path)


def sections_of(initial_weights: str) -> dict[str, dict[str, Any]]:
    """The sections of a recipe that continues from an artefact or a checkpoint.

    Empty for what is of a backbone, and for a file that is not there: a recipe can be read without
    the files that its run needs.

    Raises:
        InputProblem: for an artefact or a checkpoint that cannot be read.
    """
    if initial_weights in NO_FILE or not resolve_artefact(initial_weights).exists():
        return {}
    start = read_start(initial_weights)
    if start is None:
        return {}
    held: dict[str, BaseModel] = {
        "embedder": start.embedder,
        "preprocessing": start.preprocessing,
    }
    if start.metric_network:
        held["metric_network"] = start.metric_network
    return {name: section.model_dump(mode="json") for name, section in held.items()}


def starting_networks(recipe: Recipe) -> StartingNetworks:
    """Builds embedder and M-Net and gives them the recipe's initial weights.

    Raises:
        InputProblem: when the weights cannot be had or are of other networks.
    """
    start = read_start(recipe.initial_weights)
    embedder = Embedder(recipe.embedder)
    replace_strided_depthwise(embedder.backbone)
    metric_network = MetricNetwork(recipe.embedder.dimension, recipe.metric_network)
    if recipe.metric_network_start == "cosine":
        start_at_cosine(metric_network)
    if start is None:
        load_backbone_weights(recipe.embedder.backbone, embedder.backbone, recipe.initial_weights)
        return StartingNetworks(embedder, metric_network)
    _refuse_another_embedder(start, recipe)
    embedder.load_state_dict(start.embedder_state)
    taken, left = ["embedder"], list(start.left_behind)
    reason = _why_no_metric_network(start, recipe)
    if reason:
        left.append(f"M-Net: {reason}")
        if recipe.metric_network_start == "initial" and can_start_at_cosine(recipe.metric_network):
            start_at_cosine(metric_network)
    else:
        metric_network.load_state_dict(start.metric_network_state)
        taken.append("M-Net")
    notes = [f"initial weights from {start.name}: {' and '.join(taken)}"]
    notes += [f"not taken over from {start.name}: {part}" for part in left]
    return StartingNetworks(embedder, metric_network, True, tuple(notes))


def _from_artefact(path: Path) -> Start:
    artefact = load_artefact(path)
    description, metric_network = artefact.description, artefact.metric_network
    return Start(
        path.name,
        description.embedder,
        description.preprocessing,
        description.metric_network,
        artefact.embedder.state_dict(),
        metric_network.state_dict() if metric_network else {},
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
        return Start(
            f"{path.parent.name}/{path.name}",
            EmbedderConfig.model_validate(recipe["embedder"]),
            Preprocessing.model_validate(recipe["preprocessing"]),
            MetricNetworkConfig.model_validate(recipe["metric_network"]),
            part_of(networks, "embedder"),
            part_of(networks, "metric_network"),
            tuple(
                f"{name}, which is of the people or the teachers of that run"
                for name in ("classifier", "projections")
                if part_of(networks, name)
            ),
        )
    except ValidationError as error:
        raise InputProblem(
            f"{path}: is of another version of this program ({str(error).splitlines()[0]}); start "
            "from the artefact of that run"
        ) from error


def artefact_weights(checkpoint: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """The weights in a checkpoint that an artefact of its run has: averaged ones where it has any.

    Raises:
        KeyError: where it is no checkpoint.
    """
    return {**checkpoint["networks"], **checkpoint.get("average", {})}


def part_of(networks: State, name: str) -> dict[str, torch.Tensor]:
    """One network's tensors, such as those of `embedder`, by its own names."""
    start = f"{name}."
    return {
        key.removeprefix(start): tensor for key, tensor in networks.items() if key.startswith(start)
    }


def _why_no_metric_network(start: Start, recipe: Recipe) -> str:
    """Why M-Net is not taken over; empty where it is."""
    if recipe.metric_network_start != "initial":
        return f"metric_network_start is {recipe.metric_network_start}"
    if start.metric_network is None:
        return "there is none"
    differing = _differences("metric_network", start.metric_network, recipe.metric_network)
    return "; ".join(text for _, text in differing)


def _refuse_another_embedder(start: Start, recipe: Recipe) -> None:
    differing = [
        *_differences("embedder", start.embedder, recipe.embedder),
        *_differences("preprocessing", start.preprocessing, recipe.preprocessing),
    ]
    if differing:
        remedy = " ".join(f"--set {setting}" for setting, _ in differing)
        raise InputProblem(
            f"initial_weights {start.name}: an embedder of another kind: "
            f"{'; '.join(text for _, text in differing)}; add {remedy}, or leave [embedder] and "
            "[preprocessing] out of the recipe, which takes them from there"
        )


def _differences(section: str, held: BaseModel, wanted: BaseModel) -> Iterator[tuple[str, str]]:
    """Each differing setting as `--set` would take it from there, and in words."""
    there, here = held.model_dump(mode="json"), wanted.model_dump(mode="json")
    for name in type(held).model_fields:
        values = _written(there.get(name)), _written(here.get(name))
        if values[0] != values[1]:
            key = f"{section}.{name}"
            yield shlex.quote(f"{key}={values[0]}"), f"{key} is {values[0]} there, {values[1]} here"


def _written(value: object) -> str:
    """A setting's value as TOML writes it."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name}={_written(part)}" for name, part in value.items()) + "}"
    return "none" if value is None else json.dumps(value)
