"""Distillation: what a student has learnt costs nothing, and what it has not learnt moves it."""

import pytest
import torch

from training.losses.distillation import (
    feature_distillation_loss,
    relation_distillation_loss,
)


@pytest.fixture
def teacher():
    return torch.randn(8, 16, generator=torch.Generator().manual_seed(0))


def test_a_student_in_the_teachers_directions_has_no_feature_loss(teacher):
    assert feature_distillation_loss(3.0 * teacher, teacher).item() == pytest.approx(0.0, abs=1e-6)
    assert feature_distillation_loss(-teacher, teacher).item() == pytest.approx(2.0, abs=1e-6)


def test_relations_ignore_a_rotation_of_the_students_space(teacher):
    rotation, _ = torch.linalg.qr(torch.randn(16, 16, generator=torch.Generator().manual_seed(1)))
    assert relation_distillation_loss(teacher @ rotation, teacher).item() < 1e-5


def test_relations_are_the_divergence_of_whom_a_crop_resembles(teacher):
    student = torch.randn(8, 5, generator=torch.Generator().manual_seed(2))

    def resemblances(features, crop):
        units = features / features.norm(dim=1, keepdim=True)
        cosines = torch.stack([units[crop] @ units[o] for o in range(8) if o != crop])
        return torch.softmax(cosines / 0.1, dim=0)

    expected = torch.stack(
        [
            (p * (p / q).log()).sum()
            for p, q in ((resemblances(teacher, c), resemblances(student, c)) for c in range(8))
        ]
    ).mean()
    found = relation_distillation_loss(student, teacher)
    assert found.item() == pytest.approx(expected.item(), rel=1e-4)
