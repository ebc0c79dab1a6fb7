"""The two-step alternative to MSGR: train on features moved to where the loss grows fastest."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from training.losses.gradient_regulariser import GradientNorm


def adversarial_perturbations(
    loss: torch.Tensor,
    stages: Sequence[torch.Tensor],
    norm: GradientNorm = 2,
    size: float = 1.0,
) -> tuple[torch.Tensor, ...]:
    """ε that raises the loss most, to first order, within ‖ε_i‖_p ≤ σ on each stage.

    p is dual to q, the norm in which the regulariser measures the gradient: q = 2 moves along the
    gradient (p = 2), q = 1 every entry by σ (p = ∞), q = ∞ the steepest entry alone (p = 1).

    In a training step the perturbed features take the place of the others:

        features = embedder.features(images, stages=settings.stages)
        loss = torch.stack(list(loss_terms(networks, features, labels, losses).values())).sum()
        moved = adversarial_perturbations(loss, features.stages, settings.norm, settings.weight)
        features = embedder.features(images, stages=settings.stages, perturbations=moved)
        terms = loss_terms(networks, features, labels, losses)

    Args:
        loss: a scalar that depends on `stages`; its graph is used up.
        stages: outputs h, `(B, …)` each.
        norm: q.
        size: σ, in the units of h.

    Returns:
        For each stage ε in its shape, detached; 0 for a crop whose gradient is 0.
    """
    gradients = torch.autograd.grad(loss, list(stages))
    return tuple(size * _steepest(gradient, norm) for gradient in gradients)


def _steepest(gradient: torch.Tensor, norm: GradientNorm) -> torch.Tensor:
    """The unit perturbation along which a gradient `(B, …)` grows fastest."""
    flat = gradient.flatten(1)
    if norm == 1:
        steepest = flat.sign()
    elif norm == 2:
        lengths = torch.linalg.vector_norm(flat, dim=1, keepdim=True)
        steepest = flat / lengths.clamp(min=torch.finfo(flat.dtype).tiny)
    else:
        largest = flat.abs().argmax(dim=1, keepdim=True)
        steepest = torch.zeros_like(flat).scatter(1, largest, flat.gather(1, largest).sign())
    return steepest.view_as(gradient)
