"""The architectures that recipes and artefacts name; this module works without PyTorch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from pydantic import Field, field_validator, model_validator

from model.backbones import BackboneKind as BackboneKind
from model.backbones import LastStride, find_backbone
from model.backbones import register_backbone as register_backbone
from model.stored import Stored, is_absent

TopDown = Literal["1x1", "depthwise", "3x3"]
PairFeatureKind = Literal["square", "abs", "raw"]


class MultiscaleConfig(Stored):
    """The parts of MSFL that an embedder has; rows (b) to (f) of the paper's ablation.

    Attributes:
        stages: the stages of the backbone that are fused, 1 to 4 (C2 to C5 in the paper).
        csip: CSIP connects the scales; without it the outputs of the stages are fused as they are.
        lateral: CSIP has lateral connections; without them each map is made of the deeper one.
        top_down: the convolution after CSIP's upsampling; `depthwise` is a depthwise 3×3 and a 1×1.
        msff: bottleneck blocks precede the fusion: none on the deepest map, and one more on each
            shallower map.
        channels: number of channels of every map in the pyramid; a bottleneck block has a quarter.
    """

    stages: tuple[Literal[1, 2, 3, 4], ...] = Field((1, 2, 3, 4), min_length=1)
    csip: bool = True
    lateral: bool = True
    top_down: TopDown = "1x1"
    msff: bool = True
    channels: int = Field(512, ge=4, multiple_of=4)

    @field_validator("stages")
    @classmethod
    def _are_stages(cls, stages: tuple[int, ...]) -> tuple[int, ...]:
        if list(stages) != sorted(set(stages)):
            raise ValueError("name each stage once, from shallow to deep")
        return stages

    def widths(self, stage_channels: Sequence[int]) -> tuple[int, ...]:
        """Return the channels of each fused map, given those of the backbone's four stages."""
        if self.csip:
            return (self.channels,) * len(self.stages)
        return tuple(stage_channels[stage - 1] for stage in self.stages)


class HeadConfig(Stored):
    """A head, which computes the embedding from the pooled feature.

    Attributes:
        layers: the layers in their order. MSFL's head is BN-FC-ReLU, OSNet's is FC-BN-ReLU, and
            FC-PReLU is that of Open Model Zoo's OSNet, which has no BatchNorm.
        dimension: size of the embedding.
        neck: a BNNeck follows; without one every loss reads the embedding itself.
    """

    layers: Literal["bn-fc-relu", "fc-bn-relu", "fc-prelu"] = "bn-fc-relu"
    dimension: int = Field(512, ge=1)
    neck: bool = False


class EmbedderConfig(Stored):
    """The embedder's architecture, as stored in an artefact.

    Attributes:
        backbone: name of the backbone in its registry.
        pooling: `depthwise` is a depthwise convolution as large as the last map.
        map_size: height and width of the last map, for depthwise pooling alone.
        multiscale: parts of MSFL, which fuses several stages; None pools the last map alone.
        head: None for the pooled feature itself, with a BNNeck.
        projection: a linear layer computes the feature from the unit feature of head and BNNeck.
    """

    backbone: str = "resnet50"
    last_stride: LastStride = 1
    pooling: Literal["gem", "average", "depthwise"] = "gem"
    map_size: tuple[int, int] | None = Field(None, exclude_if=is_absent)
    multiscale: MultiscaleConfig | None = Field(None, exclude_if=is_absent)
    head: HeadConfig | None = Field(None, exclude_if=is_absent)
    projection: Literal[True] | None = Field(None, exclude_if=is_absent)

    @model_validator(mode="after")
    def _can_be_built(self) -> EmbedderConfig:
        kind = find_backbone(self.backbone)
        if self.last_stride not in kind.last_strides:
            raise ValueError(
                f"{self.backbone} has no last stride {self.last_stride}; set last_stride to "
                f"{kind.last_strides[0]}"
            )
        if (self.map_size is None) == (self.pooling == "depthwise"):
            raise ValueError(
                "pooling=depthwise needs map_size, the last map's height and width; no other "
                "pooling has one"
            )
        if self.multiscale is not None and self.pooling != "average":
            raise ValueError(
                "multiscale maps hold negative values, which GeM cuts off, and have several "
                "sizes; set embedder.pooling=average"
            )
        return self

    @property
    def pooled_dimension(self) -> int:
        """Return the size of the pooled feature, before the head."""
        kind = find_backbone(self.backbone)
        if self.multiscale is None:
            return kind.stage_channels[-1]
        return sum(self.multiscale.widths(kind.stage_channels))

    @property
    def dimension(self) -> int:
        """Return d, the size of a feature."""
        return self.pooled_dimension if self.head is None else self.head.dimension


class MetricNetworkConfig(Stored):
    """M-Net's architecture, as stored in an artefact.

    Attributes:
        layers: `two` is Linear d→hidden, BatchNorm, ReLU, Linear hidden→2; `linear` is Linear d→2.
        hidden: width of the hidden layer.
        dropout: probability of DP, the dropout-based perturbation of pair features.
    """

    layers: Literal["two", "linear"] = "two"
    hidden: int = Field(512, ge=1)
    pair_feature: PairFeatureKind = "square"
    dropout: float = Field(0.5, ge=0.0, lt=1.0)


def pair_factor(kind: PairFeatureKind, dimension: int) -> float:
    """Return the factor by which a pair feature scales the square or the absolute difference."""
    return {"square": float(dimension), "abs": math.sqrt(dimension), "raw": 1.0}[kind]
