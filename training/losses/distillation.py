"""Distillation losses: a student learns features, and similarities of crops, of a teacher."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from training.losses.base import Features, LossSettings, register_loss

# With a low temperature only the nearest crops matter.
TEMPERATURE = 0.1


@register_loss("anchor", needs="start")
def anchor(_: LossSettings, features: Features) -> Tensor:
    """Compute 1 − cosine between a crop's feature and that by the initial weights."""
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
        losses = [
            feature_distillation_loss(project(features.after_neck), teacher)
            for project, teacher in zip(self.projections, features.teachers, strict=True)
        ]
        return torch.stack(losses).mean()


@register_loss("distilled_relation", needs="teachers")
def distilled_relation(_: LossSettings, features: Features) -> Tensor:
    """Compare the student's similarities within a batch with the teachers'."""
    # The cosine of concatenated unit features is the mean of the teachers' cosines.
    concatenated = torch.cat(features.teachers, dim=1)
    return relation_distillation_loss(features.after_neck, concatenated)


def feature_distillation_loss(projected: Tensor, teacher: Tensor) -> Tensor:
    """Compute the mean over crops of 1 − cos(student, teacher).

    Args:
        projected: the student's features, mapped to the teacher's size, `(B, t)`.
        teacher: the teacher's features of the same crops, `(B, t)`, not zero.

    Returns:
        A scalar, 0 to 2.
    """
    cosines = functional.cosine_similarity(projected.float(), teacher.float(), dim=1)
    return (1.0 - cosines).mean()


def relation_distillation_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Compute the mean over crops of KL(teacher ‖ student) between similarity distributions.

    A crop's distribution is the softmax, at `TEMPERATURE`, of its cosines to the other crops of the
    batch (Passalis and Tefas, Probabilistic Knowledge Transfer, ECCV 2018).

    Args:
        student: features `(B, d)`.
        teacher: features of the same crops `(B, t)`.

    Returns:
        A scalar; 0 if both distributions are the same.
    """
    return functional.kl_div(
        _log_resemblances(student),
        _log_resemblances(teacher),
        log_target=True,
        reduction="batchmean",
    )


def _log_resemblances(features: Tensor) -> Tensor:
    """Return the logarithm of each crop's distribution over the others, `(B, B − 1)`."""
    units = functional.normalize(features.float(), dim=1)
    cosines = units @ units.T
    others = ~torch.eye(len(units), dtype=torch.bool, device=units.device)
    return functional.log_softmax(cosines[others].view(len(units), -1) / TEMPERATURE, dim=1)
