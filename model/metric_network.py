"""M-Net: pair features to the two logits "different" and "same", with DP while training.

The sample-pair feature of GMN is f_sp(p, q) = d·(z_p − z_q)⊙(z_p − z_q) with z = f/‖f‖₂. The paper
writes the square on f itself. Unit length makes features comparable across domains; the factor d
brings the entries near 1, so that a BatchNorm's eps does not swallow them.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import Field
from torch import nn
from torch.nn import functional

from model.stored import Stored

PairFeatureKind = Literal["square", "abs"]


def unit_features(features: torch.Tensor) -> torch.Tensor:
    """z = f/‖f‖₂ of features `(…, d)`, float32."""
    return functional.normalize(features.float(), dim=-1)


def pair_features(
    first: torch.Tensor, second: torch.Tensor, kind: PairFeatureKind = "square"
) -> torch.Tensor:
    """Pair features `(…, d)` float32 of unit features that broadcast against each other.

    `square` is d·(z_p − z_q)², `abs` is √d·|z_p − z_q| ("Squ" and "Abs" of Figure 3).
    """
    difference = first - second
    dimension = difference.shape[-1]
    if kind == "square":
        return difference.square() * dimension
    return difference.abs() * math.sqrt(dimension)


def batch_pairs(size: int, device: torch.device | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Row numbers of all B(B−1)/2 unordered pairs of a batch, two `(N,)` int64 tensors."""
    rows = torch.triu_indices(size, size, offset=1, device=device)
    return rows[0], rows[1]


class MetricNetworkConfig(Stored):
    """M-Net's architecture, as stored in an artefact.

    Attributes:
        layers: `two` is Linear d→hidden, BatchNorm, ReLU, Linear hidden→2; `linear` is Linear d→2.
        hidden: width of the hidden layer.
        dropout: probability of DP, the dropout-based perturbation of pair features.
    """

    layers: Literal["two", "linear"] = "two"
    hidden: int = Field(512, ge=1)
    pair_feature: PairFeatureKind = "square"
    dropout: float = Field(0.5, ge=0.0, lt=1.0)


class MetricNetwork(nn.Module):
    """GMN's metric network over pair features of size d.

    DP starts switched off: the trainer calls `perturb(True)` after the warm-up. In evaluation mode
    it is always off.
    """

    def __init__(self, dimension: int, config: MetricNetworkConfig) -> None:
        super().__init__()
        self.dimension = dimension
        self.config = config
        self.perturbing = False
        if config.layers == "linear":
            self.classifier = nn.Sequential(nn.Linear(dimension, 2))
        else:
            self.classifier = nn.Sequential(
                nn.Linear(dimension, config.hidden),
                nn.BatchNorm1d(config.hidden),
                nn.ReLU(inplace=True),
                nn.Linear(config.hidden, 2),
            )

    def perturb(self, on: bool) -> None:
        """Switches DP on or off for training mode."""
        self.perturbing = on

    def pair_features(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        """Pair features `(…, d)` of the kind this network was built for, of unit features."""
        return pair_features(first, second, self.config.pair_feature)

    def forward(self, pairs: torch.Tensor) -> torch.Tensor:
        """Logits `(N, 2)` float32 of pair features `(N, d)`; column 1 is "the same person"."""
        if self.perturbing:
            pairs = functional.dropout(pairs, self.config.dropout, self.training)
        with torch.autocast(pairs.device.type, enabled=False):
            logits: torch.Tensor = self.classifier(pairs.float())
        return logits

    def scores(self, pairs: torch.Tensor) -> torch.Tensor:
        """s(p, q) = logit₁ − logit₀, `(N,)`: higher means the same person."""
        logits = self.forward(pairs)
        return logits[:, 1] - logits[:, 0]
