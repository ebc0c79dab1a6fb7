"""The embedder, from normalised crops to features: backbone, MSFL's parts where asked, BNNeck."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal, NamedTuple

import torch
from pydantic import Field, model_validator
from torch import nn

from model.backbones import build_backbone, find_backbone, split_stages
from model.multiscale import MultiscaleConfig, MultiscaleFusion
from model.pooling import AveragePooling, DepthwisePooling, GeneralizedMeanPooling
from model.stored import Stored, is_absent

HeadLayers = Literal["bn-fc-relu", "fc-bn-relu", "fc-relu", "fc-prelu"]


class HeadConfig(Stored):
    """A head that makes the embedding of the pooled feature.

    Attributes:
        layers: in their order; MSFL's head is BN-FC-ReLU, OSNet's FC-BN-ReLU, of which FC-ReLU is
            left where BatchNorm was folded.
        dimension: size of the embedding.
        neck: whether a BNNeck follows; without one every loss reads the embedding itself.
    """

    # Not written where it is the default: older artefacts have no such field in their fingerprint.
    layers: HeadLayers = Field("bn-fc-relu", exclude_if=lambda layers: layers == "bn-fc-relu")
    dimension: int = Field(512, ge=1)
    neck: bool = False


class EmbedderConfig(Stored):
    """The embedder's architecture, as stored in an artefact.

    Attributes:
        backbone: its name in the registry of backbones.
        pooling: `depthwise` is a depthwise convolution as large as the last map.
        map_size: height and width of the last map; set where the pooling is depthwise.
        multiscale: fuses several stages' maps (MSFL); None reads the last map alone.
        head: None leaves the pooled feature as it is, with a BNNeck.
    """

    backbone: str = "resnet50"
    last_stride: Literal[1, 2] = 1
    pooling: Literal["gem", "average", "depthwise"] = "gem"
    map_size: tuple[int, int] | None = Field(None, exclude_if=is_absent)
    multiscale: MultiscaleConfig | None = Field(None, exclude_if=is_absent)
    head: HeadConfig | None = Field(None, exclude_if=is_absent)

    @model_validator(mode="after")
    def _is_a_backbone_that_can_be_built(self) -> EmbedderConfig:
        kind = find_backbone(self.backbone)
        if self.last_stride not in kind.last_strides:
            raise ValueError(
                f"{self.backbone} has no last stride {self.last_stride}; set last_stride to "
                f"{' or '.join(map(str, kind.last_strides))}"
            )
        if self.multiscale is not None and kind.stage_ends is None:
            raise ValueError(
                f"{self.backbone} has no stages that multiscale could fuse; set "
                "embedder.multiscale=none, or name a backbone with stages"
            )
        if (self.map_size is None) == (self.pooling == "depthwise"):
            raise ValueError(
                "pooling=depthwise needs map_size, the last map's height and width; no other "
                "pooling has one"
            )
        return self

    @model_validator(mode="after")
    def _pools_what_it_can(self) -> EmbedderConfig:
        if self.multiscale is not None and self.pooling != "average":
            raise ValueError(
                "multiscale maps hold negative values, which GeM cuts off, and have several "
                "sizes; set embedder.pooling=average"
            )
        return self

    @property
    def pooled_dimension(self) -> int:
        """Size of the pooled feature, before the head."""
        kind = find_backbone(self.backbone)
        if self.multiscale is None:
            return kind.channels
        return sum(self.multiscale.widths(kind.stage_channels))

    @property
    def dimension(self) -> int:
        """d, the size of a feature."""
        return self.pooled_dimension if self.head is None else self.head.dimension


class Features(NamedTuple):
    """What training reads of a batch.

    Attributes:
        before_neck, after_neck: both sides of the BNNeck, `(B, d)` float32: L_tri reads the first,
            all else the second; the same tensor where there is no neck.
        stages: the outputs of the stages asked for, from shallow to deep, float32.
    """

    before_neck: torch.Tensor
    after_neck: torch.Tensor
    stages: tuple[torch.Tensor, ...] = ()


class Embedder(nn.Module):
    """Normalised crops `(B, 3, H, W)` to features `(B, d)`.

    BNNeck is a BatchNorm without shift between the feature that the triplet loss reads and the one
    that everything else reads (Luo et al., CVPR Workshops 2019).
    """

    neck: nn.BatchNorm1d | nn.Identity

    def __init__(self, config: EmbedderConfig, initial_weights: str = "none") -> None:
        super().__init__()
        self.config = config
        self.backbone = build_backbone(config.backbone, config.last_stride, initial_weights)
        self.pooling = _pooling(config)
        if config.multiscale is not None:
            channels = find_backbone(config.backbone).stage_channels
            self.multiscale = MultiscaleFusion(channels, config.multiscale)
        if config.head is not None:
            self.head = embedding_head(config.pooled_dimension, config.head)
        if config.head is not None and not config.head.neck:
            self.neck = nn.Identity()
        else:
            self.neck = nn.BatchNorm1d(config.dimension)
            self.neck.bias.requires_grad_(False)

    def features(
        self,
        crops: torch.Tensor,
        stages: Sequence[int] = (),
        perturbations: Sequence[torch.Tensor] = (),
    ) -> Features:
        """Features before and after the BNNeck, for training, and the outputs of some stages.

        Args:
            crops, stages, perturbations: as `before_neck` takes them.
        """
        before, asked = self.before_neck(crops, stages, perturbations)
        return Features(before, self.after_neck(before), asked)

    def after_neck(self, before: torch.Tensor) -> torch.Tensor:
        """The BNNeck, `(B, d)` to `(B, d)` float32."""
        with torch.autocast(before.device.type, enabled=False):
            feature: torch.Tensor = self.neck(before.float())
        return feature

    def before_neck(
        self,
        crops: torch.Tensor,
        stages: Sequence[int] = (),
        perturbations: Sequence[torch.Tensor] = (),
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        """Features before the BNNeck, `(B, d)`, and the outputs of some stages.

        From the shallowest stage asked for on, everything is computed in float32 whatever the
        autocast type: MSGR differentiates the loss twice there.

        Args:
            crops: `(B, 3, H, W)`.
            stages: whose outputs to return: 0 is the input, 1 to 4 the backbone's stages.
            perturbations: one for each of `stages`, added to its output.
        """
        added = dict(zip(sorted(stages), perturbations, strict=bool(perturbations)))
        asked: list[torch.Tensor] = []
        outputs: list[torch.Tensor] = []
        maps = crops
        for stage, modules in enumerate([[], *split_stages(self.config.backbone, self.backbone)]):
            with _float32_where(bool(asked), crops.device):
                for module in modules:
                    maps = module(maps)
            if stage in stages:
                maps = _traced(maps) + added[stage] if added else _traced(maps)
                asked.append(maps)
            outputs.append(maps)
        with _float32_where(bool(asked), crops.device):
            before = self._embed([output.float() for output in outputs] if asked else outputs)
        return before, tuple(asked)

    def _embed(self, outputs: Sequence[torch.Tensor]) -> torch.Tensor:
        pooled: torch.Tensor
        if self.config.multiscale is None:
            pooled = self.pooling(outputs[-1])
        else:
            pooled = self.multiscale(outputs[1:])
        if self.config.head is not None:
            with torch.autocast(pooled.device.type, enabled=False):
                pooled = self.head(pooled.float())
        return pooled

    def forward(self, crops: torch.Tensor) -> torch.Tensor:
        """The feature `(B, d)` float32 that is stored, compared and scored; not of unit length."""
        return self.features(crops).after_neck


def _pooling(config: EmbedderConfig) -> nn.Module:
    if config.map_size is not None:
        return DepthwisePooling(config.pooled_dimension, config.map_size)
    return GeneralizedMeanPooling() if config.pooling == "gem" else AveragePooling()


def embedding_head(inputs: int, config: HeadConfig) -> nn.Sequential:
    """From a pooled feature `(B, inputs)` to an embedding `(B, dimension)`."""
    linear = nn.Linear(inputs, config.dimension)
    # Keeps the variance. An embedding that starts small leaves a short run's classifier standing.
    nn.init.kaiming_normal_(linear.weight, nonlinearity="relu")
    nn.init.zeros_(linear.bias)
    match config.layers:
        case "bn-fc-relu":
            return nn.Sequential(nn.BatchNorm1d(inputs), linear, nn.ReLU())
        case "fc-bn-relu":
            return nn.Sequential(linear, nn.BatchNorm1d(config.dimension), nn.ReLU())
        case "fc-relu":
            return nn.Sequential(linear, nn.ReLU())
        case "fc-prelu":
            return nn.Sequential(linear, nn.PReLU())


def _traced(maps: torch.Tensor) -> torch.Tensor:
    """The maps as something to differentiate by, which crops are not by themselves."""
    maps = maps.float()
    if torch.is_grad_enabled() and not maps.requires_grad:
        return maps.detach().requires_grad_()
    return maps


@contextmanager
def _float32_where(wanted: bool, device: torch.device) -> Iterator[None]:
    if not wanted:
        yield
        return
    with torch.autocast(device.type, enabled=False):
        yield
