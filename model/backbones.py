"""Backbones by name: torchvision's, OSNet, timm's, and the registered ones of other packages.

A backbone of timm has timm's own name, such as `timm:resnet50` or `timm:convnext_tiny.fb_in22k`.
timm is imported when such a name is used, and the extra `timm` installs it. This module works
without PyTorch, which builds the networks.
"""

from __future__ import annotations

import difflib
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

from model.problems import InputProblem, visible
from model.registry import Registry

if TYPE_CHECKING:
    from torch import nn

LastStride = Literal[1, 2]
PREFIX = "timm:"
# Factors on the channels of OSNet x1.0.
WIDTHS = {"x0_25": 0.25, "x0_5": 0.5, "x0_75": 0.75, "x1_0": 1.0}
STAGES = 4


@dataclass(frozen=True)
class BackboneKind:
    """A backbone, as the registry holds it.

    Attributes:
        build: builds the network from the stride of the last stage, with random weights and without
            a classifier: crops `(B, 3, H, W)` to maps `(B, channels, h, w)`.
        stage_channels: channels of the maps of stages 1 to 4.
        stage_ends: names of the children of the built network with which stages 1 to 4 end.
        last_strides: the possible strides of the last stage.
    """

    build: Callable[[LastStride], nn.Sequential]
    stage_channels: tuple[int, int, int, int]
    stage_ends: tuple[str, str, str, str] = ("layer1", "layer2", "layer3", "layer4")
    last_strides: tuple[LastStride, ...] = (1, 2)


BACKBONES: Registry[BackboneKind] = Registry("backbone", "gmn.backbones")


def register_backbone(name: str, kind: BackboneKind) -> None:
    """Add a backbone, so that recipes and artefacts can name it.

    An installed package registers its backbones in every process by an entry point of the group
    `gmn.backbones`.

    Raises:
        ValueError: another backbone has the name.
    """
    BACKBONES.add(name, kind)


def find_backbone(name: str) -> BackboneKind:
    """Return the backbone of a name.

    Raises:
        InputProblem: the name is unknown, or it is one of timm, which is not installed. The message
            lists known names.
    """
    if name.startswith(PREFIX):
        return timm_backbone(name)
    return BACKBONES.find(name, ", and timm:NAME")


def _torchvision(name: str) -> Callable[[LastStride], nn.Sequential]:
    """Return a function that builds a network of torchvision without its classifier."""

    def build(last_stride: LastStride) -> nn.Sequential:
        # The import takes seconds, and most artefacts have an OSNet.
        import torchvision
        from torch import nn

        network = getattr(torchvision.models, name)()
        if name == "mobilenet_v2":
            children = dict(network.features.named_children())
            stage = children["14"]
        else:
            children = dict(network.named_children())
            del children["avgpool"], children["fc"]
            stage = network.layer4[0]
        for module in stage.modules():
            if isinstance(module, nn.Conv2d) and module.stride != (1, 1):
                module.stride = (last_stride, last_stride)
        return nn.Sequential(OrderedDict(children))

    return build


def _osnet(width: float, context: bool) -> BackboneKind:
    """Return a form of OSNet.

    Args:
        width: factor on the channels of x1.0.
        context: False for the network of the first paper. True for the one of Open Model Zoo's
            person-reidentification-retail models: it has context gates and instance normalisation,
            and its BatchNorm is folded into the convolutions.
    """
    stem, first, second, third = (int(width * channels) for channels in (64, 256, 384, 512))

    def build(_: LastStride) -> nn.Sequential:
        from model.osnet import build_osnet

        return build_osnet((stem, first, second, third), context)

    stage_ends = ("conv2", "conv3", "conv4", "conv5")
    return BackboneKind(build, (first, second, third, third), stage_ends, (1,))


@cache
def timm_backbone(name: str) -> BackboneKind:
    """Return the backbone of a name such as `timm:resnet50` or `timm:resnet50.a1_in1k`.

    Its four stages end at the last four maps that timm gives of the network.

    Raises:
        InputProblem: timm is not installed, has no such name, or gives no four maps of it.
    """
    timm = import_timm(name)
    import torch

    own = name.removeprefix(PREFIX)
    architecture, _, tag = own.partition(".")
    network: Any = None
    # For other names timm would ask a server.
    if timm.is_model(architecture):
        # timm raises many kinds of errors for networks without such maps.
        with suppress(Exception), torch.device("meta"):
            network = timm.create_model(own, features_only=True)
    in_sequence = type(network) is timm.models.FeatureListNet and network.output_fmt == "NCHW"
    if not in_sequence or len(network.return_layers) < STAGES:
        tagged = tag and timm.list_pretrained(f"{architecture}.*")
        known = tagged or timm.list_models()
        near = [f"{PREFIX}{close}" for close in difflib.get_close_matches(own, known, cutoff=0)]
        raise InputProblem(
            f"there is no {visible(name)} with four stages that run one after the other; name a "
            f"ResNet, ConvNeXt or RegNet of timm.list_models(); near are {', '.join(near)}"
        )
    return BackboneKind(
        build=lambda _: build_timm(name),
        stage_channels=tuple(network.feature_info.channels()[-STAGES:]),
        stage_ends=tuple(network.return_layers)[-STAGES:],
        last_strides=(2,),
    )


def import_timm(name: str) -> ModuleType:
    """Import the package timm, for the backbone `name`; `InputProblem` if it is not installed."""
    try:
        import timm
    except ImportError as error:
        raise InputProblem(
            f"the backbone {name} needs timm, which is not installed; run "
            "pip install 'gmn-reid[timm]'"
        ) from error
    return timm


def build_timm(name: str, **weights: Any) -> nn.Sequential:
    """Build a network of timm as children that run one after the other.

    Args:
        weights: arguments of `timm.create_model` that name its weights; random by default.
    """
    timm = import_timm(name)
    from torch import nn

    network = timm.create_model(name.removeprefix(PREFIX), features_only=True, **weights)
    return nn.Sequential(OrderedDict(network.named_children()))


SHALLOW = (64, 128, 256, 512)
DEEP = (256, 512, 1024, 2048)
OSNETS = {}
for suffix, width in WIDTHS.items():
    OSNETS[f"osnet_{suffix}"] = _osnet(width, context=False)
    OSNETS[f"osnet_context_{suffix}_folded"] = _osnet(width, context=True)
BACKBONES |= {
    "resnet18": BackboneKind(_torchvision("resnet18"), SHALLOW),
    "resnet34": BackboneKind(_torchvision("resnet34"), SHALLOW),
    "resnet50": BackboneKind(_torchvision("resnet50"), DEEP),
    "resnet101": BackboneKind(_torchvision("resnet101"), DEEP),
    "mobilenet_v2": BackboneKind(
        _torchvision("mobilenet_v2"), (24, 32, 96, 1280), ("3", "6", "13", "18")
    ),
    **OSNETS,
}
