"""torchvision's backbones as feature maps: ResNets (the papers' is ResNet-50) and MobileNetV2."""

from __future__ import annotations

import pickle
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import torch
import torchvision
from torch import nn

from model.depthwise import replace_strided_depthwise
from model.problems import InputProblem

BackboneName = Literal["resnet50", "resnet18", "resnet34", "resnet101", "mobilenet_v2"]


@dataclass(frozen=True)
class BackboneKind:
    """What one name stands for.

    Attributes:
        build: makes the network with its classifier, with torchvision's weights or none.
        weights: torchvision's.
        stage_channels: channels of the maps of stages 1 to 4 (strides 4, 8, 16 and 32).
        stage_ends: the name of each stage's last child in what `build_backbone` returns.
    """

    build: Callable[[Any], nn.Module]
    weights: Any
    stage_channels: tuple[int, int, int, int]
    stage_ends: tuple[str, str, str, str] = ("layer1", "layer2", "layer3", "layer4")

    @property
    def channels(self) -> int:
        """Channels of the last map."""
        return self.stage_channels[-1]


NAMED_TENSORS = 5
BASIC_BLOCKS = (64, 128, 256, 512)
BOTTLENECK_BLOCKS = (256, 512, 1024, 2048)


BACKBONES: dict[BackboneName, BackboneKind] = {
    "resnet50": BackboneKind(
        lambda weights: torchvision.models.resnet50(weights=weights),
        torchvision.models.ResNet50_Weights.IMAGENET1K_V2,
        BOTTLENECK_BLOCKS,
    ),
    "resnet18": BackboneKind(
        lambda weights: torchvision.models.resnet18(weights=weights),
        torchvision.models.ResNet18_Weights.IMAGENET1K_V1,
        BASIC_BLOCKS,
    ),
    "resnet34": BackboneKind(
        lambda weights: torchvision.models.resnet34(weights=weights),
        torchvision.models.ResNet34_Weights.IMAGENET1K_V1,
        BASIC_BLOCKS,
    ),
    "resnet101": BackboneKind(
        lambda weights: torchvision.models.resnet101(weights=weights),
        torchvision.models.ResNet101_Weights.IMAGENET1K_V2,
        BOTTLENECK_BLOCKS,
    ),
    "mobilenet_v2": BackboneKind(
        lambda weights: torchvision.models.mobilenet_v2(weights=weights),
        torchvision.models.MobileNet_V2_Weights.IMAGENET1K_V2,
        (24, 32, 96, 1280),
        ("3", "6", "13", "18"),
    ),
}


def build_backbone(
    name: BackboneName, last_stride: Literal[1, 2] = 1, initial_weights: str = "none"
) -> nn.Sequential:
    """Builds a backbone without its classifier.

    Args:
        name: which one.
        last_stride: 2 as torchvision has it (output stride 32), or 1 in the last stage (16).
        initial_weights: `none`, `torchvision` for its own ImageNet download, or a file holding a
            state dict with torchvision's names; a file may lack the last stage and the classifier.

    Returns:
        A module from `(B, 3, H, W)` to `(B, channels, H / stride, W / stride)`.

    Raises:
        InputProblem: when the weights cannot be had or do not fit; it names the tensors.
    """
    kind = BACKBONES[name]
    network = kind.build(_download(name, kind) if initial_weights == "torchvision" else None)
    if initial_weights not in ("none", "torchvision"):
        _load_file(network, Path(initial_weights))
    if name == "mobilenet_v2":
        features = network.get_submodule("features")
        _set_last_stride(features.get_submodule("14"), last_stride)
        replace_strided_depthwise(features)
        return nn.Sequential(OrderedDict(features.named_children()))
    _set_last_stride(network.get_submodule("layer4.0"), last_stride)
    stages = [child for child in network.named_children() if child[0] not in ("avgpool", "fc")]
    return nn.Sequential(OrderedDict(stages))


def split_stages(name: BackboneName, backbone: nn.Sequential) -> list[list[nn.Module]]:
    """The children of each of a backbone's four stages; the first has the stem with it."""
    children = dict(backbone.named_children())
    ends = [list(children).index(end) + 1 for end in BACKBONES[name].stage_ends]
    modules = list(children.values())
    return [modules[start:end] for start, end in pairwise((0, *ends))]


def _set_last_stride(stage: nn.Module, stride: int) -> None:
    for module in stage.modules():
        if isinstance(module, nn.Conv2d) and module.stride != (1, 1):
            module.stride = (stride, stride)


def _download(name: str, kind: BackboneKind) -> Any:
    try:
        kind.weights.get_state_dict(progress=False)
    except OSError as error:
        raise InputProblem(
            f"torchvision's weights for {name} could not be downloaded ({error}); "
            "set initial_weights to a local file or to none"
        ) from error
    return kind.weights


def _load_file(network: nn.Module, path: Path) -> None:
    if not path.is_file():
        raise InputProblem(f"{path}: no such file; set initial_weights to a weights file")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, OSError) as error:
        raise InputProblem(f"{path}: not a PyTorch state dict ({type(error).__name__})") from error
    own = network.state_dict()
    if not isinstance(state, dict):
        raise InputProblem(f"{path}: holds a {type(state).__name__}, not a state dict")
    foreign = sorted(set(state) - set(own))
    misfits = sorted(key for key in set(state) & set(own) if state[key].shape != own[key].shape)
    absent = sorted(key for key in set(own) - set(state) if not key.endswith("num_batches_tracked"))
    unexpected = [key for key in absent if not key.startswith(("layer4.", "fc.", "classifier."))]
    for what, keys in (
        ("unknown", foreign),
        ("of another shape", misfits),
        ("missing", unexpected),
    ):
        if keys:
            more = ", …" if len(keys) > NAMED_TENSORS else ""
            raise InputProblem(
                f"{path}: does not fit this backbone; {len(keys)} tensors are {what}: "
                f"{', '.join(keys[:NAMED_TENSORS])}{more}; name weights of the same architecture"
            )
    network.load_state_dict(state, strict=False)
