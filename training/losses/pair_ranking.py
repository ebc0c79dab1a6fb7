"""Two terms on M-Net's scores of a batch: ranking, and staying near the cosine."""

from __future__ import annotations

import torch
from torch.nn import functional

from model.pair_features import pair_matrix


def pair_ranking_loss(scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """mean over positive pairs of log(1 + Σ over the crop's negatives of exp(s_negative − s)).

    A search ranks crops by their scores: what counts is how far each crop of the same person lies
    above all of other people, not what the scores themselves are.

    Args:
        scores: s(p, q) of all pairs of the batch in the order of `batch_pairs`, `(B(B−1)/2,)`.
        labels: `(B,)`.

    Returns:
        A scalar; 0 for a batch without a positive pair.
    """
    square = pair_matrix(scores.float(), len(labels))
    same = labels[:, None] == labels
    others = ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    negatives = square.masked_fill(same, float("-inf")).logsumexp(dim=1, keepdim=True)
    positive = (same & others).to(square.dtype)
    # softplus(x) is log(1 + e^x); a crop whose batch has no other people has nothing to lose.
    losses = functional.softplus(negatives.clamp(min=-1e4) - square)
    return (positive * losses).sum() / positive.sum().clamp(min=1)


def cosine_anchor_loss(scores: torch.Tensor, cosines: torch.Tensor) -> torch.Tensor:
    """mean squared difference of scores and cosines, each with mean 0 and standard deviation 1.

    So a correction of the cosine stays small beside it. No gradient passes through the standard
    deviation: scores far from the cosine would else be drawn to it by growing.

    Args:
        scores: s(p, q) of pairs, `(N,)`.
        cosines: of the same pairs, `(N,)`.

    Returns:
        A scalar.
    """
    scores, cosines = scores.float(), cosines.float()
    least = torch.finfo(scores.dtype).eps
    found = (scores - scores.mean()) / scores.std().detach().clamp(min=least)
    wanted = (cosines - cosines.mean()) / cosines.std().clamp(min=least)
    return (found - wanted).square().mean()
