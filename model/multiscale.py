"""MSFL's multi-scale features: CSIP connects the scales, and MSFF fuses them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from model.architecture import MultiscaleConfig, TopDown


class MSFL(nn.Module):
    """The part of MSFL behind the stages: CSIP, MSFF, average pooling and concatenation."""

    def __init__(
        self,
        stage_channels: Sequence[int],
        config: MultiscaleConfig,
    ) -> None:
        super().__init__()
        self.config = config
        self.csip: nn.Module = nn.Identity()
        if config.csip:
            inputs = [stage_channels[stage - 1] for stage in config.stages]
            self.csip = CSIP(inputs, config.channels, config.top_down, config.lateral)
        widths = config.widths(stage_channels)
        self.msff = nn.ModuleList()
        # The four scales have 3, 2, 1 and 0 blocks, since a shallow map is the least abstract.
        for place, width in enumerate(widths, 1):
            depth = len(widths) - place if config.msff else 0
            self.msff.append(nn.Sequential(*(_bottleneck(width) for _ in range(depth))))

    def scales(self, stage_outputs: Sequence[Tensor]) -> list[Tensor]:
        """Return P2 to P5 before MSFF, which are the outputs of the stages without CSIP."""
        return self.csip([stage_outputs[stage - 1] for stage in self.config.stages])

    def pyramid(self, stage_outputs: Sequence[Tensor]) -> list[Tensor]:
        """Return P2 to P5 after MSFF, given the outputs of all four stages."""
        scales = self.scales(stage_outputs)
        return [blocks(scale) for blocks, scale in zip(self.msff, scales, strict=True)]

    def forward(self, stage_outputs: Sequence[Tensor]) -> Tensor:
        """Fuse the outputs of stages 1 to 4, `(B, C, h, w)` each, to `(B, Σ widths)` float32."""
        pooled = [scale.float().mean(dim=(2, 3)) for scale in self.pyramid(stage_outputs)]
        return torch.cat(pooled, dim=1)


class CSIP(nn.Module):
    """P_deepest = lateral(C_deepest), then P_i = lateral(C_i) + conv(upsample(P_{i+1}))."""

    def __init__(
        self,
        inputs: Sequence[int],
        channels: int,
        top_down: TopDown,
        lateral: bool,
    ) -> None:
        super().__init__()
        connected = inputs if lateral else inputs[-1:]
        self.laterals = nn.ModuleList(nn.Conv2d(width, channels, 1) for width in connected)
        self.top_down = nn.ModuleList(_top_down(top_down, channels) for _ in inputs[1:])
        for part in self.modules():
            if isinstance(part, nn.Conv2d):
                # No BatchNorm follows. This keeps the variance, as in feature pyramids.
                nn.init.kaiming_uniform_(part.weight, a=1)
                if part.bias is not None:
                    nn.init.zeros_(part.bias)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Connect maps, from shallow to deep, and return maps of the same sizes."""
        pyramid = [self.laterals[-1](maps[-1])]
        for place in reversed(range(len(maps) - 1)):
            # A map is not twice as large as the deeper one if the last stride is 1, or the size of
            # the crop is no multiple of 32.
            raised = functional.interpolate(
                pyramid[0],
                size=maps[place].shape[2:],
                mode="nearest",
            )
            scale = self.top_down[place](raised)
            if len(self.laterals) == len(maps):
                scale = scale + self.laterals[place](maps[place])
            pyramid.insert(0, scale)
        return pyramid


def _top_down(kind: TopDown, channels: int) -> nn.Module:
    if kind == "3x3":
        return nn.Conv2d(channels, channels, 3, padding=1)
    pointwise = nn.Conv2d(channels, channels, 1)
    if kind == "1x1":
        return pointwise
    depthwise = nn.Conv2d(
        channels,
        channels,
        3,
        padding=1,
        groups=channels,
        bias=False,
    )
    return nn.Sequential(depthwise, pointwise)


def _bottleneck(channels: int) -> nn.Module:
    """Build channels-channels/4-channels with a shortcut, initialised as in torchvision."""
    # The import takes seconds, and few artefacts have several scales.
    from torchvision.models.resnet import Bottleneck

    block = Bottleneck(channels, channels // 4)
    for convolution in (block.conv1, block.conv2, block.conv3):
        nn.init.kaiming_normal_(
            convolution.weight,
            mode="fan_out",
            nonlinearity="relu",
        )
    return block
