"""The cost of an embedder and of M-Net: parameters, and multiply-adds as the papers count FLOPs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from model.architecture import EmbedderConfig, MetricNetworkConfig
from model.embedder import Embedder
from model.metric_network import MetricNetwork
from model.preprocessing import Preprocessing


@dataclass(frozen=True)
class Cost:
    """The cost of one network on one input.

    Attributes:
        parameters: the number of parameters in an artefact, without the classifier of training.
        multiply_adds: the number of multiplications in convolutions and matrix products, each of
            which has one addition. The re-identification papers call this number FLOPs.
    """

    parameters: int
    multiply_adds: int


def embedder_cost(config: EmbedderConfig, preprocessing: Preprocessing) -> Cost:
    """Count the cost of embedding one crop, without computing or allocating anything."""
    with torch.device("meta"):
        embedder = Embedder(config).eval()
    with FakeTensorMode(allow_non_fake_inputs=True):
        # The embedder is constructed on the meta device, because constructors may compute with
        # values, which fake tensors do not have.
        embedder = embedder.to_empty(device="cpu")
        crop = torch.empty(1, 3, preprocessing.height, preprocessing.width)
        return _count(embedder, lambda: embedder(crop))


def pair_cost(dimension: int, config: MetricNetworkConfig) -> Cost:
    """Count the cost of M-Net on one pair of features of size `dimension`."""
    with FakeTensorMode():
        metric_network = MetricNetwork(dimension, config).eval()
        pair = torch.empty(1, dimension)
        return _count(metric_network, lambda: metric_network(pair))


def _count(network: nn.Module, run: Callable[[], object]) -> Cost:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        run()
    parameters = sum(parameter.numel() for parameter in network.parameters())
    # PyTorch counts a multiplication and its addition as two.
    return Cost(parameters, counter.get_total_flops() // 2)
