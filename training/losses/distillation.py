"""Distillation: a student learns a ready-made teacher's features, and how it relates crops."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import nn
from torch.nn import functional


def distillation_terms(
    features: torch.Tensor,
    logits: torch.Tensor | None,
    teachers: Sequence[torch.Tensor],
    projections: Iterable[nn.Module],
    *,
    feature: float,
    relation: float,
    pair: float,
    temperature: float,
) -> dict[str, torch.Tensor]:
    """The weighted terms of a student, by name: `distilled_feature`, `…_relation`, `…_pair`.

    Args:
        features: the student's, after the neck, `(B, d)`.
        logits: M-Net's of the batch's pairs, `(N, 2)`; None where L_gmn is off.
        teachers: each teacher's features of the batch's crops, `(B, t)`, of unit length.
        projections: of the student's features to each teacher's.
        feature, relation, pair: weights of the terms.
        temperature: of the resemblances that the last two compare.
    """
    terms: dict[str, torch.Tensor] = {}
    # Unit features side by side: a cosine of them is the mean of the teachers' cosines.
    together = torch.cat(list(teachers), dim=1)
    if feature:
        each = [
            feature_distillation_loss(project(features), teacher)
            for project, teacher in zip(projections, teachers, strict=True)
        ]
        terms["distilled_feature"] = feature * torch.stack(each).mean()
    if relation:
        loss = relation_distillation_loss(features, together, temperature)
        terms["distilled_relation"] = relation * loss
    if pair and logits is not None:
        loss = pair_distillation_loss(logits[:, 1] - logits[:, 0], together, temperature)
        terms["distilled_pair"] = pair * loss
    return terms


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
    return _divergence(_cosines(student) / temperature, _cosines(teacher) / temperature)


def pair_distillation_loss(
    scores: torch.Tensor, teacher: torch.Tensor, temperature: float = 0.1
) -> torch.Tensor:
    """The same divergence, where the student's resemblances are M-Net's scores.

    Args:
        scores: s(p, q) of all pairs of the batch, ordered as by `torch.triu_indices`,
            `(B(B−1)/2,)`; logits already, so they know no temperature.
        teacher: features of the batch's crops `(B, t)`.
        temperature: of the teacher's cosine similarities.

    Returns:
        A scalar.
    """
    size = len(teacher)
    first, second = torch.triu_indices(size, size, offset=1, device=scores.device)
    square = scores.new_zeros((size, size)).index_put((first, second), scores.float())
    return _divergence(square + square.T, _cosines(teacher) / temperature)


def _cosines(features: torch.Tensor) -> torch.Tensor:
    units = functional.normalize(features.float(), dim=1)
    return units @ units.T


def _divergence(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """mean over rows of KL(teacher ‖ student) of similarities `(B, B)` to all others."""
    others = ~torch.eye(len(student), dtype=torch.bool, device=student.device)

    def log_shares(similarities: torch.Tensor) -> torch.Tensor:
        return functional.log_softmax(similarities[others].view(len(student), -1), dim=1)

    return functional.kl_div(
        log_shares(student), log_shares(teacher), log_target=True, reduction="batchmean"
    )
