"""Distillation: a student learns a ready-made teacher's features, and how it relates crops."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from training.losses.base import Features, LossSettings, register_loss


@register_loss("anchor", needs="start")
def anchor(_: LossSettings, features: Features) -> Tensor:
    """Compute 1 − cosine between a crop's feature and the one by the initial weights."""
    assert features.start is not None
    return feature_distillation_loss(features.after_neck, features.start)


@register_loss("distilled_feature", needs="teachers")
class DistilledFeature(nn.Module):
    """1 − cosine between each teacher's feature and a projection of the student's."""

    def __init__(
        self,
        _settings: LossSettings,
        dimension: int,
        _classes: int,
        teachers: Sequence[int],
    ) -> None:
        super().__init__()
        self.projections = nn.ModuleList(
            nn.Linear(dimension, size, bias=False) for size in teachers
        )

    def forward(self, features: Features) -> Tensor:
        """Return the mean over teachers."""
        losses = [
            feature_distillation_loss(project(features.after_neck), teacher)
            for project, teacher in zip(self.projections, features.teachers, strict=True)
        ]
        return torch.stack(losses).mean()


class ResemblanceSettings(LossSettings):
    """Settings of a comparison of whom a crop resembles: the temperature of these resemblances."""

    temperature: float = Field(0.1, gt=0)


@register_loss("distilled_relation", ResemblanceSettings, needs="teachers")
def distilled_relation(settings: ResemblanceSettings, features: Features) -> Tensor:
    """Compare whom a crop resembles in its batch for teachers and student."""
    return relation_distillation_loss(
        features.after_neck,
        _together(features.teachers),
        settings.temperature,
    )


@register_loss("distilled_pair", ResemblanceSettings, needs="teachers")
def distilled_pair(settings: ResemblanceSettings, features: Features) -> Tensor:
    """Compare whom a crop resembles in its batch for teachers and by M-Net's scores."""
    scores = features.logits[:, 1] - features.logits[:, 0]
    return pair_distillation_loss(scores, _together(features.teachers), settings.temperature)


def _together(teachers: Sequence[Tensor]) -> Tensor:
    """Put unit features side by side: a cosine of them is the mean of the teachers' cosines."""
    return torch.cat(list(teachers), dim=1)


def feature_distillation_loss(projected: Tensor, teacher: Tensor) -> Tensor:
    """Compute the mean over crops of 1 − cos(student, teacher).

    Args:
        projected: the student's features, mapped to the teacher's size, `(B, t)`.
        teacher: the teacher's features of the same crops, `(B, t)`, of any length but 0.

    Returns:
        A scalar, 0 to 2.
    """
    cosines = functional.cosine_similarity(projected.float(), teacher.float(), dim=1)
    return (1.0 - cosines).mean()


def relation_distillation_loss(
    student: Tensor,
    teacher: Tensor,
    temperature: float = 0.1,
) -> Tensor:
    """Compute the mean over crops of KL(teacher ‖ student) of whom a crop resembles in its batch.

    A crop's resemblances are the softmax of its cosine similarities to the batch's other crops,
    divided by the temperature (the similarity of probabilities, Passalis and Tefas, ECCV 2018).

    Args:
        student: features `(B, d)`.
        teacher: features of the same crops `(B, t)`.
        temperature: temperature of both; a low one looks at the nearest only.

    Returns:
        A scalar, 0 if both order and space the batch alike.
    """
    return _divergence(_cosines(student) / temperature, _cosines(teacher) / temperature)


def pair_distillation_loss(
    scores: Tensor,
    teacher: Tensor,
    temperature: float = 0.1,
) -> Tensor:
    """Compute the same divergence, with M-Net's scores as the student's resemblances.

    Args:
        scores: s(p, q) of all pairs of the batch, ordered as by `torch.triu_indices`,
            `(B(B−1)/2,)`; logits already, so they know no temperature.
        teacher: features of the batch's crops `(B, t)`.
        temperature: temperature of the teacher's cosine similarities.

    Returns:
        A scalar.
    """
    size = len(teacher)
    first, second = torch.triu_indices(size, size, offset=1, device=scores.device)
    square = scores.new_zeros((size, size))
    square = square.index_put((first, second), scores.float())
    return _divergence(square + square.T, _cosines(teacher) / temperature)


def _cosines(features: Tensor) -> Tensor:
    units = functional.normalize(features.float(), dim=1)
    return units @ units.T


def _divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """Compute the mean over rows of KL(teacher ‖ student) of similarities `(B, B)` to others."""
    others = ~torch.eye(len(student), dtype=torch.bool, device=student.device)

    def log_shares(similarities: Tensor) -> Tensor:
        return functional.log_softmax(similarities[others].view(len(student), -1), dim=1)

    return functional.kl_div(
        log_shares(student),
        log_shares(teacher),
        log_target=True,
        reduction="batchmean",
    )
