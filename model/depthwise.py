"""Depthwise convolutions with a stride, trained on a CPU without its slow path.

oneDNN's bfloat16 backward of a strided depthwise convolution takes many times that of the same
convolution with stride 1. Every second output of the latter is the former.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional


class StridedDepthwiseConvolution(nn.Conv2d):
    """A depthwise convolution that, training on a CPU, takes every stride-th of all outputs.

    Parameters and results are those of the convolution it replaces.
    """

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Maps `(B, C, h, w)` to `(B, C, h / stride, w / stride)`."""
        if not self.training or maps.device.type != "cpu":
            return super().forward(maps)
        every = functional.conv2d(
            maps, self.weight, self.bias, 1, self.padding, self.dilation, self.groups
        )
        return every[:, :, :: self.stride[0], :: self.stride[1]]


def replace_strided_depthwise(network: nn.Module) -> None:
    """Puts this kind in the place of every depthwise convolution that has a stride."""
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            if type(child) is nn.Conv2d and child.groups > 1 and max(child.stride) > 1:
                setattr(parent, name, _like(child))


def _like(convolution: nn.Conv2d) -> StridedDepthwiseConvolution:
    replacement = StridedDepthwiseConvolution(
        convolution.in_channels,
        convolution.out_channels,
        convolution.kernel_size,  # type: ignore[arg-type]
        convolution.stride,  # type: ignore[arg-type]
        convolution.padding,  # type: ignore[arg-type]
        convolution.dilation,  # type: ignore[arg-type]
        convolution.groups,
        convolution.bias is not None,
    )
    replacement.load_state_dict(convolution.state_dict())
    return replacement
