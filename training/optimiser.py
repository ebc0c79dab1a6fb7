"""Optimisers and schedules of the learning rate, and their settings."""

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
        decays_vectors: whether weight decay also applies to norms and biases.
    """

    decays_vectors: ClassVar[bool] = True


OPTIMISERS = Kinds("optimiser", "gmn.optimisers", Kind, OptimiserSettings)
SCHEDULES = Kinds("schedule", "gmn.schedules", Kind, Choice)
# A registered function builds the optimiser from `Optimisation` and from torch's parameter groups,
# each of which has the `multiplier` of its learning rate.
register_optimiser = OPTIMISERS.register
# A registered function computes the rate after the warm-up, as a share of `learning_rate`, from
# `Optimisation` and the epoch.
register_schedule = SCHEDULES.register


class Optimisation(Section):
    """Settings of the optimiser and the learning rate; epochs are counted from 0.

    Attributes:
        epochs: number of epochs; with 0 the initial weights are kept.
        optimiser: the optimiser and its settings.
        schedule: the learning rate after the warm-up, and its settings.
        head_multiplier: factor on the learning rate of layers with random initial weights.
        backbone_multiplier: factor on the learning rate of the backbone, and of the embedder's
            other layers if the initial weights include them.
        layer_decay: stage k of the backbone (1 to 4; the stem belongs to 1) has the last stage's
            learning rate times layer_decay^(4 − k).
        frozen_stages: the number of backbone stages, from the first on, that keep their weights
            and BatchNorm statistics.
        warm_up_epochs: the learning rate rises linearly from 1% in this time.
        micro_batch: number of crops that go through the network at a time, so that a batch needs
            less memory; null takes the whole batch. Losses still see the whole batch. Each crop is
            embedded twice, and BatchNorms of the backbone have the statistics of a micro-batch.
    """

    optimiser: Annotated[Any, ChoiceOf(OPTIMISERS, "adam")] = Field("adam", validate_default=True)
    learning_rate: float = Field(3.5e-4, gt=0)
    head_multiplier: float = Field(1.0, gt=0)
    backbone_multiplier: float = Field(1.0, gt=0)
    layer_decay: float = Field(1.0, gt=0, le=1)
    frozen_stages: int = Field(0, ge=0, le=3)
    weight_decay: float = Field(5e-4, ge=0)
    epochs: int = Field(60, ge=0)
    warm_up_epochs: float = Field(10.0, ge=0)
    schedule: Annotated[Any, ChoiceOf(SCHEDULES, "steps")] = Field("steps", validate_default=True)
    micro_batch: int | None = Field(None, ge=2)


@register_optimiser("adam")
def adam(groups: Groups, settings: Optimisation) -> torch.optim.Optimizer:
    """Build Adam; weight decay is added to the gradient."""
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
    """Build AdamW, which decouples weight decay from the gradient."""
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
    """Build SGD with momentum; weight decay is added to the gradient."""
    return torch.optim.SGD(
        groups,
        lr=settings.learning_rate,
        momentum=settings.optimiser.momentum,
        weight_decay=settings.weight_decay,
    )


class StepsSettings(Choice):
    """Settings of a learning rate that falls in steps.

    Attributes:
        milestones: the epochs at which it falls.
        gamma: the factor on the rate at each of them.
    """

    milestones: tuple[int, ...] = (30, 50)
    gamma: float = Field(0.1, gt=0, le=1)


@register_schedule("steps", StepsSettings)
def steps(settings: Optimisation, epoch: float) -> float:
    """Return gamma to the power of the number of milestones that have passed."""
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
    """Return the learning rate at an epoch, which is counted from 0 and may be fractional."""
    if epoch < settings.warm_up_epochs:
        start = 0.01
        return settings.learning_rate * (start + (1 - start) * epoch / settings.warm_up_epochs)
    share: float = SCHEDULES[settings.schedule.name].build(settings, epoch)
    return settings.learning_rate * share


def set_learning_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of every group to `rate` times the group's multiplier."""
    for group in optimiser.param_groups:
        group["lr"] = rate * group["multiplier"]
