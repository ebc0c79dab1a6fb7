"""Architectures as recipes and artefacts name them, without the networks and without PyTorch."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Literal

from pydantic import Field, field_validator, model_validator

from model.precision import HAS_TORCH
from model.problems import InputProblem
from model.registry import Registry
from model.stored import Stored, is_absent

if TYPE_CHECKING:
    from torch import nn

LastStride = Literal[1, 2]
TopDown = Literal["1x1", "depthwise", "3x3"]
PairFeatureKind = Literal["square", "abs", "raw"]
PREFIX = "timm:"
OSNET_CHANNELS = (64, 256, 384, 512)
WIDTHS = {"x0_25": 0.25, "x0_5": 0.5, "x0_75": 0.75, "x1_0": 1.0}


@dataclass(frozen=True)
class BlockForm:
    """One block.

    Attributes:
        instance: `residual` normalises the block's residual instead of a BatchNorm (OSNet-AIN),
            `sum` the result of the addition (OSNet-IBN).
        gate: `squeeze` is squeeze and excitation, `context` a linear context transform (Ruan et
            al., AAAI 2020).
    """

    instance: Literal["none", "residual", "sum"] = "none"
    gate: Literal["squeeze", "context"] = "squeeze"


@dataclass(frozen=True)
class OSNetForm:
    """One form of OSNet.

    Attributes:
        width: factor on the channels of x1.0.
        blocks: two blocks for each of the three stages.
        input_instance, stem_instance: instance normalisation of the crop, and in the place of the
            first convolution's BatchNorm.
        folded: no BatchNorm; the convolutions that had one have a bias.
    """

    width: float = 1.0
    blocks: tuple[tuple[BlockForm, BlockForm], ...] = ((BlockForm(), BlockForm()),) * 3
    input_instance: bool = False
    stem_instance: bool = False
    folded: bool = False

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of the stem's output and of the three stages'."""
        return tuple(int(self.width * channels) for channels in OSNET_CHANNELS)


def osnet_forms() -> dict[str, OSNetForm]:
    """Return every form by its name.

    `osnet_x…` is the first paper's, `osnet_ibn_x1_0` and `osnet_ain_x…` have instance
    normalisation, `osnet_context_x…` has context gates as Open Model Zoo's
    person-reidentification-retail models do; `…_folded` has no BatchNorm.
    """
    plain = BlockForm()
    residual = BlockForm("residual")
    after = BlockForm("sum")
    ain = ((residual, residual), (plain, residual), (residual, plain))
    ibn = ((after, after), (plain, plain), (plain, plain))
    context = ((plain, BlockForm(gate="context")),) * 3
    forms = {"osnet_ibn_x1_0": OSNetForm(1.0, ibn, stem_instance=True)}
    for suffix, width in WIDTHS.items():
        forms[f"osnet_{suffix}"] = OSNetForm(width)
        forms[f"osnet_{suffix}_folded"] = OSNetForm(width, folded=True)
        forms[f"osnet_ain_{suffix}"] = OSNetForm(width, ain, stem_instance=True)
        forms[f"osnet_context_{suffix}_folded"] = OSNetForm(width, context, True, True, True)
    return forms


@dataclass(frozen=True)
class BackboneKind:
    """The backbone of one name.

    Attributes:
        build: makes the network from the last stage's stride: random weights, no classifier, crops
            `(B, 3, H, W)` to maps `(B, channels, h, w)`.
        stage_channels: channels of the maps of stages 1 to 4.
        stage_ends: the name of each stage's last child in the built network; None where the network
            cannot be divided and is stage 4 as a whole.
        last_strides: the last stage's possible strides.
    """

    build: Callable[[LastStride], nn.Sequential]
    stage_channels: tuple[int, int, int, int]
    stage_ends: tuple[str, str, str, str] | None = ("layer1", "layer2", "layer3", "layer4")
    last_strides: tuple[LastStride, ...] = (1, 2)


BACKBONES: Registry[BackboneKind] = Registry("backbone", "gmn.backbones")


def register_backbone(name: str, kind: BackboneKind) -> None:
    """Add a backbone, so that recipes and artefacts can name it.

    An installed package registers its backbones in every process by an entry point of the group
    `gmn.backbones`.

    Raises:
        ValueError: where another kind has the name.
    """
    BACKBONES.add(name, kind)


def find_backbone(name: str) -> BackboneKind:
    """Return the backbone of a name.

    Raises:
        InputProblem: for an unknown name, listing the known ones, and for one of timm without
            PyTorch and timm.
    """
    if not name.startswith(PREFIX):
        return BACKBONES.find(name, ", and timm:NAME")
    if not HAS_TORCH:
        raise InputProblem(f"{name} needs PyTorch and timm; pip install 'gmn-reid[gpu,timm]'")
    return import_module("model.backbones").timm_backbone(name)


