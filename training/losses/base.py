"""The registry of losses, their settings in a recipe, and the features that they are given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from model.metric_network import MetricNetwork
from training.parts import Kind, Kinds, Section, Table

Need = Literal["features", "terms", "teachers", "start"]


class LossSettings(Section):
    """The settings that every loss has.

    `losses.NAME = 0.3` in a recipe sets the weight; with a weight of 0 the loss is off. If the
    settings of a loss have a field `stages`, it is given the outputs of these backbone stages.
    """

    weight: float = Field(1.0, ge=0)


@dataclass(frozen=True)
class LossKind(Kind):
    """A registered loss.

    It is a function that computes a scalar from its settings and `Features`; or, if it has
    parameters of its own, a `torch.nn.Module` that is constructed with its settings, the dimension
    of a feature and the number of training people, and called with `Features`.

    Attributes:
        needs: the loss's inputs besides features. `terms` are the values of the other losses,
            which are computed before it. A loss on `teachers` is left out if the recipe names
            none; its module is also given their dimensions. `start` are the features by the
            embedder before the first step.
    """

    needs: Need = "features"


LOSSES = Kinds("loss", "gmn.losses", LossKind, LossSettings)
register_loss = LOSSES.register


class Losses(Table):
    """The losses of a recipe, by name. The total loss is the sum of their weighted terms."""

    kinds: ClassVar[Kinds[Any]] = LOSSES
    usual: ClassVar[Mapping[str, Any]] = {
        "identity": {},
        "triplet": {},
        "gmn": {},
        "pic": {},
        "distilled_feature": {},
        "distilled_relation": {},
    }

    @property
    def on(self) -> dict[str, Any]:
        """The settings of all losses with a weight above 0; losses on `terms` come last."""
        on = super().on
        first = {name: on[name] for name in on if LOSSES[name].needs != "terms"}
        return first | on

    @property
    def stages(self) -> tuple[int, ...]:
        """The backbone stages whose outputs the losses read, from shallow to deep."""
        stages: set[int] = set()
        for settings in self.on.values():
            stages.update(getattr(settings, "stages", ()))
        return tuple(sorted(stages))

    def need(self, need: Need) -> bool:
        """Return whether some loss with a weight above 0 needs this input."""
        return any(LOSSES[name].needs == need for name in self.on)

    def perturbs(self, epoch: int) -> bool:
        """Return whether DP is on in an epoch, counted from 0."""
        start = self.on["gmn"].perturbation_from_epoch if "gmn" in self.on else None
        return start is not None and epoch >= start


@dataclass
class Features:
    """The inputs of the losses: features and labels of a batch of B crops, of all processes.

    Attributes:
        before_neck, after_neck: features before and after the BNNeck, `(B, d)` float32; the same
            tensor if there is no neck. L_tri reads the first, every other loss the second.
        labels: `(B,)` int64, from 0.
        metric_network: M-Net.
        stages: the outputs of the stages that losses read, by number, float32; they are those of
            this process's crops alone.
        teachers: each teacher's features of the crops, `(B, t)`, of unit length.
        start: the features of the crops by the embedder before the first step, `(B, d)`.
        terms: the weighted terms of the losses that were computed so far.
    """

    before_neck: Tensor
    after_neck: Tensor
    labels: Tensor
    metric_network: MetricNetwork
    stages: Mapping[int, Tensor] = field(default_factory=dict)
    teachers: tuple[Tensor, ...] = ()
    start: Tensor | None = None
    terms: dict[str, Tensor] = field(default_factory=dict)

    @property
    def total(self) -> Tensor:
        """The sum of the weighted terms computed so far."""
        return torch.stack(list(self.terms.values())).sum()

    @cached_property
    def pair_rows(self) -> Tensor:
        """The rows of the first and second crop of each pair, `(2, N)`."""
        size = len(self.labels)
        return torch.triu_indices(size, size, offset=1, device=self.labels.device)

    @cached_property
    def pairs(self) -> Tensor:
        """Pair features f_sp, `(N, d)`, of all N = B(B − 1)/2 pairs."""
        units = self.metric_network.comparable(self.after_neck)
        first, second = self.pair_rows
        # The gradient of index_select is deterministic; that of indexing by [] is not.
        return self.metric_network.pair_features(
            units.index_select(0, first),
            units.index_select(0, second),
        )

    @cached_property
    def logits(self) -> Tensor:
        """M-Net's logits of the pairs, `(N, 2)`; column 1 stands for the same person."""
        logits: Tensor = self.metric_network(self.pairs)
        return logits


def build_losses(
    losses: Losses,
    dimension: int,
    classes: int,
    teachers: Sequence[int] = (),
) -> nn.ModuleDict:
    """Build those losses of a recipe that have parameters of their own, by name.

    Args:
        losses: the recipe's losses.
        dimension: the dimension of a feature.
        classes: the number of training people.
        teachers: the dimension of each teacher's features.
    """
    modules: dict[str, nn.Module] = {}
    for name, settings in losses.on.items():
        kind = LOSSES[name]
        if not isinstance(kind.build, type):
            continue
        if kind.needs != "teachers":
            modules[name] = kind.build(settings, dimension, classes)
        elif teachers:
            modules[name] = kind.build(settings, dimension, classes, teachers)
    return nn.ModuleDict(modules)
