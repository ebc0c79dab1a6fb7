"""MSGR: the multi-scale gradient regulariser of MSFL's paper."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch

GradientNorm = Literal[1, 2, "inf"]


def gradient_regulariser(
    loss: torch.Tensor,
    stages: Sequence[torch.Tensor],
    norm: GradientNorm = 2,
    exponent: float = 2.0,
) -> torch.Tensor:
    """Σ over stages of mean_i ‖g_i‖_q^r, with g_i = B·∂L/∂h_i; its weight is the caller's.

    A perturbation of a stage's output within a ball of radius σ raises the loss, to first order, by
    at most σ‖g‖_q, q being dual to the ball's norm: that is r = 1. B undoes the batch mean in L, so
    that the term does not shrink as the batch grows. Where a BatchNorm or a pair loss couples the
    crops, g_i is the gradient of the whole batch's loss by crop i.

    The term is differentiated through (double backward), so `loss` must have been computed from
    `stages` in float32. In a training step:

        features = embedder.features(images, stages=settings.stages)
        terms = loss_terms(networks, features, labels, losses)
        loss = torch.stack(list(terms.values())).sum()
        terms["gradient"] = settings.weight * gradient_regulariser(
            loss, features.stages, settings.norm, settings.exponent
        )

    Args:
        loss: a scalar that depends on `stages`; its graph is kept.
        stages: outputs h of the regularised stages, `(B, …)` each.
        norm: q, of the gradient over all of a crop's entries.
        exponent: r, from 1.

    Returns:
        A scalar; 0, with a gradient of 0, where the loss does not move.
    """
    gradients = torch.autograd.grad(loss, list(stages), create_graph=True)
    return torch.stack(
        [_norms(len(one) * one, norm).pow(exponent).mean() for one in gradients]
    ).sum()


def _norms(gradient: torch.Tensor, norm: GradientNorm) -> torch.Tensor:
    """‖·‖_q of each crop's gradient `(B, …)`: `(B,)`; vector_norm's own gradient at 0 is 0."""
    lengths: torch.Tensor = torch.linalg.vector_norm(gradient.flatten(1), ord=float(norm), dim=1)
    return lengths