def _builder(
    module: str,
    function: str,
    form: object,
) -> Callable[[LastStride], nn.Sequential]:
    """Return a function that imports a module, which needs PyTorch, when it is called."""

    def build(last_stride: LastStride) -> nn.Sequential:
        return getattr(import_module(module), function)(form, last_stride)

    return build


def _register_own() -> None:
    shallow = (64, 128, 256, 512)
    deep = (256, 512, 1024, 2048)
    resnets = {"resnet18": shallow, "resnet34": shallow, "resnet50": deep, "resnet101": deep}
    for name, channels in resnets.items():
        build = _builder("model.backbones", "build_torchvision", name)
        register_backbone(name, BackboneKind(build, channels))
    name = "mobilenet_v2"
    build = _builder("model.backbones", "build_torchvision", name)
    stage_ends = ("3", "6", "13", "18")
    register_backbone(name, BackboneKind(build, (24, 32, 96, 1280), stage_ends))
    for name, form in osnet_forms().items():
        build = _builder("model.osnet", "build_osnet", form)
        _, first, second, third = form.channels
        stage_ends = ("conv2", "conv3", "conv4", "conv5")
        kind = BackboneKind(build, (first, second, third, third), stage_ends, last_strides=(1,))
        register_backbone(name, kind)


_register_own()


class MultiscaleConfig(Stored):
    """The scales that an embedder fuses; rows (b) to (f) of the paper's ablation.

    Attributes:
        stages: the fused stages of the backbone, 1 to 4 (C2 to C5 in the paper), in this order.
        csip: whether CSIP connects the scales; without it the stages' own maps are fused.
        lateral: CSIP's lateral connections; without them a shallower map is made of the deeper one.
        top_down: CSIP's convolution after upsampling; `depthwise` is a depthwise 3×3 and a 1×1.
        msff: bottleneck blocks before the fusion: none on the deepest map, one more on each
            shallower one.
        channels: of every map of the pyramid; a bottleneck block has a quarter inside.
    """

    stages: tuple[int, ...] = Field((1, 2, 3, 4), min_length=1)
    csip: bool = True
    lateral: bool = True
    top_down: TopDown = "1x1"
    msff: bool = True
    channels: int = Field(
        512,
        ge=4,
        multiple_of=4,
    )

    @field_validator("stages")
    @classmethod
    def _are_stages(cls, stages: tuple[int, ...]) -> tuple[int, ...]:
        chosen = set(stages)
        if list(stages) != sorted(chosen) or not chosen <= {1, 2, 3, 4}:
            raise ValueError("stages are 1 to 4, each once, from shallow to deep")
        return stages

    def widths(self, stage_channels: Sequence[int]) -> tuple[int, ...]:
        """Channels of each fused map, given those of the backbone's four stages."""
        if self.csip:
            return (self.channels,) * len(self.stages)
        return tuple(stage_channels[stage - 1] for stage in self.stages)


class HeadConfig(Stored):
    """A head that makes the embedding of the pooled feature.

    Attributes:
        layers: in their order; MSFL's head is BN-FC-ReLU, OSNet's FC-BN-ReLU, of which FC-ReLU is
            left where BatchNorm was folded.
        dimension: size of the embedding.
        neck: whether a BNNeck follows; without one every loss reads the embedding itself.
    """

    # Not written where it is the default: older artefacts have no such field in their fingerprint.
    layers: Literal["bn-fc-relu", "fc-bn-relu", "fc-relu", "fc-prelu"] = Field(
        "bn-fc-relu",
        exclude_if=lambda layers: layers == "bn-fc-relu",
    )
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
    def _can_be_built(self) -> EmbedderConfig:
        kind = find_backbone(self.backbone)
        if self.last_stride not in kind.last_strides:
            strides = " or ".join(str(stride) for stride in kind.last_strides)
            raise ValueError(
                f"{self.backbone} has no last stride {self.last_stride}; set last_stride to "
                f"{strides}"
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
            return kind.stage_channels[-1]
        return sum(self.multiscale.widths(kind.stage_channels))

    @property
    def dimension(self) -> int:
        """d, the size of a feature."""
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
    dropout: float = Field(
        0.5,
        ge=0.0,
        lt=1.0,
    )


def pair_factor(kind: PairFeatureKind, dimension: int) -> float:
    """Return the factor of a pair feature on the square or absolute value of a difference."""
    return {"square": float(dimension), "abs": math.sqrt(dimension), "raw": 1.0}[kind]
