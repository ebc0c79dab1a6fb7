"""M-Net folded into few products, for scoring."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from model.architecture import MetricNetworkConfig, pair_factor
from model.arrays import Array, Floats

# The epsilon of PyTorch's BatchNorm.
EPSILON = 1e-5


class FoldedMetricNetwork(NamedTuple):
    """M-Net as products with the squares or absolute values p of a difference of features.

    A score is max(p · kernel, floor) · weights + bias, or p · weights + bias without a kernel.

    Attributes:
        kernel: weights `(d, hidden)`; None for a linear M-Net.
        floor: lower bound `(hidden,)`; empty for a linear M-Net.
        weights: weights `(hidden,)`, or `(d,)` for a linear M-Net.
    """

    kernel: Floats | None
    floor: Floats
    weights: Floats
    bias: float


def fold(
    config: MetricNetworkConfig,
    dimension: int,
    tensors: Mapping[str, Array],
) -> FoldedMetricNetwork:
    """Fold BatchNorm and the factor of the pair feature into the weights of M-Net.

    Args:
        config: architecture of M-Net.
        dimension: d, the size of a feature.
        tensors: weights by their names in `MetricNetwork.classifier`, such as `0.weight`.
    """
    factor = pair_factor(config.pair_feature, dimension)
    last = 3 if config.layers == "two" else 0
    # The score is the difference of the logits.
    (weights,) = np.diff(tensors[f"{last}.weight"], axis=0)
    (bias,) = np.diff(tensors[f"{last}.bias"]).tolist()
    if config.layers == "linear":
        weights = np.asarray(weights * factor, np.float32)
        return FoldedMetricNetwork(None, np.empty(0, np.float32), weights, bias)
    scale = tensors["1.weight"] / np.sqrt(tensors["1.running_var"] + EPSILON)
    shift = (tensors["0.bias"] - tensors["1.running_mean"]) * scale + tensors["1.bias"]
    # max(h + b, 0) = max(h, −b) + b: activation and shift are one pass over h.
    floor = np.asarray(-shift, np.float32)
    bias -= float(weights @ floor.astype(np.float64))
    kernel = tensors["0.weight"] * scale[:, None] * factor
    return FoldedMetricNetwork(
        np.ascontiguousarray(kernel.T, np.float32),
        floor,
        np.asarray(weights, np.float32),
        bias,
    )
