"""L_pic: the pair-identity centre loss of GMN."""

from __future__ import annotations

import torch


def pair_identity_center_loss(
    pairs: torch.Tensor, first_labels: torch.Tensor, second_labels: torch.Tensor
) -> torch.Tensor:
    """Mean squared difference of each pair feature and the centre of its pair identity.

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
    membership = _number(low * 2**32 + high)
    counts = pairs.new_zeros(len(pairs)).index_add(0, membership, pairs.new_ones(len(pairs)))
    sums = torch.zeros_like(pairs).index_add(0, membership, pairs)
    centers = sums / counts.clamp(min=1)[:, None]
    return (pairs - centers.index_select(0, membership)).square().mean()


def _number(keys: torch.Tensor) -> torch.Tensor:
    """Numbers equal keys alike, from 0; unlike torch.unique it never waits for a GPU."""
    ordered, order = keys.sort()
    new = (ordered[1:] != ordered[:-1]).long()
    numbers = torch.cat((new.new_zeros(1), new.cumsum(0)))
    return torch.empty_like(numbers).scatter(0, order, numbers)
