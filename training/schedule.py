"""The optimiser and the learning rate of every step."""

from __future__ import annotations

import math

import torch

from training.objective import TrainedNetworks
from training.recipe import Optimisation


def build_optimiser(networks: TrainedNetworks, settings: Optimisation) -> torch.optim.Optimizer:
    """Two parameter groups: the backbone, and everything that starts from nothing."""
    backbone = [p for p in networks.embedder.backbone.parameters() if p.requires_grad]
    known = {id(parameter) for parameter in backbone}
    heads = [p for p in networks.parameters() if p.requires_grad and id(p) not in known]
    groups = [
        {"params": backbone, "multiplier": 1.0},
        {"params": heads, "multiplier": settings.head_multiplier},
    ]
    if settings.optimiser == "adam":
        return torch.optim.Adam(
            groups, lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True
        )
    return torch.optim.SGD(
        groups, lr=settings.learning_rate, momentum=0.9, weight_decay=settings.weight_decay
    )


def learning_rate(settings: Optimisation, epoch: float) -> float:
    """The rate at a moment of the run, `epoch` counted from 0 with its fraction."""
    if epoch < settings.warm_up_epochs:
        start = 0.01
        return settings.learning_rate * (start + (1 - start) * epoch / settings.warm_up_epochs)
    if settings.schedule == "cosine":
        span = max(settings.epochs - settings.warm_up_epochs, 1e-9)
        progress = min(1.0, (epoch - settings.warm_up_epochs) / span)
        return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))
    passed = sum(epoch >= milestone for milestone in settings.milestones)
    return settings.learning_rate * settings.gamma**passed


def set_learning_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """Applies a rate to every group, times the group's multiplier."""
    for group in optimiser.param_groups:
        group["lr"] = rate * group["multiplier"]
