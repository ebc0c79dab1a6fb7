"""The networks of backbones: torchvision's, OSNet and timm's.

A backbone of timm has timm's own name, such as `timm:resnet50` or `timm:convnext_tiny.fb_in22k`.
timm is imported when such a name is used, and the extra `timm` installs it.
"""

from __future__ import annotations

import difflib
from collections import OrderedDict
from functools import cache
from types import ModuleType
from typing import Any

import torch
from torch import nn

from model.architecture import PREFIX, BackboneKind, LastStride, osnet_forms
from model.osnet import build_osnet
from model.problems import InputProblem

STAGES = 4
NOT_SUPPORTED = (TypeError, AttributeError, RuntimeError, NotImplementedError)


def build_own(name: str, last_stride: LastStride) -> nn.Sequential:
    """Build OSNet or a network of torchvision with random weights and without its classifier."""
    osnets = osnet_forms()
    if name in osnets:
        return build_osnet(osnets[name])
    # The import takes seconds, and most artefacts have an OSNet.
    import torchvision

    network = getattr(torchvision.models, name)()
    if name == "mobilenet_v2":
        features = network.features
        _set_last_stride(features[14], last_stride)
        return nn.Sequential(OrderedDict(features.named_children()))
    _set_last_stride(network.layer4[0], last_stride)
    children = dict(network.named_children())
    del children["avgpool"], children["fc"]
    return nn.Sequential(OrderedDict(children))


def _set_last_stride(stage: nn.Module, stride: int) -> None:
    for module in stage.modules():
        if isinstance(module, nn.Conv2d) and module.stride != (1, 1):
            module.stride = (stride, stride)


@cache
def timm_backbone(name: str) -> BackboneKind:
    """Return the backbone of a name such as `timm:resnet50` or `timm:resnet50.a1_in1k`.

    Its four stages end at the last four maps that timm gives of the network.

    Raises:
        InputProblem: timm is not installed, has no such name, or gives no four maps of it.
    """
    timm = import_timm(name)
    own = name.removeprefix(PREFIX)
    architecture, _, tag = own.partition(".")
    tagged = timm.list_pretrained(f"{architecture}.*") if tag else []
    if not timm.is_model(architecture) or (tag and own not in tagged):
        known = tagged or timm.list_models()
        near = difflib.get_close_matches(own, known, n=3) or known[:3]
        shown = ", ".join(f"{PREFIX}{close}" for close in near)
        raise InputProblem(
            f"there is no backbone {name}; near are {shown}; timm.list_models() has them all"
        )
    try:
        with torch.device("meta"):
            network = timm.create_model(own, features_only=True)
    except NOT_SUPPORTED:
        network = None
    in_sequence = type(network) is timm.models.FeatureListNet and network.output_fmt == "NCHW"
    if not in_sequence or len(network.return_layers) < STAGES:
        raise InputProblem(
            f"{name} has no four stages that run one after the other; name a ResNet, ConvNeXt or "
            "RegNet of timm"
        )
    channels = network.feature_info.channels()
    stage_ends = tuple(network.return_layers)
    return BackboneKind(
        build=lambda _: build_timm(name),
        stage_channels=tuple(channels[-STAGES:]),
        stage_ends=stage_ends[-STAGES:],
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
    create_model = import_timm(name).create_model
    network = create_model(name.removeprefix(PREFIX), features_only=True, **weights)
    return nn.Sequential(OrderedDict(network.named_children()))
