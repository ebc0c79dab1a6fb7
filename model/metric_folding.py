"""M-Net folded for scoring: BatchNorm and the factor of the pair feature become weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.architecture import MetricNetworkConfig, pair_factor

# The epsilon of PyTorch's BatchNorm.
EPSILON = 1e-5
LAST_LAYER = {"two": 3, "linear": 0, "bn-linear": 1}
Float64 = NDArray[np.float64]


class FoldedMetricNetwork(NamedTuple):
    """M-Net as products, of squares or absolute values p of differences of comparable features.

    A score is max(p · kernel + shift, 0) · weights + bias, or p · weights + bias without a kernel.

    Attributes:
        kernel: `(d, hidden)`; None for a linear M-Net.
        shift: `(hidden,)`; empty for a linear M-Net.
        weights: `(hidden,)`, or `(d,)` for a linear M-Net.
    """

    kernel: Float64 | None
    shift: Float64
    weights: Float64
    bias: float


def fold(
    config: MetricNetworkConfig,
    dimension: int,
    tensors: Mapping[str, Float64],
) -> FoldedMetricNetwork:
    """Fold M-Net for features of size `dimension`.

    Args:
        tensors: weights by their names in `MetricNetwork.classifier`, such as `0.weight`.

    Raises:
        KeyError: a tensor is missing.
    """
    factor = pair_factor(config.pair_feature, dimension)
    last = LAST_LAYER[config.layers]
    weights = tensors[f"{last}.weight"][1] - tensors[f"{last}.weight"][0]
    bias = float(tensors[f"{last}.bias"][1] - tensors[f"{last}.bias"][0])
    if config.layers == "two":
        scale = _scale(tensors, 1)
        shift = (tensors["0.bias"] - tensors["1.running_mean"]) * scale + tensors["1.bias"]
        kernel = tensors["0.weight"] * scale[:, None] * factor
        return FoldedMetricNetwork(kernel.T, shift, weights, bias)
    if config.layers == "bn-linear":
        scale = _scale(tensors, 0)
        bias += float(weights @ (tensors["0.bias"] - tensors["0.running_mean"] * scale))
        weights = weights * scale
    return FoldedMetricNetwork(None, np.empty(0), weights * factor, bias)


def _scale(tensors: Mapping[str, Float64], layer: int) -> Float64:
    deviation: Float64 = np.sqrt(tensors[f"{layer}.running_var"] + EPSILON)
    return tensors[f"{layer}.weight"] / deviation
