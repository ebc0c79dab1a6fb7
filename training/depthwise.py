"""Depthwise convolutions with a stride, trained on a CPU without its slow path.

oneDNN's bfloat16 backward of a strided depthwise convolution takes many times that of the same
convolution with stride 1, of whose outputs it is every second.
"""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.nn import functional


class StridedDepthwiseConvolution(nn.Conv2d):
    """The same parameters and results; trained on a CPU it selects outputs of stride 1."""

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Maps `(B, C, h, w)` to `(B, C, h / stride, w / stride)`."""
        if not self.training or maps.device.type != "cpu":
            return super().forward(maps)
        every = functional.conv2d(
            maps, self.weight, self.bias, 1, self.padding, self.dilation, self.groups
        )
        return every[:, :, :: self.stride[0], :: self.stride[1]]


def replace_strided_depthwise(network: nn.Module) -> None:
    """Replaces every depthwise convolution of a network that has a stride."""
    for name, module in list(network.named_modules()):
        if type(module) is nn.Conv2d and module.groups > 1 and max(module.stride) > 1:
            replacement = copy.deepcopy(module)
            replacement.__class__ = StridedDepthwiseConvolution
            network.set_submodule(name, replacement)
