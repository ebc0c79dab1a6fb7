"""GMN's losses: L_gmn, M-Net's cross-entropy over pairs, and L_pic, the pair-identity centre."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from training.losses.base import Features, LossSettings, register_loss


class MetricSettings(LossSettings):
    """Settings of L_gmn.

    Attributes:
        perturbation_from_epoch: the first epoch with DP, counted from 0; null switches DP off.
    """

    perturbation_from_epoch: int | None = Field(10, ge=0)


@register_loss("gmn", MetricSettings)
def generalizable_metric_loss(_: MetricSettings, features: Features) -> Tensor:
    """Compute L_gmn: ½·mean over positive pairs + ½·mean over negative pairs.

    The two means keep the few positive pairs of a batch from being outweighed by the negatives. If
    all pairs are positive, or all negative, the loss is their mean. A scalar.
    """
    first, second = features.labels[features.pair_rows]
    same = first == second
    logits = features.logits.float()
    per_pair = functional.cross_entropy(logits, same.long(), reduction="none")
    # Masks, because the number of selected rows would have to be read from the GPU.
    masks = torch.stack((same, ~same)).to(per_pair.dtype)
    counts = masks.sum(dim=1)
    means = (masks * per_pair).sum(dim=1) / counts.clamp(min=1)
    return means.sum() / (counts > 0).sum()


class CenterSettings(LossSettings):
    """Settings of L_pic: its weight is λ."""

    weight: float = Field(0.1, ge=0)


@register_loss("pic", CenterSettings)
def pair_identity_center_loss(_: CenterSettings, features: Features) -> Tensor:
    """Compute L_pic: the mean squared difference of pair features from their centres.

    A pair identity is the unordered pair of two labels; its centre is the mean of this batch's pair
    features that have it. A pair identity with one pair adds 0. A scalar, the mean over pairs
    and dimensions.
    """
    pairs = features.pairs
    first, second = features.labels[features.pair_rows]
    low = torch.minimum(first, second)
    high = torch.maximum(first, second)
    # This numbers the pair identities from 0. torch.unique would wait for the GPU.
    ordered, order = (low * 2**32 + high).sort()
    new = (ordered[1:] != ordered[:-1]).long()
    numbers = torch.cat((new.new_zeros(1), new.cumsum(0)))
    membership = torch.empty_like(numbers).scatter(0, order, numbers)
    ones = pairs.new_ones(len(pairs))
    counts = torch.zeros_like(ones).index_add(0, membership, ones)
    sums = torch.zeros_like(pairs).index_add(0, membership, pairs)
    centers = sums / counts.clamp(min=1)[:, None]
    return (pairs - centers.index_select(0, membership)).square().mean()
