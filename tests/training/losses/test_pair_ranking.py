"""M-Net's ranking loss and what keeps its scores near the cosine."""

from __future__ import annotations

import math

import pytest
import torch

from training.losses.pair_ranking import cosine_anchor_loss, pair_ranking_loss


def test_each_pair_of_one_person_is_compared_with_the_crops_negatives() -> None:
    # Pairs (0,1), (0,2), (1,2): the first is of one person.
    scores = torch.tensor([2.0, 1.0, -1.0])
    expected = (math.log(1 + math.exp(1.0 - 2.0)) + math.log(1 + math.exp(-1.0 - 2.0))) / 2
    found = pair_ranking_loss(scores, torch.tensor([4, 4, 9]))
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_an_offset_of_all_scores_changes_no_ranking() -> None:
    scores, labels = torch.randn(28), torch.arange(8) // 2
    found = pair_ranking_loss(scores + 7.0, labels)
    assert found.item() == pytest.approx(pair_ranking_loss(scores, labels).item(), rel=1e-4)


@pytest.mark.parametrize("labels", [[0, 1, 2], [5, 5, 5]])
def test_a_batch_that_ranks_nothing_adds_nothing(labels: list[int]) -> None:
    scores = torch.randn(3, requires_grad=True)
    loss = pair_ranking_loss(scores, torch.tensor(labels))
    loss.backward()
    assert loss.item() == 0.0
    assert scores.grad is not None
    assert torch.equal(scores.grad, torch.zeros(3))


def test_scores_that_are_the_cosine_in_other_units_are_near_it() -> None:
    cosines = torch.rand(50)
    assert cosine_anchor_loss(40 * cosines - 7, cosines).item() == pytest.approx(0.0, abs=1e-6)
    assert cosine_anchor_loss(-cosines, cosines).item() > 1.0


def test_scores_are_drawn_to_the_cosine_and_not_only_made_larger() -> None:
    cosines = torch.tensor([0.1, 0.5, 0.9])
    scores = torch.tensor([0.5, 0.1, 0.9], requires_grad=True)
    for _ in range(200):
        (gradient,) = torch.autograd.grad(cosine_anchor_loss(scores, cosines), scores)
        scores = (scores - 0.1 * gradient).detach().requires_grad_()
    assert scores.argsort().tolist() == [0, 1, 2]
    assert float(scores.detach().std()) < 2.0
