"""The embedder: backbone, pooling and BNNeck, from normalised crops to features."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from pydantic import BaseModel, ConfigDict
from torch import nn

from model.backbones import BACKBONES, BackboneName, build_backbone
from model.pooling import AveragePooling, GeneralizedMeanPooling


class EmbedderConfig(BaseModel):
    """The embedder's architecture, as stored in an artefact."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    backbone: BackboneName = "resnet50"
    last_stride: Literal[1, 2] = 1
    pooling: Literal["gem", "average"] = "gem"

    @property
    def dimension(self) -> int:
        """d, the size of a feature."""
        return BACKBONES[self.backbone].channels


class Features(NamedTuple):
    """Both sides of the BNNeck, `(B, d)` float32: L_tri reads the first, all else the second."""

    before_neck: torch.Tensor
    after_neck: torch.Tensor


class Embedder(nn.Module):
    """Normalised crops `(B, 3, H, W)` to features `(B, d)`.

    BNNeck is a BatchNorm without shift between the feature that the triplet loss reads and the one
    that everything else reads (Luo et al., CVPR Workshops 2019).
    """

    def __init__(self, config: EmbedderConfig, initial_weights: str = "none") -> None:
        super().__init__()
        self.config = config
        self.backbone = build_backbone(config.backbone, config.last_stride, initial_weights)
        self.pooling = GeneralizedMeanPooling() if config.pooling == "gem" else AveragePooling()
        self.neck = nn.BatchNorm1d(config.dimension)
        self.neck.bias.requires_grad_(False)

    def features(self, crops: torch.Tensor) -> Features:
        """Features before and after the BNNeck, for training."""
        before = self.pooling(self.backbone(crops))
        with torch.autocast(crops.device.type, enabled=False):
            return Features(before, self.neck(before.float()))

    def forward(self, crops: torch.Tensor) -> torch.Tensor:
        """The feature `(B, d)` float32 that is stored, compared and scored; not of unit length."""
        return self.features(crops).after_neck
