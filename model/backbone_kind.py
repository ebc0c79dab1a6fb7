"""What there is to know of a backbone before it is built."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import nn

LastStride = Literal[1, 2]


@dataclass(frozen=True)
class BackboneKind:
    """The backbone of one name.

    Attributes:
        build: makes the network, as `build_backbone` does, from the last stage's stride.
        stage_channels: channels of the maps of stages 1 to 4.
        stage_ends: the name of each stage's last child in the built network; None where the network
            cannot be divided and is stage 4 as a whole.
        last_strides: the last stage's possible strides.
    """

    build: Callable[[LastStride], nn.Sequential]
    stage_channels: tuple[int, int, int, int]
    stage_ends: tuple[str, str, str, str] | None = ("layer1", "layer2", "layer3", "layer4")
    last_strides: tuple[LastStride, ...] = (1, 2)
