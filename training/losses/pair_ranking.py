"""Two terms on M-Net's scores of queries and candidates: ranking, and staying near the cosine."""

from __future__ import annotations

import torch
from torch.nn import functional


def pair_ranking_loss(
    scores: torch.Tensor, same: torch.Tensor, counted: torch.Tensor
) -> torch.Tensor:
    """mean over positive pairs of log(1 + Σ over the query's negatives of exp(s_negative − s)).

    A search ranks candidates by their scores: what counts is how far each crop of the person lies
    above all of other people, not what the scores themselves are.

    Args:
        scores: s(p, q) of Q queries and C candidates each, `(Q, C)`.
        same: whether a pair is of one person, `(Q, C)` bool.
        counted: which pairs take part, `(Q, C)` bool.

    Returns:
        A scalar; 0 where no positive pair is counted.
    """
    negatives = scores.masked_fill(same | ~counted, float("-inf")).logsumexp(dim=1, keepdim=True)
    positive = (same & counted).to(scores.dtype)
    # softplus(x) is log(1 + e^x); a query without negatives, at −∞, has nothing to learn.
    losses = functional.softplus(negatives.clamp(min=-1e4) - scores)
    return (positive * losses).sum() / positive.sum().clamp(min=1)


def cosine_anchor_loss(scores: torch.Tensor, cosines: torch.Tensor) -> torch.Tensor:
    """mean squared difference of scores and cosines, each with mean 0 and standard deviation 1.

    So M-Net's correction of the cosine stays small beside it. No gradient passes through the
    scores' standard deviation: they may grow.

    Args:
        scores: s(p, q) of pairs, `(N,)`.
        cosines: of the same pairs, `(N,)`.

    Returns:
        A scalar.
    """
    least = torch.finfo(scores.dtype).eps
    found = (scores - scores.mean()) / scores.std().detach().clamp(min=least)
    wanted = (cosines - cosines.mean()) / cosines.std().clamp(min=least)
    return (found - wanted).square().mean()
