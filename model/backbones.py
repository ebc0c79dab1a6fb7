"""torchvision's backbones as feature maps: ResNet-50 (the papers'), ResNet-18, MobileNetV2."""

from __future__ import annotations

import pickle
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torchvision
from torch import nn

from model.problems import InputProblem

BackboneName = Literal["resnet50", "resnet18", "mobilenet_v2"]


@dataclass(frozen=True)
class BackboneKind:
    """What one name stands for: how to build it and how many channels its last map has."""

    build: Callable[[Any], nn.Module]
    weights: Any
    channels: int


BACKBONES: dict[BackboneName, BackboneKind] = {
    "resnet50": BackboneKind(
        lambda weights: torchvision.models.resnet50(weights=weights),
        torchvision.models.ResNet50_Weights.IMAGENET1K_V2,
        2048,
    ),
    "resnet18": BackboneKind(
        lambda weights: torchvision.models.resnet18(weights=weights),
        torchvision.models.ResNet18_Weights.IMAGENET1K_V1,
        512,
    ),
    "mobilenet_v2": BackboneKind(
        lambda weights: torchvision.models.mobilenet_v2(weights=weights),
        torchvision.models.MobileNet_V2_Weights.IMAGENET1K_V2,
        1280,
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
        return nn.Sequential(OrderedDict(features.named_children()))
    _set_last_stride(network.get_submodule("layer4.0"), last_stride)
    stages = [child for child in network.named_children() if child[0] not in ("avgpool", "fc")]
    return nn.Sequential(OrderedDict(stages))


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
            raise InputProblem(
                f"{path}: does not fit this backbone; {len(keys)} tensors are {what}, "
                f"first {keys[0]}; name weights of the same architecture"
            )
    network.load_state_dict(state, strict=False)
