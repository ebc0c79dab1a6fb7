"""Initial weights with which M-Net's score is the cosine, except for its scale and offset.

The entries of a pair feature d·(z_p − z_q)² are not negative and sum to 2d·(1 − cos), so that a sum
with equal weights is an affine function of the cosine. M-Net then learns a correction of it.
"""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from model.architecture import MetricNetworkConfig
from model.metric_network import MetricNetwork
from model.problems import InputProblem

# Scale and bias of the hidden unit's BatchNorm. They keep ReLU from cutting anything off: it would
# cut sums that lie BIAS / SCALE = 40 standard deviations below the mean, but the mean is only about
# 7 standard deviations above the smallest possible sum, 0.
SCALE = 0.25
BIAS = 10.0
# A pair whose sum lies n standard deviations above the mean has the score −n − OFFSET. Most pairs
# of a batch show two people and lie near the mean, so that their scores are negative.
OFFSET = 2.0
# A linear M-Net has the score AT_ONE at cosine 1, and 0 at cosine 0.6.
AT_ONE = 4.0


@torch.no_grad()
def start_at_cosine(metric_network: MetricNetwork) -> None:
    """Set an M-Net's weights so that its score is an increasing affine function of the cosine.

    The first hidden unit sums a pair feature, and the output reads this unit alone. The other units
    keep their random weights, from which they learn.

    Raises:
        InputProblem: the pair features are not squares of unit features.
    """
    if not can_start_at_cosine(metric_network.config):
        raise InputProblem(
            "metric_network_start=cosine: an M-Net on absolute or raw differences cannot start at "
            "the cosine; set metric_network.pair_feature=square, or metric_network_start=random"
        )
    layers = metric_network.classifier
    first = cast(nn.Linear, layers[0])
    last = cast(nn.Linear, layers[-1])
    if first is last:
        _set_score(last, slice(None), -AT_ONE / (0.8 * metric_network.dimension), AT_ONE)
        return
    norm = cast(nn.BatchNorm1d, layers[1])
    # Weights as large as those of the other units; Adam's first steps would undo smaller ones.
    first.weight[0] = 1.0 / math.sqrt(metric_network.dimension)
    first.bias[0] = 0.0
    norm.weight[0] = SCALE
    norm.bias[0] = BIAS
    _set_score(last, 0, -1.0 / SCALE, BIAS / SCALE - OFFSET)


def keep_cosine_unit(metric_network: MetricNetwork) -> list[RemovableHandle]:
    """Exclude the hidden unit of `start_at_cosine` from training until the handles are removed.

    A linear M-Net has no such unit, so that the list is empty.
    """

    def without_first(gradient: Tensor) -> Tensor:
        return gradient.index_fill(0, torch.tensor([0], device=gradient.device), 0.0)

    layers = metric_network.classifier
    if len(layers) == 1:
        return []
    parts = [*layers[0].parameters(), *layers[1].parameters()]
    return [part.register_hook(without_first) for part in parts]  # type: ignore[no-untyped-call]


@torch.no_grad()
def add_cosine(metric_network: MetricNetwork, slope: float) -> None:
    """Add slope · cosine, and a constant, to an M-Net's score.

    Args:
        metric_network: an M-Net in evaluation mode whose first hidden unit is still that of
            `start_at_cosine`.
        slope: the number to add to the slope of the score as a function of the cosine.
    """
    layers = metric_network.classifier
    dimension = metric_network.dimension
    # The sum of a pair feature is 2d·(1 − cos).
    by_sum = -slope / (2 * dimension)
    output = cast(nn.Linear, layers[-1])
    units: int | slice = slice(None)
    if len(layers) > 1:
        norm = cast(nn.BatchNorm1d, layers[1])
        spread = float((cast(Tensor, norm.running_var)[0] + norm.eps).sqrt())
        by_sum *= spread * math.sqrt(dimension) / SCALE
        units = 0
    for row, sign in ((0, -0.5), (1, 0.5)):
        output.weight[row, units] += sign * by_sum


def can_start_at_cosine(config: MetricNetworkConfig) -> bool:
    """Return whether the score of an M-Net can be a function of the cosine."""
    return config.pair_feature == "square"


def _set_score(
    output: nn.Linear,
    units: int | slice,
    slope: float,
    offset: float,
) -> None:
    """Set the output layer so that logit₁ − logit₀ = slope · (sum of units) + offset."""
    output.weight.zero_()
    for row, sign in ((0, -0.5), (1, 0.5)):
        output.weight[row, units] = sign * slope
        output.bias[row] = sign * offset
