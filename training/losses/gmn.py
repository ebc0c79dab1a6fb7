"""GMN's two terms: L_gmn, M-Net's cross-entropy over pairs, and L_pic, the pair-identity centre."""

from __future__ import annotations

import torch
from torch.nn import functional


def generalizable_metric_loss(logits: torch.Tensor, same: torch.Tensor) -> torch.Tensor:
    """L_gmn: ½·mean over positive pairs + ½·mean over negative pairs.

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


def pair_identity_center_loss(
    pairs: torch.Tensor, first_labels: torch.Tensor, second_labels: torch.Tensor
) -> torch.Tensor:
    """L_pic: mean squared difference of each pair feature and the centre of its pair identity.

    A pair identity is the unordered pair of its two labels; its centre is the mean of this batch's
    pair features that share it. A pair identity seen once is its own centre and adds 0.

    Args:
        pairs: pair features `(N, d)`.
        first_labels, second_labels: labels of the two crops of each pair, `(N,)` int64.

    Returns:
        A scalar, the mean over pairs and dimensions.
    """
    low = torch.minimum(first_labels, second_labels)
    high = torch.maximum(first_labels, second_labels)
    # Numbers pair identities from 0; unlike torch.unique it never waits for a GPU.
    ordered, order = (low * 2**32 + high).sort()
    new = (ordered[1:] != ordered[:-1]).long()
    numbers = torch.cat((new.new_zeros(1), new.cumsum(0)))
    membership = torch.empty_like(numbers).scatter(0, order, numbers)
    counts = pairs.new_zeros(len(pairs)).index_add(0, membership, pairs.new_ones(len(pairs)))
    sums = torch.zeros_like(pairs).index_add(0, membership, pairs)
    centers = sums / counts.clamp(min=1)[:, None]
    return (pairs - centers.index_select(0, membership)).square().mean()
