"""Backbones by name: torchvision's, OSNet, timm's, and what other packages register."""

from __future__ import annotations

import difflib
from collections import OrderedDict
from functools import partial
from importlib.metadata import entry_points
from itertools import pairwise

from torch import nn

from model.backbone_kind import BackboneKind, LastStride
from model.osnet import OSNetForm, build_osnet, osnet_forms
from model.problems import InputProblem
from model.timm_backbones import PREFIX, timm_backbone

ENTRY_POINTS = "gmn.backbones"


BACKBONES: dict[str, BackboneKind] = {}


def register_backbone(name: str, kind: BackboneKind) -> None:
    """Adds a backbone, so that recipes and artefacts can name it.

    An installed package registers its backbones in every process by an entry point of the group
    `gmn.backbones`: a function without arguments that calls this.

    Raises:
        ValueError: where another kind has the name.
    """
    if BACKBONES.setdefault(name, kind) is not kind:
        raise ValueError(f"there is a backbone {name} already")


def find_backbone(name: str) -> BackboneKind:
    """The backbone of a name.

    Raises:
        InputProblem: for an unknown name; it lists the known ones.
    """
    if name.startswith(PREFIX):
        return timm_backbone(name)
    if name not in BACKBONES:
        for point in entry_points(group=ENTRY_POINTS):
            if point.name not in BACKBONES:
                point.load()()
    if name not in BACKBONES:
        near = difflib.get_close_matches(name, BACKBONES, n=1)
        meant = f"did you mean {near[0]}? " if near else ""
        raise InputProblem(
            f"there is no backbone {name}; {meant}known are {', '.join(sorted(BACKBONES))}, "
            "and timm:NAME"
        )
    return BACKBONES[name]


def build_backbone(name: str, last_stride: LastStride = 1) -> nn.Sequential:
    """Builds a backbone with random weights and without its classifier.

    Args:
        last_stride: 2 as torchvision has it (output stride 32), or 1 in the last stage (16).

    Returns:
        Crops `(B, 3, H, W)` to maps `(B, channels, h, w)`.
    """
    return find_backbone(name).build(last_stride)


def split_stages(name: str, backbone: nn.Sequential) -> list[list[nn.Module]]:
    """The children of each of a backbone's four stages; the first has the stem with it."""
    names, modules = zip(*backbone.named_children(), strict=True)
    stage_ends = find_backbone(name).stage_ends
    if stage_ends is None:
        return [[], [], [], list(modules)]
    ends = [names.index(end) + 1 for end in stage_ends]
    return [list(modules[start:end]) for start, end in pairwise((0, *ends))]


def _torchvision(name: str, last_stride: LastStride) -> nn.Sequential:
    # Imported where it is needed: it takes seconds, and most artefacts have an OSNet.
    import torchvision

    network = getattr(torchvision.models, name)()
    if name == "mobilenet_v2":
        features = network.features
        _set_last_stride(features[14], last_stride)
        return nn.Sequential(OrderedDict(features.named_children()))
    _set_last_stride(network.layer4[0], last_stride)
    stages = [child for child in network.named_children() if child[0] not in ("avgpool", "fc")]
    return nn.Sequential(OrderedDict(stages))


def _set_last_stride(stage: nn.Module, stride: int) -> None:
    for module in stage.modules():
        if isinstance(module, nn.Conv2d) and module.stride != (1, 1):
            module.stride = (stride, stride)


def _osnet(form: OSNetForm, _last_stride: LastStride) -> nn.Sequential:
    return build_osnet(form)


_BASIC, _BOTTLENECK = (64, 128, 256, 512), (256, 512, 1024, 2048)
_LAYERS = ("layer1", "layer2", "layer3", "layer4")
for _name, _channels, _ends in (
    ("resnet18", _BASIC, _LAYERS),
    ("resnet34", _BASIC, _LAYERS),
    ("resnet50", _BOTTLENECK, _LAYERS),
    ("resnet101", _BOTTLENECK, _LAYERS),
    ("mobilenet_v2", (24, 32, 96, 1280), ("3", "6", "13", "18")),
):
    register_backbone(_name, BackboneKind(partial(_torchvision, _name), _channels, _ends))
for _name, _form in osnet_forms().items():
    _, _first, _second, _third = _form.channels
    register_backbone(
        _name,
        BackboneKind(
            partial(_osnet, _form),
            (_first, _second, _third, _third),
            ("conv2", "conv3", "conv4", "conv5"),
            last_strides=(1,),
        ),
    )
