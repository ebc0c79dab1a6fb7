"""MSGR: the multi-scale gradient regulariser of MSFL's paper."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field, field_validator

from training.losses.base import Features, LossSettings, register_loss

GradientNorm = Literal[1, 2, "inf"]


class StageSettings(LossSettings):
    """Of what works on the outputs of stages.

    Attributes:
        weight: of MSGR λ, of the adversary σ.
        stages: whose outputs: 0 is the input, 1 to 4 the backbone's stages.
        norm: q, of a crop's gradient: 1, 2 or inf.
    """

    weight: float = Field(1e-2, ge=0)
    stages: tuple[Annotated[int, Field(ge=0, le=4)], ...] = Field((1, 2), min_length=1)
    norm: GradientNorm = 2

    @field_validator("norm", mode="before")
    @classmethod
    def _infinity_by_name(cls, norm: object) -> object:
        return "inf" if norm == math.inf else norm

    @field_validator("stages")
    @classmethod
    def _once_from_the_input_on(cls, stages: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(sorted(set(stages)))


class RegulariserSettings(StageSettings):
    """Of MSGR: also r, the exponent; 1 is the first-order bound on the loss under perturbation."""

    exponent: float = Field(2.0, ge=1)


@register_loss("msgr", RegulariserSettings, needs="terms")
def msgr(settings: RegulariserSettings, features: Features) -> torch.Tensor:
    """MSGR of the sum of all other terms."""
    stages = [features.stages[stage] for stage in settings.stages]
    return gradient_regulariser(features.total, stages, settings.norm, settings.exponent)


@register_loss("adversarial", StageSettings, perturbs=True)
def adversarial(settings: StageSettings, features: Features) -> tuple[torch.Tensor, ...]:
    """The perturbations of the stages under which the sum of all other terms is then minimised."""
    stages = list(features.stages.values())
    return adversarial_perturbations(features.total, stages, settings.norm, settings.weight)


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
    `stages` in float32.

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


def adversarial_perturbations(
    loss: torch.Tensor,
    stages: Sequence[torch.Tensor],
    norm: GradientNorm = 2,
    size: float = 1.0,
) -> tuple[torch.Tensor, ...]:
    """The two-step alternative to MSGR: ε that raises the loss most within ‖ε_i‖_p ≤ σ.

    It does so to first order, on each stage i.

    p is dual to q, the norm in which the regulariser measures the gradient: q = 2 moves along the
    gradient (p = 2), q = 1 every entry by σ (p = ∞), q = ∞ the steepest entry alone (p = 1).

    In a training step the perturbed features take the place of the others.

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
