"""The optimiser and the learning rate of every step."""

from __future__ import annotations

import math
from itertools import chain
from typing import Any

import torch
from torch import nn

from training.networks import TrainedNetworks
from training.settings import Optimisation


def build_optimiser(networks: TrainedNetworks, settings: Optimisation) -> torch.optim.Optimizer:
    """Parameter groups by rate: the backbone, by stage where its stages differ, and all else."""
    groups = _parameter_groups(networks, settings)
    if settings.optimiser == "sgd":
        return torch.optim.SGD(
            groups, lr=settings.learning_rate, momentum=0.9, weight_decay=settings.weight_decay
        )
    kind = torch.optim.AdamW if settings.optimiser == "adamw" else torch.optim.Adam
    return kind(groups, lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True)


def _parameter_groups(networks: TrainedNetworks, settings: Optimisation) -> list[dict[str, Any]]:
    stages = networks.backbone_stages()
    depths = {
        id(parameter): len(stages) - number
        for number, modules in enumerate(stages, start=1)
        for module in modules
        for parameter in module.parameters()
    }
    embedder = networks.embedder
    learnt = embedder if networks.starts_learnt else embedder.backbone
    own = {id(parameter) for parameter in learnt.parameters()}
    groups: dict[tuple[bool, float, bool], list[nn.Parameter]] = {}
    for parameter in dict.fromkeys(chain(embedder.backbone.parameters(), networks.parameters())):
        if not parameter.requires_grad:
            continue
        multiplier = settings.head_multiplier
        if id(parameter) in own:
            decay = settings.layer_decay ** depths.get(id(parameter), 0)
            multiplier = settings.backbone_multiplier * decay
        decays = settings.optimiser != "adamw" or parameter.ndim > 1
        groups.setdefault((id(parameter) in own, multiplier, decays), []).append(parameter)
    return [
        {"params": parameters, "multiplier": multiplier} | ({} if decays else {"weight_decay": 0.0})
        for (_, multiplier, decays), parameters in groups.items()
    ]


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
