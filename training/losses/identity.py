"""L_cls: identity classification with label smoothing."""

from __future__ import annotations

import torch
from torch.nn import functional


def identity_loss(
    logits: torch.Tensor, labels: torch.Tensor, label_smoothing: float = 0.1
) -> torch.Tensor:
    """Cross-entropy of identity logits `(B, C)` against labels `(B,)`; a scalar."""
    return functional.cross_entropy(logits.float(), labels, label_smoothing=label_smoothing)
