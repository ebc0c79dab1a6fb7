"""The networks before a run's first step, with what is taken over of its initial weights."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from dataclasses import dataclass

from pydantic import BaseModel

from model.embedder import Embedder
from model.metric_network import MetricNetwork
from model.problems import InputProblem
from training.backbone_weights import load_backbone_weights
from training.metric_start import can_start_at_cosine, start_at_cosine
from training.recipe import Recipe
from training.start import Start, read_start


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


def starting_networks(recipe: Recipe) -> StartingNetworks:
    """Builds embedder and M-Net and gives them the recipe's initial weights.

    Raises:
        InputProblem: when the weights cannot be had or are of other networks.
    """
    start = read_start(recipe.initial_weights)
    embedder = Embedder(recipe.embedder)
    metric_network = MetricNetwork(recipe.embedder.dimension, recipe.metric_network)
    if recipe.metric_network_start == "cosine":
        start_at_cosine(metric_network)
    if start is None:
        load_backbone_weights(recipe.embedder.backbone, embedder.backbone, recipe.initial_weights)
        return StartingNetworks(embedder, metric_network)
    _refuse_another_embedder(start, recipe)
    embedder.load_state_dict(start.embedder.state_dict())
    taken = ["embedder"]
    left = list(start.left_behind)
    held = start.metric_network
    if recipe.metric_network_start != "initial":
        left.append(f"M-Net: metric_network_start is {recipe.metric_network_start}")
    elif held is not None and held.config == recipe.metric_network:
        metric_network.load_state_dict(held.state_dict())
        taken.append("M-Net")
    else:
        left.append(f"M-Net: {_why_another(held, recipe)}")
        if can_start_at_cosine(recipe.metric_network):
            start_at_cosine(metric_network)
    notes = [f"initial weights from {start.name}: {' and '.join(taken)}"]
    notes += [f"not taken over from {start.name}: {part}" for part in left]
    return StartingNetworks(embedder, metric_network, True, tuple(notes))


def _why_another(held: MetricNetwork | None, recipe: Recipe) -> str:
    if held is None:
        return "there is none"
    differing = _differences("metric_network", held.config, recipe.metric_network)
    return "; ".join(text for _, text in differing)


def _refuse_another_embedder(start: Start, recipe: Recipe) -> None:
    differing = [
        *_differences("embedder", start.embedder.config, recipe.embedder),
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
    """Yield each differing setting as `--set` would take it from there, and in words."""
    there = held.model_dump(mode="json")
    here = wanted.model_dump(mode="json")
    for name in type(held).model_fields:
        values = _written(there.get(name)), _written(here.get(name))
        if values[0] != values[1]:
            key = f"{section}.{name}"
            yield shlex.quote(f"{key}={values[0]}"), f"{key} is {values[0]} there, {values[1]} here"


def _written(value: object) -> str:
    """Return a setting's value as TOML writes it."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name}={_written(part)}" for name, part in value.items()) + "}"
    return "none" if value is None else json.dumps(value)
