"""Strided depthwise convolutions: another way through the CPU, the same numbers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from training.depthwise import StridedDepthwiseConvolution, replace_strided_depthwise


@pytest.mark.parametrize("size", [(8, 6), (7, 5)])
def test_outputs_and_gradients_are_those_of_the_convolution_it_replaces(size) -> None:
    torch.manual_seed(0)
    plain = nn.Conv2d(4, 4, 3, stride=2, padding=1, groups=4, bias=False)
    network = nn.Sequential(plain)
    replace_strided_depthwise(network)
    assert isinstance(network[0], StridedDepthwiseConvolution)
    maps = torch.randn(2, 4, *size, requires_grad=True)
    twin = maps.detach().clone().requires_grad_()
    expected, found = plain(maps), network.train()(twin)
    expected.square().sum().backward()
    found.square().sum().backward()
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(twin.grad, maps.grad)
    torch.testing.assert_close(network[0].weight.grad, plain.weight.grad)
    torch.testing.assert_close(network.eval()(twin), expected)


def test_only_depthwise_convolutions_with_a_stride_are_replaced() -> None:
    network = nn.Sequential(
        nn.Conv2d(4, 4, 3, stride=2), nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 8, 1, stride=2)
    )
    replace_strided_depthwise(network)
    assert not any(isinstance(module, StridedDepthwiseConvolution) for module in network.modules())
