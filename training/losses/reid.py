"""L_cls, identity classification, and L_tri, the batch-hard triplet loss (Hermans et al., 2017)."""

from __future__ import annotations

from typing import Literal

import torch
from torch.nn import functional

TripletForm = Literal["euclidean", "cosine"]


def identity_loss(
    logits: torch.Tensor, labels: torch.Tensor, label_smoothing: float = 0.1
) -> torch.Tensor:
    """L_cls: cross-entropy of identity logits `(B, C)` against labels `(B,)`; a scalar."""
    return functional.cross_entropy(logits.float(), labels, label_smoothing=label_smoothing)


def margin_identity_loss(
    features: torch.Tensor,
    class_weights: torch.Tensor,
    labels: torch.Tensor,
    margin: float = 0.3,
    scale: float = 30.0,
) -> torch.Tensor:
    """L_cls: cross-entropy of scale · (cosine − margin of the right class) (CosFace, CVPR 2018).

    Args:
        features: `(B, d)`, of any length but 0.
        class_weights: a direction for each identity, `(C, d)`.
        labels: `(B,)`.
        margin: taken from the cosine to the crop's own identity.
        scale: of all cosines.

    Returns:
        A scalar.
    """
    cosines = functional.normalize(features.float()) @ functional.normalize(class_weights.float()).T
    margins = torch.zeros_like(cosines).scatter(1, labels[:, None], margin)
    return functional.cross_entropy(scale * (cosines - margins), labels)


def triplet_loss(
    features: torch.Tensor,
    labels: torch.Tensor,
    margin: float = 0.3,
    form: TripletForm = "euclidean",
) -> torch.Tensor:
    """L_tri: mean over anchors of max(0, farthest positive − nearest negative + margin).

    Args:
        features: `(B, d)` before the BNNeck.
        labels: `(B,)`.
        margin: in units of the distance.
        form: which distance: Euclidean, or 1 − cosine.

    Returns:
        A scalar; an anchor without a positive or without a negative counts 0.
    """
    if form == "cosine":
        units = functional.normalize(features.float())
        distances = 1.0 - units @ units.T
    else:
        distances = _euclidean(features.float())
    same = labels[:, None] == labels[None, :]
    itself = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    positives, negatives = same & ~itself, ~same
    farthest = distances.masked_fill(~positives, -torch.inf).amax(dim=1)
    nearest = distances.masked_fill(~negatives, torch.inf).amin(dim=1)
    usable = positives.any(dim=1) & negatives.any(dim=1)
    violations = functional.relu(
        torch.where(usable, farthest, 0.0) - torch.where(usable, nearest, 0.0) + margin
    )
    return torch.where(usable, violations, 0.0).mean()


def _euclidean(features: torch.Tensor) -> torch.Tensor:
    squares = features.square().sum(dim=1)
    squared = squares[:, None] + squares[None, :] - 2.0 * features @ features.T
    # The root has no gradient at 0, which every feature has against itself.
    return squared.clamp(min=1e-12).sqrt()
