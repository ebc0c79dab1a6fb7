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
    keys = torch.stack((low, high), dim=1)
    identities, membership = torch.unique(keys, dim=0, return_inverse=True)
    counts = torch.bincount(membership, minlength=len(identities)).to(pairs.dtype)
    sums = pairs.new_zeros((len(identities), pairs.shape[1])).index_add(0, membership, pairs)
    centers = sums / counts[:, None]
    return (pairs - centers.index_select(0, membership)).square().mean()
