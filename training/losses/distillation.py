"""Distillation: a student learns a ready-made teacher's features, and how it relates crops."""

from __future__ import annotations

import torch
from torch.nn import functional


def feature_distillation_loss(projected: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """mean over crops of 1 − cos(student, teacher).

    Args:
        projected: the student's features, mapped to the teacher's size, `(B, t)`.
        teacher: the teacher's features of the same crops, `(B, t)`, of any length but 0.

    Returns:
        A scalar, 0 to 2.
    """
    return (1.0 - functional.cosine_similarity(projected.float(), teacher.float(), dim=1)).mean()


def relation_distillation_loss(
    student: torch.Tensor, teacher: torch.Tensor, temperature: float = 0.1
) -> torch.Tensor:
    """mean over crops of KL(teacher ‖ student) of whom a crop resembles in its batch.

    A crop's resemblances are the softmax of its cosine similarities to the batch's other crops,
    divided by the temperature (the similarity of probabilities, Passalis and Tefas, ECCV 2018).

    Args:
        student: features `(B, d)`.
        teacher: features of the same crops `(B, t)`.
        temperature: of both; a low one looks at the nearest only.

    Returns:
        A scalar, 0 where both order and space the batch alike.
    """
    return functional.kl_div(
        _log_resemblances(student, temperature),
        _log_resemblances(teacher, temperature),
        log_target=True,
        reduction="batchmean",
    )


def _log_resemblances(features: torch.Tensor, temperature: float) -> torch.Tensor:
    """Log-softmax over the other crops, `(B, B − 1)`."""
    units = functional.normalize(features.float(), dim=1)
    similarities = units @ units.T / temperature
    others = ~torch.eye(len(units), dtype=torch.bool, device=units.device)
    return functional.log_softmax(similarities[others].view(len(units), -1), dim=1)
