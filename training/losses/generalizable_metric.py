"""L_gmn: M-Net's cross-entropy over all pairs of a batch."""

from __future__ import annotations

import torch
from torch.nn import functional


def generalizable_metric_loss(logits: torch.Tensor, same: torch.Tensor) -> torch.Tensor:
    """½·mean over positive pairs + ½·mean over negative pairs.

    Averaged apart, so that the few positive pairs of a batch are not drowned by the negatives.

    Args:
        logits: `(N, 2)`, column 1 is "the same person".
        same: `(N,)` bool.

    Returns:
        A scalar; a batch with pairs of one sort only is averaged over these.
    """
    per_pair = functional.cross_entropy(logits.float(), same.long(), reduction="none")
    # No row is picked out: a GPU would have to be waited for to know how many there are.
    sorts = torch.stack((same, ~same)).to(per_pair.dtype)
    counts = sorts.sum(dim=1)
    means = (sorts * per_pair).sum(dim=1) / counts.clamp(min=1)
    return means.sum() / (counts > 0).sum()
