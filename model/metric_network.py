"""M-Net: pair features to the two logits "different" and "same", with DP while training."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import nn

from model.pair_features import PairFeatureKind, pair_features
from model.stored import Stored


class MetricNetworkConfig(Stored):
    """M-Net's architecture, as stored in an artefact.

    Attributes:
        layers: `two` is Linear d→hidden, BatchNorm, ReLU, Linear hidden→2; `linear` is Linear d→2.
        hidden: width of the hidden layer.
        pair_feature: `square` or `abs`.
        dropout: probability of DP, the dropout-based perturbation of pair features.
    """

    layers: Literal["two", "linear"] = "two"
    hidden: int = Field(512, ge=1)
    pair_feature: PairFeatureKind = "square"
    dropout: float = Field(0.5, ge=0.0, lt=1.0)


class MetricNetwork(nn.Module):
    """GMN's metric network over pair features of size d.

    DP starts switched off: the trainer calls `perturb(True)` after the warm-up. In evaluation mode
    it is off whatever was called.
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
            pairs = nn.functional.dropout(pairs, self.config.dropout, self.training)
        with torch.autocast(pairs.device.type, enabled=False):
            logits: torch.Tensor = self.classifier(pairs.float())
        return logits

    def scores(self, pairs: torch.Tensor) -> torch.Tensor:
        """s(p, q) = logit₁ − logit₀, `(N,)`: higher means the same person."""
        logits = self.forward(pairs)
        return logits[:, 1] - logits[:, 0]
