"""L_cls: identity classification, by a linear layer or by cosines with a margin."""

from __future__ import annotations

import torch
from torch.nn import functional


def identity_loss(
    logits: torch.Tensor, labels: torch.Tensor, label_smoothing: float = 0.1
) -> torch.Tensor:
    """Cross-entropy of identity logits `(B, C)` against labels `(B,)`; a scalar."""
    return functional.cross_entropy(logits.float(), labels, label_smoothing=label_smoothing)


def margin_identity_loss(
    features: torch.Tensor,
    class_weights: torch.Tensor,
    labels: torch.Tensor,
    margin: float = 0.3,
    scale: float = 30.0,
) -> torch.Tensor:
    """Cross-entropy of scale · (cosine − margin where the class is right) (CosFace, CVPR 2018).

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
