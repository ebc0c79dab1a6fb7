"""M-Net: pair features to the two logits "different" and "same", and the scores of many pairs.

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

from model.problems import InputProblem
from model.stored import Stored

PairFeatureKind = Literal["square", "abs"]
PAIRS_PER_CHUNK = 2048


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

    DP starts switched off: the trainer sets `perturbing` after the warm-up. In evaluation mode
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

    @torch.no_grad()
    def move_scores(self, by: float) -> None:
        """Adds `by` to the score of every pair, in the bias of the last layer."""
        bias = self.get_parameter(f"classifier.{len(self.classifier) - 1}.bias")
        bias.add_(bias.new_tensor([-by / 2.0, by / 2.0]))


@torch.inference_mode()
def score_pairs(
    metric_network: MetricNetwork,
    queries: torch.Tensor,
    gallery: torch.Tensor,
    pairs_per_chunk: int = PAIRS_PER_CHUNK,
) -> torch.Tensor:
    """M-Net's score s(p, q) of every pair, `(Q, G)` float32 on the features' device.

    A pair's score depends on its two features alone, never on the other candidates.

    Args:
        metric_network: in evaluation mode.
        queries, gallery: features `(Q, d)` and `(G, d)`.
        pairs_per_chunk: how many pair features exist at once; each takes 4·d bytes.

    Raises:
        InputProblem: when the features are not `(n, d)` with this network's d, or it is training.
    """
    for name, features in (("queries", queries), ("gallery", gallery)):
        if features.ndim != 2 or features.shape[1] != metric_network.dimension:
            raise InputProblem(
                f"{name} have shape {tuple(features.shape)}, but this M-Net compares features "
                f"(n, {metric_network.dimension}); embed them with the same artefact"
            )
    if metric_network.training:
        raise InputProblem("the metric network is in training mode; call .eval() before scoring")
    queries, gallery = unit_features(queries), unit_features(gallery)
    scores = queries.new_empty((len(queries), len(gallery)))
    columns = max(1, min(len(gallery), pairs_per_chunk))
    rows = max(1, pairs_per_chunk // columns)
    for row in range(0, len(queries), rows):
        for column in range(0, len(gallery), columns):
            first = queries[row : row + rows, None, :]
            second = gallery[None, column : column + columns, :]
            pairs = metric_network.pair_features(first, second)
            block = metric_network.scores(pairs.flatten(0, 1)).view(pairs.shape[:2])
            scores[row : row + rows, column : column + columns] = block
    return scores


@torch.inference_mode()
def cosine_similarities(queries: torch.Tensor, gallery: torch.Tensor) -> torch.Tensor:
    """Cosine of every pair, `(Q, G)` float32, of features `(Q, d)` and `(G, d)`."""
    return unit_features(queries) @ unit_features(gallery).T
