"""Backbones by name: torchvision's, OSNet, timm's, and those of other packages.

timm's are called by its own names, `timm:resnet50`, `timm:convnext_tiny.fb_in22k`, …; timm is
imported when such a name is used, and installed with the extra `timm`.
"""

from __future__ import annotations

import difflib
from collections import OrderedDict
from functools import cache
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from model.architecture import PREFIX, LastStride
from model.architecture import BackboneKind as BackboneKind
from model.architecture import register_backbone as register_backbone

# Packages with backbones of their own may import these two from here.
from model.problems import InputProblem

STAGES = 4
# Each constructor has one of these settings, or neither, to accept crops of another size than the
# pictures of the pretraining.
ANY_SIZE: tuple[dict[str, bool], ...] = (
    {"dynamic_img_size": True},
    {"strict_img_size": False},
    {},
)
NOT_SUPPORTED = (TypeError, AttributeError, RuntimeError, NotImplementedError)


def build_torchvision(name: str, last_stride: LastStride) -> nn.Sequential:
    """Build a backbone of torchvision with random weights and without its classifier."""
    # Imported where it is needed: it takes seconds, and most artefacts have an OSNet.
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


class LastMap(nn.Module):
    """A whole timm network that gives several maps, of which this gives the last."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, crops: Tensor) -> Tensor:
        """Return the last map `(B, C, h, w)` of crops `(B, 3, H, W)`."""
        return self.network(crops)[-1]


@cache
def timm_backbone(name: str) -> BackboneKind:
    """Return the backbone of a name such as `timm:resnet50` or `timm:resnet50.a1_in1k`.

    A network whose modules run one after the other and give four or more maps has the four stages
    that end at the last four of these. Any other is one piece.

    Raises:
        InputProblem: timm is not installed, has no such name, or gives no maps of it.
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

    with torch.device("meta"):
        network = _staged(timm, own)
        if network is not None:
            channels = network.feature_info.channels()
            ends = tuple(network.return_layers)
            return BackboneKind(
                lambda _: build_timm(name),
                tuple(channels[-STAGES:]),
                ends[-STAGES:],
                (2,),
            )
        try:
            channels = _whole(timm, own).feature_info.channels()
        except NOT_SUPPORTED as error:
            raise InputProblem(
                f"timm gives no feature maps of {name} ({error}); name another backbone"
            ) from error
        last: int = channels[-1]
        return BackboneKind(lambda _: build_timm(name), (last, last, last, last), None, (2,))


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
    """Return the network of a name, as children that run one after the other.

    Args:
        weights: settings of `timm.create_model` that give it other than random weights.
    """
    timm = import_timm(name)
    own = name.removeprefix(PREFIX)
    if timm_backbone(name).stage_ends is None:
        children = [("features", LastMap(_whole(timm, own, **weights)))]
    else:
        children = timm.create_model(
            own,
            features_only=True,
            **weights,
        ).named_children()
    return nn.Sequential(OrderedDict(children))


def _staged(timm: ModuleType, name: str) -> Any:
    """Return the network as children that run one after the other; None if it is another kind."""
    from timm.models import FeatureListNet

    try:
        network = timm.create_model(name, features_only=True)
    except NOT_SUPPORTED:
        return None
    in_sequence = type(network) is FeatureListNet and network.output_fmt == "NCHW"
    return network if in_sequence and len(network.return_layers) >= STAGES else None


def _whole(timm: ModuleType, name: str, **weights: Any) -> Any:
    """Return the network as one piece that gives its last map in a list."""
    from timm.models._features import FeatureGetterNet

    def last_map(network: nn.Module, **_: Any) -> nn.Module:
        return FeatureGetterNet(
            network,
            out_indices=(-1,),
            output_fmt="NCHW",
            norm=True,
        )

    for any_size in ANY_SIZE:
        try:
            return timm.create_model(
                name,
                features_only=True,
                feature_cls=last_map,
                **any_size,
                **weights,
            )
        except TypeError as error:
            if not any_size or "unexpected keyword argument" not in str(error):
                raise
    return None
