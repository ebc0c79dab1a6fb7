"""MSGR: the multi-scale gradient regulariser of MSFL's paper."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor

from training.losses.base import Features, LossSettings, register_loss

GradientNorm = Literal[1, 2, "inf"]


class RegulariserSettings(LossSettings):
    """Settings of MSGR.

    Attributes:
        weight: λ.
        stages: the stages whose outputs are regularised: 0 is the input, 1 to 4 are stages of the
            backbone.
        norm: q, the norm of a crop's gradient: 1, 2 or inf.
        exponent: r; with 1 the term is the first-order bound on the loss under perturbation.
    """

    weight: float = Field(1e-2, ge=0)
    stages: tuple[Annotated[int, Field(ge=0, le=4)], ...] = Field((1, 2), min_length=1)
    norm: GradientNorm = 2
    exponent: float = Field(2.0, ge=1)

    @field_validator("norm", mode="before")
    @classmethod
    def _infinity_by_name(cls, norm: object) -> object:
        return "inf" if norm == math.inf else norm

    @field_validator("stages")
    @classmethod
    def _once_from_the_input_on(cls, stages: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(sorted(set(stages)))


@register_loss("msgr", RegulariserSettings, needs="terms")
def msgr(settings: RegulariserSettings, features: Features) -> Tensor:
    """Compute MSGR of the sum of all other terms."""
    stages = [features.stages[stage] for stage in settings.stages]
    return gradient_regulariser(features.total, stages, settings.norm, settings.exponent)


def gradient_regulariser(
    loss: Tensor,
    stages: Sequence[Tensor],
    norm: GradientNorm = 2,
    exponent: float = 2.0,
) -> Tensor:
    """Compute Σ over stages of mean_i ‖g_i‖_q^r, with g_i = B·∂L/∂h_i, without a weight.

    A perturbation of a stage's output within a ball of radius σ raises the loss, to first order, by
    at most σ‖g‖_q, where q is dual to the ball's norm; this is the case r = 1. The factor B undoes
    the batch mean in L, so that the term does not shrink as the batch grows. If a BatchNorm or a
    pair loss couples the crops, g_i is the gradient of the whole batch's loss with respect to crop
    i.

    The term itself is differentiated (double backward), so that `loss` must have been computed from
    `stages` in float32.

    Args:
        loss: a scalar that depends on `stages`; its graph is kept.
        stages: outputs h of the regularised stages, `(B, …)` each.
        norm: q; the norm is over all entries of a crop's gradient.
        exponent: r, at least 1.

    Returns:
        A scalar; 0, with a gradient of 0, if the loss does not depend on the stages' values.
    """
    terms = []
    for gradient in torch.autograd.grad(loss, list(stages), create_graph=True):
        per_crop = (len(gradient) * gradient).flatten(1)
        # vector_norm has the gradient 0 at 0, so that no epsilon is needed.
        norms = torch.linalg.vector_norm(per_crop, ord=float(norm), dim=1)
        terms.append(norms.pow(exponent).mean())
    return torch.stack(terms).sum()
