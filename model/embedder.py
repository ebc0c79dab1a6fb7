"""The embedder: backbone, pooling or MSFL, head, BNNeck and projection."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack

import torch
from torch import Tensor, nn
from torch.nn import functional

from model.architecture import EmbedderConfig, HeadConfig
from model.backbones import find_backbone
from model.multiscale import MSFL
from model.problems import InputProblem


class GeneralizedMeanPooling(nn.Module):
    """GeM, (mean xᵖ)^(1/p) over space with p learnt from 3 (Radenović et al., TPAMI 2019)."""

    def __init__(self) -> None:
        super().__init__()
        self.exponent = nn.Parameter(torch.tensor(3.0))

    def forward(self, maps: Tensor) -> Tensor:
        """Pool `(B, C, h, w)` to `(B, C)` in float32, under any autocast type."""
        with torch.autocast(maps.device.type, enabled=False):
            powers = maps.float().clamp(min=1e-6).pow(self.exponent)
            return powers.mean(dim=(2, 3)).pow(1.0 / self.exponent)


class AveragePooling(nn.Module):
    """The mean over space."""

    def forward(self, maps: Tensor) -> Tensor:
        """Pool `(B, C, h, w)` to `(B, C)` in float32."""
        return maps.float().mean(dim=(2, 3))


class DepthwisePooling(nn.Module):
    """A learnt weight for each place of each channel's map (MobileFaceNets, Chen et al., 2018).

    Its initial weights make it the mean over maps of this height and width.
    """

    def __init__(
        self,
        channels: int,
        size: tuple[int, int],
    ) -> None:
        super().__init__()
        self.weight = nn.Conv2d(channels, channels, size, groups=channels)
        nn.init.constant_(self.weight.weight, 1.0 / math.prod(size))
        nn.init.zeros_(self.weight.bias)  # type: ignore[arg-type]

    def forward(self, maps: Tensor) -> Tensor:
        """Pool `(B, C, h, w)` of that size to `(B, C)` in float32."""
        with torch.autocast(maps.device.type, enabled=False):
            return self.weight(maps.float()).flatten(1)


class Embedder(nn.Module):
    """The network from normalised crops `(B, 3, H, W)` to features `(B, d)`.

    BNNeck is a BatchNorm without shift between the feature that the triplet loss reads and the one
    that everything else reads (Luo et al., CVPR Workshops 2019).
    """

    def __init__(self, config: EmbedderConfig) -> None:
        super().__init__()
        self.config = config
        kind = find_backbone(config.backbone)
        self.backbone = kind.build(config.last_stride)
        self._stage_ends = kind.stage_ends
        self.pooling: nn.Module = GeneralizedMeanPooling()
        if config.pooling == "average":
            self.pooling = AveragePooling()
        elif config.map_size is not None:
            self.pooling = DepthwisePooling(config.pooled_dimension, config.map_size)
        if config.multiscale is not None:
            self.multiscale = MSFL(kind.stage_channels, config.multiscale)
        if config.head is not None:
            self.head = _head(config.pooled_dimension, config.head)
        self.neck: nn.BatchNorm1d | nn.Identity = nn.Identity()
        if config.head is None or config.head.neck:
            self.neck = nn.BatchNorm1d(config.dimension)
            self.neck.bias.requires_grad_(False)
        if config.projection:
            self.projection = nn.Linear(config.dimension, config.dimension)

    def stages(self) -> list[list[nn.Module]]:
        """Return the modules of the backbone's four stages; the first stage includes the stem."""
        # They are not stored, since a training of several processes replaces some modules.
        ends = self._stage_ends
        stages: list[list[nn.Module]] = [[]]
        for name, module in self.backbone.named_children():
            stages[-1].append(module)
            if name in ends:
                stages.append([])
        if len(stages) <= len(ends):
            raise InputProblem(
                f"{self.config.backbone}: name parts of its network, not stage_ends {ends}"
            )
        return stages[:-1]

    def forward(self, crops: Tensor) -> Tensor:
        """Return features `(B, d)` float32 to store, compare and score; they have any length."""
        return self.after_neck(self.before_neck(crops)[0])

    def after_neck(self, before: Tensor) -> Tensor:
        """Apply BNNeck and projection, `(B, d)` to `(B, d)` float32."""
        with torch.autocast(before.device.type, enabled=False):
            after: Tensor = self.neck(before.float())
            if self.config.projection:
                after = self.projection(functional.normalize(after))
            return after

    def before_neck(
        self,
        crops: Tensor,
        stages: Sequence[int] = (),
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return features before the BNNeck, `(B, d)`, and the outputs of some stages.

        From the shallowest requested stage on, everything is computed in float32 under any
        autocast type: MSGR differentiates the loss twice there.

        Args:
            crops: `(B, 3, H, W)`.
            stages: the stages to return: 0 is the input, 1 to 4 the backbone's stages.
        """
        outputs: list[Tensor] = []
        maps = crops
        with ExitStack() as float32:
            for stage, modules in enumerate([[], *self.stages()]):
                for module in modules:
                    maps = module(maps)
                if stage in stages:
                    float32.enter_context(torch.autocast(crops.device.type, enabled=False))
                    maps = maps.float()
                    if torch.is_grad_enabled() and not maps.requires_grad:
                        # Maps that no gradient reaches, such as crops, become a leaf.
                        maps = maps.detach().requires_grad_()
                outputs.append(maps)
            if stages:
                outputs = [output.float() for output in outputs]
            if self.config.multiscale is None:
                before = self.pooling(outputs[-1])
            else:
                before = self.multiscale(outputs[1:])
            if self.config.head is not None:
                with torch.autocast(before.device.type, enabled=False):
                    before = self.head(before.float())
        return before, tuple(output for stage, output in enumerate(outputs) if stage in stages)


def _head(inputs: int, config: HeadConfig) -> nn.Sequential:
    linear = nn.Linear(inputs, config.dimension)
    # He initialisation keeps the variance. Without it, a classifier on a small embedding hardly
    # learns in a short run.
    nn.init.kaiming_normal_(linear.weight, nonlinearity="relu")
    nn.init.zeros_(linear.bias)
    match config.layers:
        case "bn-fc-relu":
            return nn.Sequential(nn.BatchNorm1d(inputs), linear, nn.ReLU())
        case "fc-bn-relu":
            return nn.Sequential(linear, nn.BatchNorm1d(config.dimension), nn.ReLU())
        case "fc-prelu":
            return nn.Sequential(linear, nn.PReLU())
