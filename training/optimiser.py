"""The optimiser and the learning rate of every step."""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field

from training.parts import Choice, ChoiceOf, Kind, Kinds, Section

Groups = list[dict[str, Any]]


class OptimiserSettings(Choice):
    """The settings of every optimiser.

    Attributes:
        decays_vectors: whether weight decay is for norms and biases, too.
    """

    decays_vectors: ClassVar[bool] = True


OPTIMISERS = Kinds("optimiser", "gmn.optimisers", Kind, OptimiserSettings)
SCHEDULES = Kinds("schedule", "gmn.schedules", Kind, Choice)
# An optimiser is built of torch's parameter groups, each with the `multiplier` of its rate, and of
# `Optimisation`.
register_optimiser = OPTIMISERS.register
# A schedule returns the rate after the warm-up, as a share of `learning_rate`, from `Optimisation`
# and the epoch.
register_schedule = SCHEDULES.register


class Optimisation(Section):
    """Optimiser and schedule; epochs are counted from 0, the warm-up is linear from 1%.

    Attributes:
        optimiser: the optimiser, with settings of its own.
        schedule: the rate after the warm-up, with settings of its own.
        head_multiplier: factor on the rate of the parts that start from random weights.
        backbone_multiplier: factor on the rate of the backbone, and of the embedder's other parts
            if the initial weights hold them.
        layer_decay: stage k of the backbone (1 to 4, the stem counts to 1) has the last stage's
            rate times layer_decay^(4 − k).
        frozen_stages: how many of the backbone's stages keep their weights and BatchNorm
            statistics, from the first on.
        micro_batch: number of crops that go through the network at a time, so that a batch fits
            into less memory; null takes all. Every loss still sees the whole batch. The network
            embeds each crop twice, and its BatchNorm has the statistics of a micro-batch.
    """

    optimiser: Annotated[Any, ChoiceOf(OPTIMISERS, "adam")] = Field("adam", validate_default=True)
    learning_rate: float = Field(3.5e-4, gt=0)
    head_multiplier: float = Field(1.0, gt=0)
    backbone_multiplier: float = Field(1.0, gt=0)
    layer_decay: float = Field(1.0, gt=0, le=1)
    frozen_stages: int = Field(0, ge=0, le=3)
    weight_decay: float = Field(5e-4, ge=0)
    epochs: int = Field(60, ge=1)
    warm_up_epochs: float = Field(10.0, ge=0)
    schedule: Annotated[Any, ChoiceOf(SCHEDULES, "steps")] = Field("steps", validate_default=True)
    micro_batch: int | None = Field(None, ge=2)


@register_optimiser("adam")
def adam(groups: Groups, settings: Optimisation) -> torch.optim.Optimizer:
    """Build Adam; the decay of a weight is added to its gradient."""
    return torch.optim.Adam(
        groups,
        lr=settings.learning_rate,
        weight_decay=settings.weight_decay,
        fused=True,
    )


class AdamWSettings(OptimiserSettings):
    """Settings of AdamW, which decays neither norms nor biases."""

    decays_vectors: ClassVar[bool] = False


@register_optimiser("adamw", AdamWSettings)
def adamw(groups: Groups, settings: Optimisation) -> torch.optim.Optimizer:
    """Build AdamW, which decays weights beside the gradient."""
    return torch.optim.AdamW(
        groups,
        lr=settings.learning_rate,
        weight_decay=settings.weight_decay,
        fused=True,
    )


class SGDSettings(OptimiserSettings):
    """Settings of stochastic gradient descent."""

    momentum: float = Field(0.9, ge=0, lt=1)


@register_optimiser("sgd", SGDSettings)
def sgd(groups: Groups, settings: Optimisation) -> torch.optim.Optimizer:
    """Build SGD with momentum; the decay of a weight is added to its gradient."""
    return torch.optim.SGD(
        groups,
        lr=settings.learning_rate,
        momentum=settings.optimiser.momentum,
        weight_decay=settings.weight_decay,
    )


class StepsSettings(Choice):
    """Settings of a rate that falls at some epochs.

    Attributes:
        milestones: these epochs.
        gamma: factor on the rate at each of them.
    """

    milestones: tuple[int, ...] = (30, 50)
    gamma: float = Field(0.1, gt=0, le=1)


@register_schedule("steps", StepsSettings)
def steps(settings: Optimisation, epoch: float) -> float:
    """Return γ to the power of the number of milestones that have passed."""
    schedule: StepsSettings = settings.schedule
    passed = sum(epoch >= milestone for milestone in schedule.milestones)
    return float(schedule.gamma**passed)


@register_schedule("cosine")
def cosine(settings: Optimisation, epoch: float) -> float:
    """Follow half a cosine from 1 at the end of the warm-up to 0 at the end of the run."""
    span = max(settings.epochs - settings.warm_up_epochs, 1e-9)
    progress = min(1.0, (epoch - settings.warm_up_epochs) / span)
    return 0.5 * (1 + math.cos(math.pi * progress))


def learning_rate(settings: Optimisation, epoch: float) -> float:
    """Return the rate at a moment of the run, `epoch` counted from 0 with its fraction."""
    if epoch < settings.warm_up_epochs:
        start = 0.01
        return settings.learning_rate * (start + (1 - start) * epoch / settings.warm_up_epochs)
    share: float = SCHEDULES[settings.schedule.name].build(settings, epoch)
    return settings.learning_rate * share


def set_learning_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """Set the rate of every group, times the group's multiplier."""
    for group in optimiser.param_groups:
        group["lr"] = rate * group["multiplier"]
