"""MSGR: the term and its gradient against finite differences, and its invariances."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from training.losses.msgr import gradient_regulariser

LABELS = torch.tensor([0, 1, 2, 0])
NORMS: list[Any] = [1, 2, "inf"]


class Small(nn.Module):
    """Two smooth stages and a head, in float64, with and without a BatchNorm between crops."""

    def __init__(self, batch_norm=True):
        super().__init__()
        torch.manual_seed(3)
        self.first = nn.Conv2d(1, 2, 3)
        self.second = nn.Conv2d(2, 3, 2)
        self.norm = nn.BatchNorm2d(3) if batch_norm else nn.Identity()
        self.head = nn.Linear(3, 3)
        self.double()

    def loss(self, crops, labels, moved=0.0):
        """Return the identity loss with `moved` added to the first stage, and both stages."""
        first = torch.tanh(self.first(crops)) + moved
        second = functional.softplus(self.norm(self.second(first)))
        logits = self.head(second.mean(dim=(2, 3)))
        return functional.cross_entropy(logits, labels), (first, second)


@pytest.fixture
def crops():
    torch.manual_seed(5)
    return torch.rand(4, 1, 5, 4, dtype=torch.float64)


def slopes(function, at):
    """Return the gradient of a function by central differences, entry by entry."""
    found = torch.zeros_like(at)
    for place in range(at.numel()):
        step = torch.zeros_like(at)
        step.view(-1)[place] = 1e-5
        found.view(-1)[place] = (function(at + step) - function(at - step)) / 2e-5
    return found


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("exponent", [1.0, 2.0])
def test_the_term_is_the_mean_norm_of_each_crops_gradient(crops, norm, exponent):
    network = Small()
    loss, (first, _) = network.loss(crops, LABELS)
    term = gradient_regulariser(loss, [first], norm, exponent)
    gradient = slopes(
        lambda moved: network.loss(crops, LABELS, moved)[0].item(), torch.zeros_like(first)
    )
    lengths = torch.linalg.vector_norm(4 * gradient.flatten(1), ord=float(norm), dim=1)
    assert term.item() == pytest.approx(lengths.pow(exponent).mean().item(), rel=1e-6)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("exponent", [1.0, 2.0])
def test_its_gradient_by_the_parameters_is_the_double_backwards(crops, norm, exponent):
    network = Small()
    weight = network.first.weight

    def term():
        loss, stages = network.loss(crops, LABELS)
        return gradient_regulariser(loss, stages, norm, exponent)

    def term_at(value):
        kept = weight.detach().clone()
        with torch.no_grad():
            weight.copy_(value)
        found = term().item()
        with torch.no_grad():
            weight.copy_(kept)
        return found

    (gradient,) = torch.autograd.grad(term(), weight)
    expected = slopes(term_at, weight.detach().clone())
    assert torch.allclose(gradient, expected, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("norm", NORMS)
def test_a_batch_taken_twice_has_the_same_term_although_its_crops_share_a_batch_norm(crops, norm):
    network = Small()
    terms = [
        gradient_regulariser(*network.loss(batch, labels), norm).item()
        for batch, labels in (
            (crops, LABELS),
            (torch.cat((crops, crops)), torch.cat((LABELS, LABELS))),
        )
    ]
    assert terms[0] == pytest.approx(terms[1], rel=1e-10)


def test_without_a_batch_norm_a_batchs_term_is_the_mean_of_its_crops_own(crops):
    network = Small(batch_norm=False)
    together = gradient_regulariser(*network.loss(crops, LABELS)).item()
    alone = [
        gradient_regulariser(*network.loss(crops[[row]], LABELS[[row]])).item() for row in range(4)
    ]
    assert together == pytest.approx(sum(alone) / 4, rel=1e-10)


def test_the_term_of_several_stages_is_the_sum_of_theirs(crops):
    network = Small()
    loss, stages = network.loss(crops, LABELS)
    both = gradient_regulariser(loss, stages).item()
    assert both == pytest.approx(
        sum(gradient_regulariser(loss, [stage]).item() for stage in stages)
    )


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("exponent", [1.0, 2.0])
def test_a_loss_that_does_not_move_gives_nothing_and_no_nan(norm, exponent):
    weight = torch.zeros(3, requires_grad=True)
    stage = torch.rand(2, 3, requires_grad=True)
    term = gradient_regulariser((stage * weight).square().sum(), [stage], norm, exponent)
    (gradient,) = torch.autograd.grad(term, weight)
    assert term.item() == 0.0
    assert torch.equal(gradient, torch.zeros(3))
