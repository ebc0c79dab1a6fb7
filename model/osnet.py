"""OSNet (Zhou et al., ICCV 2019 and TPAMI 2021), in the forms that published weights have.

A block sends its input through four streams of 1 to 4 light convolutions, weighs the channels of
each stream's output by one gate, adds them up and adds the input.
"""

from __future__ import annotations

import math
from collections import OrderedDict

import torch
from torch import Tensor, nn

from model.architecture import OSNetForm

STREAMS = 4
GATE_REDUCTION = 16
CONTEXT_GROUPS = 16


def build_osnet(form: OSNetForm) -> nn.Sequential:
    """Build an OSNet without its pooling and head, with random weights.

    Returns:
        Crops `(B, 3, H, W)` to maps `(B, 512 × width, H / 16, W / 16)`. Its children `conv2`,
        `conv3`, `conv4` and `conv5` end the four stages, at strides 4, 8, 16 and 16.
    """
    stem, first, second, third = form.channels
    context = form.context
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    if context:
        parts["input_norm"] = nn.InstanceNorm2d(3, affine=True)
    parts |= {
        "conv1": _convolution(
            3,
            stem,
            7,
            folded=context,
            stride=2,
            instance=context,
        ),
        "maxpool": nn.MaxPool2d(3, 2, 1),
        "conv2": _stage(stem, first, context),
        "pool2": _transition(first, context),
        "conv3": _stage(first, second, context),
        "pool3": _transition(second, context),
        "conv4": _stage(second, third, context),
        "conv5": _convolution(third, third, 1, context),
    }
    network = nn.Sequential(parts)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(
                module.weight,
                mode="fan_out",
                nonlinearity="relu",
            )
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return network


def _convolution(
    inputs: int,
    outputs: int,
    kernel: int,
    folded: bool,
    stride: int = 1,
    instance: bool = False,
    activated: bool = True,
) -> nn.Sequential:
    """Build a convolution, its BatchNorm or instance norm, and a ReLU.

    A folded BatchNorm is the bias of the convolution.
    """
    biased = folded and not instance
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    parts["conv"] = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=biased)
    if instance:
        parts["norm"] = nn.InstanceNorm2d(outputs, affine=True)
    elif not folded:
        parts["norm"] = nn.BatchNorm2d(outputs)
    if activated:
        parts["activation"] = nn.ReLU(inplace=True)
    return nn.Sequential(parts)


def _light_convolution(channels: int, folded: bool) -> nn.Sequential:
    """Build a 1×1 convolution and a depthwise 3×3 one."""
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    parts["pointwise"] = nn.Conv2d(channels, channels, 1, bias=False)
    parts["depthwise"] = nn.Conv2d(
        channels,
        channels,
        3,
        1,
        1,
        groups=channels,
        bias=folded,
    )
    if not folded:
        parts["norm"] = nn.BatchNorm2d(channels)
    parts["activation"] = nn.ReLU(inplace=True)
    return nn.Sequential(parts)


def _transition(channels: int, folded: bool) -> nn.Sequential:
    convolution = _convolution(channels, channels, 1, folded)
    return nn.Sequential(convolution, nn.AvgPool2d(2, 2))


def _stage(
    inputs: int,
    outputs: int,
    context: bool,
) -> nn.Sequential:
    first = OSBlock(inputs, outputs, SqueezeGate, context)
    second = OSBlock(outputs, outputs, ContextGate if context else SqueezeGate, context)
    return nn.Sequential(first, second)


class OSBlock(nn.Module):
    """The omni-scale residual block, `(B, inputs, H, W)` to `(B, outputs, H, W)`."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        gate: type[SqueezeGate | ContextGate],
        folded: bool,
    ) -> None:
        super().__init__()
        middle = outputs // 4
        self.reduce = _convolution(inputs, middle, 1, folded)
        self.streams = nn.ModuleList(
            nn.Sequential(*(_light_convolution(middle, folded) for _ in range(depth)))
            for depth in range(1, STREAMS + 1)
        )
        self.gate = gate(middle)
        self.expand = _convolution(middle, outputs, 1, folded, activated=False)
        self.shortcut: nn.Module = nn.Identity()
        if inputs != outputs:
            self.shortcut = _convolution(inputs, outputs, 1, folded, activated=False)

    def forward(self, maps: Tensor) -> Tensor:
        """Compute the block's output."""
        reduced = self.reduce(maps)
        streams = [self.gate(stream(reduced)) for stream in self.streams]
        mixed = streams[0] + streams[1] + streams[2] + streams[3]
        return torch.relu(self.expand(mixed) + self.shortcut(maps))


class SqueezeGate(nn.Module):
    """A gate that weighs channels by a small network of their means (squeeze and excitation)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = channels // GATE_REDUCTION
        self.squeeze = nn.Conv2d(channels, hidden, 1)
        self.excite = nn.Conv2d(hidden, channels, 1)

    def forward(self, maps: Tensor) -> Tensor:
        """Weigh the channels of maps `(B, C, H, W)`."""
        context = maps.mean((2, 3), keepdim=True)
        hidden = torch.relu(self.squeeze(context))
        return maps * torch.sigmoid(self.excite(hidden))


class GroupedNorm(nn.Module):
    """Group normalisation of one value for each channel; a group may be a single channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.groups = math.gcd(CONTEXT_GROUPS, channels)
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, context: Tensor) -> Tensor:
        """Normalise `(B, C, 1, 1)`."""
        channels = context.shape[1]
        grouped = context.reshape(-1, self.groups, channels // self.groups)
        normed = nn.functional.layer_norm(grouped, grouped.shape[2:]).reshape(context.shape)
        weight = self.weight.view(1, -1, 1, 1)
        bias = self.bias.view(1, -1, 1, 1)
        return normed * weight + bias


class ContextGate(nn.Module):
    """A gate that weighs channels by their means, normalised in groups and scaled.

    It is the linear context transform of Ruan et al., AAAI 2020.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = GroupedNorm(channels)

    def forward(self, maps: Tensor) -> Tensor:
        """Weigh the channels of maps `(B, C, H, W)`."""
        context = maps.mean((2, 3), keepdim=True)
        return maps * torch.sigmoid(self.norm(context))
