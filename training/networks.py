"""The networks of a run: their initial weights, their parameters, and M-Net's statistics."""

from __future__ import annotations

import copy
import json
import shlex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from pydantic import BaseModel
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from model.embedder import Embedder
from model.metric_network import MetricNetwork
from model.problems import InputProblem
from model.torch_runtime import folded
from training.backbone_weights import load_backbone_weights
from training.initial_weights import Start, read_start
from training.losses.base import build_losses
from training.metric_start import can_start_at_cosine, start_at_cosine
from training.optimiser import Groups, Optimisation
from training.recipe import Recipe


@dataclass(frozen=True)
class StartingNetworks:
    """The networks before the first step.

    Attributes:
        embedder, metric_network: the networks with their initial weights.
        is_whole: whether the initial weights cover the whole embedder, not just its backbone.
        notes: a line for each part that was, or was not, taken over from the initial weights.
    """

    embedder: Embedder
    metric_network: MetricNetwork
    is_whole: bool = False
    notes: tuple[str, ...] = ()


def starting_networks(recipe: Recipe) -> StartingNetworks:
    """Build embedder and M-Net with the recipe's initial weights.

    Raises:
        InputProblem: the weights cannot be read or downloaded, or do not fit the networks.
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
    initial = start.metric_network
    taken_over = f"initial weights from {start.name}: embedder"
    reason = "it has none"
    if recipe.metric_network_start != "initial":
        reason = f"metric_network_start is {recipe.metric_network_start}"
    elif initial is not None and initial.config == recipe.metric_network:
        metric_network.load_state_dict(initial.state_dict())
        return StartingNetworks(embedder, metric_network, True, (f"{taken_over} and M-Net",))
    else:
        if initial is not None:
            differences = _differences("metric_network", initial.config, recipe.metric_network)
            reason = "; ".join(
                f"{name} is {old} there, {new} here" for name, old, new in differences
            )
        if can_start_at_cosine(recipe.metric_network):
            start_at_cosine(metric_network)
    notes = [taken_over]
    if recipe.makes_metric_network:
        notes.append(f"not taken over from {start.name}: M-Net: {reason}")
    return StartingNetworks(embedder, metric_network, True, tuple(notes))


def _refuse_another_embedder(start: Start, recipe: Recipe) -> None:
    remedies = []
    misfits = []
    for section, there, here in (
        ("embedder", start.embedder.config, recipe.embedder),
        ("preprocessing", start.preprocessing, recipe.preprocessing),
    ):
        for setting, theirs, ours in _differences(section, there, here):
            remedies.append(f"--set {shlex.quote(f'{setting}={theirs}')}")
            misfits.append(f"{setting} is {theirs} there, {ours} here")
    if misfits:
        raise InputProblem(
            f"initial_weights {start.name}: its embedder differs from the recipe's: "
            f"{'; '.join(misfits)}; add {' '.join(remedies)}, or remove [embedder] and "
            "[preprocessing] from the recipe, to take both from there"
        )


def _differences(
    section: str,
    initial: BaseModel,
    wanted: BaseModel,
) -> list[tuple[str, str, str]]:
    """Return the settings that differ, each with both values as TOML."""
    there = initial.model_dump(mode="json")
    here = wanted.model_dump(mode="json")
    return [
        (f"{section}.{name}", _as_toml(there.get(name)), _as_toml(here.get(name)))
        for name in type(initial).model_fields
        if there.get(name) != here.get(name)
    ]


def _as_toml(value: object) -> str:
    if isinstance(value, dict):
        settings = [f"{name}={_as_toml(setting)}" for name, setting in value.items()]
        return "{" + ", ".join(settings) + "}"
    return "none" if value is None else json.dumps(value)


class TrainedNetworks(nn.Module):
    """The networks of a run: embedder, M-Net, and the losses with parameters of their own.

    Attributes:
        losses: the recipe's losses that have parameters, by name.
        frozen_stages: the number of backbone stages, from the first on, that are not trained. They
            stay in evaluation mode, so that their BatchNorm statistics do not change either.
        starts_learnt: whether the initial weights cover the whole embedder, not just its backbone.
    """

    def __init__(
        self,
        start: StartingNetworks,
        recipe: Recipe,
        identities: int,
        teacher_dimensions: Sequence[int] = (),
    ) -> None:
        super().__init__()
        self.embedder = start.embedder
        self.metric_network = start.metric_network
        self.losses = build_losses(
            recipe.losses,
            recipe.embedder.dimension,
            identities,
            teacher_dimensions,
        )
        self.frozen_stages = recipe.optimisation.frozen_stages
        self.starts_learnt = start.is_whole
        for module in self._frozen():
            module.requires_grad_(False)

    def parameter_groups(self, settings: Optimisation) -> Groups:
        """Group the parameters by the multiplier of their learning rate and by weight decay."""
        stages = self.embedder.stages()
        depths = {}
        for number, modules in enumerate(stages, start=1):
            for parameter in nn.ModuleList(modules).parameters():
                depths[id(parameter)] = len(stages) - number
        learnt = self.embedder if self.starts_learnt else self.embedder.backbone
        learnt_parameters = {id(parameter) for parameter in learnt.parameters()}
        groups: dict[tuple[bool, float, bool], list[nn.Parameter]] = {}
        backbone_first = [*self.embedder.backbone.parameters(), *self.parameters()]
        for parameter in dict.fromkeys(backbone_first):
            if not parameter.requires_grad:
                continue
            is_learnt = id(parameter) in learnt_parameters
            multiplier = settings.head_multiplier
            if is_learnt:
                decay = settings.layer_decay ** depths.get(id(parameter), 0)
                multiplier = settings.backbone_multiplier * decay
            decays = settings.optimiser.decays_vectors or parameter.ndim > 1
            groups.setdefault((is_learnt, multiplier, decays), []).append(parameter)
        options: Groups = []
        for (_, multiplier, decays), parameters in groups.items():
            options.append({"params": parameters, "multiplier": multiplier})
            if not decays:
                options[-1]["weight_decay"] = 0.0
        return options

    def train(self, mode: bool = True) -> TrainedNetworks:
        """Put everything but the frozen stages into training mode."""
        super().train(mode)
        for module in self._frozen():
            module.eval()
        return self

    def _frozen(self) -> list[nn.Module]:
        # The modules are not stored, because `synchronise_norms` replaces BatchNorms among them.
        stages = self.embedder.stages()[: self.frozen_stages]
        return [module for stage in stages for module in stage]


def starting_embedder(
    recipe: Recipe,
    start: StartingNetworks,
    device: torch.device,
) -> nn.Module:
    """Copy the embedder before the first step, without gradients, for `losses.anchor`.

    Raises:
        InputProblem: the initial weights cover the backbone alone.
    """
    if not start.is_whole:
        raise InputProblem(
            f"losses.anchor keeps features near those of an initial embedder, and "
            f"initial_weights={recipe.initial_weights} has none; set initial_weights to an "
            "artefact, or losses.anchor=0"
        )
    embedder = copy.deepcopy(start.embedder).eval().requires_grad_(False)
    anchor: nn.Module = folded(embedder, recipe.preprocessing).to(device)
    return anchor.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


@torch.no_grad()
def reestimate_batch_norm(
    embedder: Embedder,
    metric_network: MetricNetwork,
    batches: Iterable[Tensor],
) -> None:
    """Recompute M-Net's BatchNorm statistics from the pairs of some batches, without DP.

    In training DP perturbs pair features, which raises their variance. Pairs are not perturbed at
    test time, so that with the statistics of training every score would shift.

    Args:
        embedder, metric_network: networks on one device; both are left in evaluation mode.
        batches: normalised training crops `(B, 3, h, w)` on that device.
    """

    def pairs() -> Iterator[Tensor]:
        for images in batches:
            units = metric_network.comparable(embedder(images))
            size = len(units)
            first, second = torch.triu_indices(size, size, offset=1, device=units.device)
            yield metric_network.pair_features(units[first], units[second])

    embedder.eval()
    metric_network.perturbing = False
    update_bn(pairs(), metric_network.eval())
