"""M-Net's ranking loss and what keeps its scores near the cosine."""

from __future__ import annotations

import math

import pytest
import torch

from training.metric_fit import cosine_anchor_loss, pair_ranking_loss


def test_each_positive_pair_is_compared_with_its_query_s_negatives() -> None:
    scores = torch.tensor([[2.0, 1.0, 0.5], [0.0, 3.0, 9.0]])
    same = torch.tensor([[True, False, False], [False, True, True]])
    counted = torch.tensor([[True, True, True], [True, True, False]])
    first = math.log(1 + math.exp(1.0 - 2.0) + math.exp(0.5 - 2.0))
    second = math.log(1 + math.exp(0.0 - 3.0))
    found = pair_ranking_loss(scores, same, counted)
    assert found.item() == pytest.approx((first + second) / 2, rel=1e-5)


def test_a_query_s_own_offset_changes_no_ranking() -> None:
    scores = torch.randn(4, 7)
    same = torch.rand(4, 7) < 0.4
    counted = torch.ones_like(same)
    moved = scores + torch.tensor([[0.0], [5.0], [-3.0], [9.0]])
    found = pair_ranking_loss(moved, same, counted).item()
    assert found == pytest.approx(pair_ranking_loss(scores, same, counted).item(), rel=1e-4)


@pytest.mark.parametrize("same", [True, False])
def test_queries_that_rank_nothing_add_nothing(same: bool) -> None:
    scores = torch.randn(3, 4, requires_grad=True)
    of_one = torch.full((3, 4), same)
    loss = pair_ranking_loss(scores, of_one, torch.ones_like(of_one))
    loss.backward()
    assert loss.item() == 0.0
    assert scores.grad is not None
    assert torch.equal(scores.grad, torch.zeros(3, 4))


def test_scores_that_are_the_cosine_in_other_units_are_near_it() -> None:
    cosines = torch.rand(50)
    assert cosine_anchor_loss(40 * cosines - 7, cosines).item() == pytest.approx(0.0, abs=1e-6)
    assert cosine_anchor_loss(-cosines, cosines).item() > 1.0


def test_scores_in_another_order_are_drawn_to_that_of_the_cosine() -> None:
    cosines = torch.tensor([0.1, 0.5, 0.9])
    scores = torch.tensor([0.5, 0.1, 0.9])
    for _ in range(200):
        scores.requires_grad_()
        (gradient,) = torch.autograd.grad(cosine_anchor_loss(scores, cosines), scores)
        scores = (scores - 0.1 * gradient).detach()
    assert scores.argsort().tolist() == [0, 1, 2]
