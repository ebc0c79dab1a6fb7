"""Backbones of timm by its own names: `timm:resnet50`, `timm:convnext_tiny.fb_in22k`, …

timm is imported when such a name is used; it is installed with the extra `timm`.
"""

from __future__ import annotations

import difflib
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from model.backbones import BackboneKind, LastStride
from model.problems import InputProblem
from model.state_dicts import read_state_dict, refuse_misfits

PREFIX = "timm:"
STAGES = 4
WHOLE = "features"
# What the constructors call it that crops may have another size than the pictures of the
# pretraining; each has one of these, or neither.
OTHER_SIZES: tuple[dict[str, bool], ...] = (
    {"dynamic_img_size": True},
    {"strict_img_size": False},
)


class LastMap(nn.Module):
    """A whole timm network that gives several maps, of which this gives the last."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, crops: torch.Tensor) -> torch.Tensor:
        """`(B, 3, H, W)` to `(B, C, h, w)`."""
        maps: torch.Tensor = self.network(crops)[-1]
        return maps


@cache
def timm_backbone(name: str) -> BackboneKind:
    """The backbone of a name such as `timm:resnet50` or, with a tag, `timm:resnet50.a1_in1k`.

    A network whose modules run one after the other and give four or more maps has the four stages
    that end at the last four of these. Any other is one piece.

    Raises:
        InputProblem: where timm is not installed, has no such name, or gives no maps of it.
    """
    own = name.removeprefix(PREFIX)
    timm = _timm(name)
    if not _is_known(timm, own):
        architecture, _, tag = own.partition(".")
        known = timm.list_models()
        if tag and architecture in known:
            known = timm.list_pretrained(f"{architecture}.*")
        near = difflib.get_close_matches(own, known, n=3) or known[:3]
        raise InputProblem(
            f"there is no backbone {name}; near are {', '.join(PREFIX + one for one in near)}; "
            "timm.list_models() has them all"
        )
    with torch.device("meta"):
        network = _staged(timm, own)
        if network is not None:
            ends = tuple(network.return_layers)[-STAGES:]
            return _kind(own, tuple(network.feature_info.channels()[-STAGES:]), ends)
        try:
            whole = _whole(timm, own)
        except (TypeError, AttributeError, RuntimeError, NotImplementedError) as error:
            raise InputProblem(
                f"timm gives no feature maps of {name} ({error}); name another backbone"
            ) from error
        return _kind(own, (whole.feature_info.channels()[-1],) * STAGES, None)


def timm_weights(name: str) -> tuple[str, str]:
    """The name and the licence of timm's pretrained weights for a backbone.

    The name has the tag, which abbreviates the recipe and the data; the licence may be empty.
    """
    own = name.removeprefix(PREFIX)
    known = _timm(name).get_pretrained_cfg(own).to_dict()
    tagged = ".".join(part for part in (own.partition(".")[0], known.get("tag")) if part)
    return known.get("hf_hub_id") or f"timm/{tagged}", known.get("license") or ""


def _kind(name: str, channels: Any, ends: Any) -> BackboneKind:
    return BackboneKind(partial(_build, name), channels, ends, last_strides=(2,))


def _timm(name: str) -> ModuleType:
    try:
        import timm
    except ImportError as error:
        raise InputProblem(
            f"the backbone {name} needs timm, which is not installed; run "
            "pip install 'gmn-reid[timm]'"
        ) from error
    return timm


def _is_known(timm: ModuleType, name: str) -> bool:
    architecture, _, tag = name.partition(".")
    return timm.is_model(architecture) and (
        not tag or name in timm.list_pretrained(f"{architecture}.*")
    )


def _build(name: str, last_stride: LastStride, initial_weights: str) -> nn.Sequential:
    del last_stride  # It has one.
    timm = _timm(PREFIX + name)
    if initial_weights == "torchvision":
        raise InputProblem(
            f"torchvision has no weights for {PREFIX}{name}; set initial_weights to timm for those "
            "that timm downloads, to a state dict with timm's names, or to none"
        )
    weights: dict[str, Any] = {"pretrained": initial_weights != "none"}
    if initial_weights == "timm" and not timm.is_model_pretrained(name):
        raise InputProblem(
            f"timm has no weights for {PREFIX}{name}; set initial_weights to a state dict or to "
            "none"
        )
    if weights["pretrained"] and initial_weights != "timm":
        state = _fitting_state(timm, name, Path(initial_weights))
        weights["pretrained_cfg_overlay"] = {"state_dict": state, "custom_load": False}
    with _explained_download(name):
        if timm_backbone(PREFIX + name).stage_ends is None:
            network = nn.Sequential(OrderedDict([(WHOLE, LastMap(_whole(timm, name, **weights)))]))
        else:
            children = timm.create_model(name, features_only=True, **weights).named_children()
            network = nn.Sequential(OrderedDict(children))
    for module in network.modules():
        # A second copy of the weights.
        getattr(module, "pretrained_cfg", {}).pop("state_dict", None)
    return network


def _staged(timm: ModuleType, name: str) -> Any:
    """The network as children that run one after the other; None where it is no such network."""
    from timm.models import FeatureListNet

    try:
        network = timm.create_model(name, features_only=True)
    except (TypeError, AttributeError, RuntimeError, NotImplementedError):
        return None
    in_sequence = type(network) is FeatureListNet and network.output_fmt == "NCHW"
    return network if in_sequence and len(network.return_layers) >= STAGES else None


def _whole(timm: ModuleType, name: str, **weights: Any) -> Any:
    """The network as one piece that gives its last map in a list."""
    for sizes in OTHER_SIZES:
        try:
            return timm.create_model(
                name, features_only=True, feature_cls=_getter, **sizes, **weights
            )
        except TypeError as error:
            if "unexpected keyword argument" not in str(error):
                raise
    return timm.create_model(name, features_only=True, feature_cls=_getter, **weights)


def _getter(network: nn.Module, **_: Any) -> nn.Module:
    from timm.models._features import FeatureGetterNet

    return FeatureGetterNet(network, out_indices=(-1,), output_fmt="NCHW", norm=True)


def _fitting_state(timm: ModuleType, name: str, path: Path) -> dict[str, torch.Tensor]:
    """A state dict with timm's names; it may lack the classifier."""
    state = read_state_dict(path)
    with torch.device("meta"):
        own = timm.create_model(name).state_dict()
        needed = set(timm.create_model(name, num_classes=0).state_dict())
    refuse_misfits(
        str(path),
        unknown=sorted(set(state) - set(own)),
        misshapen=sorted(key for key in set(state) & needed if state[key].shape != own[key].shape),
        missing=sorted(needed - set(state)),
    )
    return state


@contextmanager
def _explained_download(name: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputProblem(
            f"timm's weights for {PREFIX}{name} could not be downloaded ({error}); set "
            "initial_weights to a state dict with timm's names, which "
            f'torch.save(timm.create_model("{name}", pretrained=True).state_dict(), "weights.pth") '
            "writes on a machine with access, or to none"
        ) from error
