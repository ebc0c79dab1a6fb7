"""What a plug-in imports: one call for each part that a recipe, or `--data`, can then name."""

from __future__ import annotations

from model.backbones import BackboneKind, register_backbone
from training.datasets.kind import DatasetKind
from training.datasets.registry import register_dataset
from training.losses.base import Features, LossSettings, register_loss
from training.parts import Section

__all__ = [
    "BackboneKind",
    "DatasetKind",
    "Features",
    "LossSettings",
    "Section",
    "register_backbone",
    "register_dataset",
    "register_loss",
]
