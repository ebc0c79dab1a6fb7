"""OSNet (Zhou et al., ICCV 2019 and TPAMI 2021), in the forms that published weights have.

A block sends its input through four streams of 1 to 4 light convolutions, weighs the channels of
each stream's output by one gate, adds them up and adds the input.
"""

from __future__ import annotations

import math
from collections import OrderedDict

import torch
from torch import Tensor, nn

STREAMS = 4
GATE_REDUCTION = 16
CONTEXT_GROUPS = 16


def build_osnet(
    channels: tuple[int, int, int, int],
    context: bool,
) -> nn.Sequential:
    """Build an OSNet without its pooling and head, with random weights.

    Args:
        channels: channels of the stem's output and of the outputs of the three stages.
        context: the form with context gates, and with BatchNorm folded into the convolutions.

    Returns:
        Crops `(B, 3, H, W)` to maps `(B, channels[3], H / 16, W / 16)`. Its children `conv2`,
        `conv3`, `conv4` and `conv5` end the four stages, at strides 4, 8, 16 and 16.
    """
    stem, first, second, third = channels
    network = _layers(
        input_norm=nn.InstanceNorm2d(3, affine=True) if context else None,
        conv1=_layers(
            conv=nn.Conv2d(
                3,
                stem,
                7,
                stride=2,
                padding=3,
                bias=False,
            ),
            norm=nn.InstanceNorm2d(stem, affine=True) if context else nn.BatchNorm2d(stem),
            activation=nn.ReLU(inplace=True),
        ),
        maxpool=nn.MaxPool2d(3, 2, 1),
        conv2=_stage(stem, first, context),
        pool2=nn.Sequential(_convolution(first, first, context), nn.AvgPool2d(2, 2)),
        conv3=_stage(first, second, context),
        pool3=nn.Sequential(_convolution(second, second, context), nn.AvgPool2d(2, 2)),
        conv4=_stage(second, third, context),
        conv5=_convolution(third, third, context),
    )
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


def _layers(**layers: nn.Module | None) -> nn.Sequential:
    """Return named layers that run one after the other; None stands for no layer."""
    return nn.Sequential(
        OrderedDict((name, layer) for name, layer in layers.items() if layer is not None)
    )


def _convolution(
    inputs: int,
    outputs: int,
    folded: bool,
    activated: bool = True,
) -> nn.Sequential:
    """Build a 1×1 convolution, its BatchNorm and a ReLU.

    A folded BatchNorm is the bias of the convolution.
    """
    return _layers(
        conv=nn.Conv2d(inputs, outputs, 1, bias=folded),
        norm=None if folded else nn.BatchNorm2d(outputs),
        activation=nn.ReLU(inplace=True) if activated else None,
    )


def _light_convolution(channels: int, folded: bool) -> nn.Sequential:
    """Build a 1×1 convolution and a depthwise 3×3 one."""
    return _layers(
        pointwise=nn.Conv2d(channels, channels, 1, bias=False),
        depthwise=nn.Conv2d(
            channels,
            channels,
            3,
            padding=1,
            groups=channels,
            bias=folded,
        ),
        norm=None if folded else nn.BatchNorm2d(channels),
        activation=nn.ReLU(inplace=True),
    )


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
        self.reduce = _convolution(inputs, middle, folded)
        self.streams = nn.ModuleList(
            nn.Sequential(*(_light_convolution(middle, folded) for _ in range(depth)))
            for depth in range(1, STREAMS + 1)
        )
        self.gate = gate(middle)
        self.expand = _convolution(middle, outputs, folded, activated=False)
        self.shortcut: nn.Module = nn.Identity()
        if inputs != outputs:
            self.shortcut = _convolution(inputs, outputs, folded, activated=False)

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


class GroupedNorm(nn.GroupNorm):
    """Group normalisation of one value for each channel; a group may be a single channel."""

    def forward(self, context: Tensor) -> Tensor:
        """Normalise `(B, C, 1, 1)`."""
        grouped = context.reshape(-1, self.num_groups, self.num_channels // self.num_groups)
        normed = nn.functional.layer_norm(grouped, grouped.shape[2:]).reshape(context.shape)
        return normed * self.weight.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)


class ContextGate(nn.Module):
    """A gate that weighs channels by their means, normalised in groups and scaled.

    It is the linear context transform of Ruan et al., AAAI 2020.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = GroupedNorm(math.gcd(CONTEXT_GROUPS, channels), channels)

    def forward(self, maps: Tensor) -> Tensor:
        """Weigh the channels of maps `(B, C, H, W)`."""
        context = maps.mean((2, 3), keepdim=True)
        return maps * torch.sigmoid(self.norm(context))
