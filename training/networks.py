"""The networks of a run, the average of their weights, and M-Net's statistics at its end."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, update_bn

from model.embedder import Embedder
from model.folding import folded
from model.metric_network import MetricNetwork
from model.problems import InputProblem
from training.initial_weights import StartingNetworks
from training.losses.base import build_losses
from training.optimiser import Groups, Optimisation
from training.recipe import Recipe

Tensors = tuple[torch.Tensor, ...] | list[torch.Tensor]


class TrainedNetworks(nn.Module):
    """The networks of a run: embedder, M-Net, and the losses with parameters of their own.

    Attributes:
        losses: those that are on, by name.
        frozen_stages: how many of the backbone's stages are not trained, from the first on; they
            stay in evaluation mode, so that their BatchNorm statistics stay, too.
        starts_learnt: whether the initial weights are of the whole embedder, not of its backbone.
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
            recipe.losses, recipe.embedder.dimension, identities, teacher_dimensions
        )
        self.frozen_stages = recipe.optimisation.frozen_stages
        self.starts_learnt = start.is_whole
        for module in self._frozen():
            module.requires_grad_(False)

    def parameter_groups(self, settings: Optimisation) -> Groups:
        """Parameters by the multiplier of their rate and by whether weight decay is for them."""
        stages = self.embedder.stages()
        depths = {}
        for number, modules in enumerate(stages, start=1):
            for parameter in nn.ModuleList(modules).parameters():
                depths[id(parameter)] = len(stages) - number
        learnt = self.embedder if self.starts_learnt else self.embedder.backbone
        own = set(map(id, learnt.parameters()))
        groups: dict[tuple[bool, float, bool], list[nn.Parameter]] = {}
        backbone_first = chain(self.embedder.backbone.parameters(), self.parameters())
        for parameter in dict.fromkeys(backbone_first):
            if not parameter.requires_grad:
                continue
            multiplier = settings.head_multiplier
            if id(parameter) in own:
                decay = settings.layer_decay ** depths.get(id(parameter), 0)
                multiplier = settings.backbone_multiplier * decay
            decays = settings.optimiser.decays_vectors or parameter.ndim > 1
            groups.setdefault((id(parameter) in own, multiplier, decays), []).append(parameter)
        found: Groups = []
        for (_, multiplier, decays), parameters in groups.items():
            found.append({"params": parameters, "multiplier": multiplier})
            if not decays:
                found[-1]["weight_decay"] = 0.0
        return found

    def train(self, mode: bool = True) -> TrainedNetworks:
        """Puts everything but the frozen stages into training mode."""
        super().train(mode)
        for module in self._frozen():
            module.eval()
        return self

    def _frozen(self) -> list[nn.Module]:
        # Asked for anew: several processes replace a backbone's BatchNorms by their own.
        return [
            module for stage in self.embedder.stages()[: self.frozen_stages] for module in stage
        ]


def starting_embedder(recipe: Recipe, start: StartingNetworks, device: torch.device) -> nn.Module:
    """Return the embedder as it starts, made to be run only, for `losses.anchor`.

    Raises:
        InputProblem: where the initial weights are of no whole embedder.
    """
    if not start.is_whole:
        raise InputProblem(
            f"losses.anchor keeps embeddings near those of initial_weights, and "
            f"{recipe.initial_weights} gives none; set initial_weights to an artefact or to a "
            "run's checkpoint, or losses.anchor=0"
        )
    embedder = copy.deepcopy(start.embedder).eval().requires_grad_(False)
    anchor: nn.Module = folded(embedder, recipe.preprocessing).to(device)
    return anchor.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def averaged_networks(networks: TrainedNetworks, decay: float) -> AveragedModel:
    """Return the exponential moving average of weights and of BatchNorm statistics over the steps.

    Its decay grows to its value as n / (9 + n) over the n weights taken in, the initial ones first,
    so that the weights of the beginning are soon forgotten (as TensorFlow's
    ExponentialMovingAverage does).
    """

    def take_in(averages: Tensors, current: Tensors, _: object) -> None:
        if averages[0].is_floating_point():
            count = int(average.n_averaged)
            torch._foreach_lerp_(averages, current, 1.0 - min(decay, count / (9 + count)))
        else:
            torch._foreach_copy_(averages, current)

    average = AveragedModel(networks, multi_avg_fn=take_in, use_buffers=True)
    average.n_averaged.fill_(1)
    return average


@torch.no_grad()
def reestimate_batch_norm(
    embedder: Embedder, metric_network: MetricNetwork, batches: Iterable[torch.Tensor]
) -> None:
    """Averages M-Net's BatchNorm statistics over the pairs of some batches, without DP.

    While DP is on, the statistics are of perturbed pair features; a test pair is not perturbed, its
    variance is lower, and every score would shift.

    Args:
        embedder, metric_network: on one device; both are left in evaluation mode.
        batches: training crops `(B, 3, h, w)` on that device, as the network takes them.
    """

    def pairs() -> Iterator[torch.Tensor]:
        for images in batches:
            units = metric_network.comparable(embedder(images))
            first, second = torch.triu_indices(
                len(units), len(units), offset=1, device=units.device
            )
            yield metric_network.pair_features(units[first], units[second])

    embedder.eval()
    metric_network.perturbing = False
    update_bn(pairs(), metric_network.eval())
