"""MSGR: the term and its gradient against finite differences, and what it does not depend on."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from model.architecture import EmbedderConfig, HeadConfig, MultiscaleConfig
from model.embedder import Embedder
from training.losses.msgr import gradient_regulariser

LABELS = torch.tensor([0, 1, 2, 0])
NORMS: list[Any] = [1, 2, "inf"]


class Small(nn.Module):
    """Two smooth stages and a head, in float64, with and without a BatchNorm between crops."""

    def __init__(self, batch_norm: bool = True) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.first = nn.Conv2d(1, 2, 3)
        self.second = nn.Conv2d(2, 3, 2)
        self.norm = nn.BatchNorm2d(3) if batch_norm else nn.Identity()
        self.head = nn.Linear(3, 3)
        self.double()

    def loss(
        self, crops: torch.Tensor, labels: torch.Tensor, moved: torch.Tensor | float = 0.0
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        """The identity loss with `moved` added to the first stage, and both stages."""
        first = torch.tanh(self.first(crops)) + moved
        second = functional.softplus(self.norm(self.second(first)))
        logits = self.head(second.mean(dim=(2, 3)))
        return functional.cross_entropy(logits, labels), (first, second)


@pytest.fixture
def crops() -> torch.Tensor:
    torch.manual_seed(5)
    return torch.rand(4, 1, 5, 4, dtype=torch.float64)


def slopes(function: Callable[[torch.Tensor], float], at: torch.Tensor) -> torch.Tensor:
    """The gradient of a function by central differences, entry by entry."""
    found = torch.zeros_like(at)
    for place in range(at.numel()):
        step = torch.zeros_like(at)
        step.view(-1)[place] = 1e-5
        found.view(-1)[place] = (function(at + step) - function(at - step)) / 2e-5
    return found


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("exponent", [1.0, 2.0])
def test_the_term_is_the_mean_norm_of_each_crops_gradient(
    crops: torch.Tensor, norm: Any, exponent: float
) -> None:
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
def test_its_gradient_by_the_parameters_is_the_double_backwards(
    crops: torch.Tensor, norm: Any, exponent: float
) -> None:
    network = Small()
    weight = network.first.weight

    def term() -> torch.Tensor:
        loss, stages = network.loss(crops, LABELS)
        return gradient_regulariser(loss, stages, norm, exponent)

    def term_at(value: torch.Tensor) -> float:
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
def test_a_batch_taken_twice_has_the_same_term_although_its_crops_share_a_batch_norm(
    crops: torch.Tensor, norm: Any
) -> None:
    network = Small()
    terms = [
        gradient_regulariser(*network.loss(batch, labels), norm).item()
        for batch, labels in (
            (crops, LABELS),
            (torch.cat((crops, crops)), torch.cat((LABELS, LABELS))),
        )
    ]
    assert terms[0] == pytest.approx(terms[1], rel=1e-10)


def test_without_a_batch_norm_a_batchs_term_is_the_mean_of_its_crops_own(
    crops: torch.Tensor,
) -> None:
    network = Small(batch_norm=False)
    together = gradient_regulariser(*network.loss(crops, LABELS)).item()
    alone = [
        gradient_regulariser(*network.loss(crops[[row]], LABELS[[row]])).item() for row in range(4)
    ]
    assert together == pytest.approx(sum(alone) / 4, rel=1e-10)


def test_the_term_of_several_stages_is_the_sum_of_theirs(crops: torch.Tensor) -> None:
    network = Small()
    loss, stages = network.loss(crops, LABELS)
    both = gradient_regulariser(loss, stages).item()
    assert both == pytest.approx(
        sum(gradient_regulariser(loss, [stage]).item() for stage in stages)
    )


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("exponent", [1.0, 2.0])
def test_a_loss_that_does_not_move_gives_nothing_and_no_nan(norm: Any, exponent: float) -> None:
    weight = torch.zeros(3, requires_grad=True)
    stage = torch.rand(2, 3, requires_grad=True)
    term = gradient_regulariser((stage * weight).square().sum(), [stage], norm, exponent)
    (gradient,) = torch.autograd.grad(term, weight)
    assert term.item() == 0.0
    assert torch.equal(gradient, torch.zeros(3))


def small_msfl() -> EmbedderConfig:
    return EmbedderConfig(
        backbone="resnet18",
        last_stride=2,
        pooling="average",
        multiscale=MultiscaleConfig(channels=16),
        head=HeadConfig(dimension=24),
    )


@pytest.mark.parametrize("stages", [(0,), (1, 2), (3,)])
def test_under_autocast_the_regularised_stages_are_float32_and_the_term_moves_every_weight(
    stages: tuple[int, ...],
) -> None:
    torch.manual_seed(1)
    embedder = Embedder(small_msfl())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = embedder.features(torch.rand(4, 3, 64, 32), stages)
    loss = functional.cross_entropy(features.after_neck[:, :3], LABELS)
    gradient_regulariser(loss, features.stages).backward()
    assert [stage.dtype for stage in features.stages] == [torch.float32] * len(stages)
    gradients = [parameter.grad for parameter in embedder.parameters()]
    reached = [gradient for gradient in gradients if gradient is not None]
    assert all(bool(torch.isfinite(gradient).all()) for gradient in reached)
    deepest = embedder.backbone.get_submodule("layer4.1.conv2").weight.grad
    assert deepest is not None
    assert float(deepest.norm()) > 0


def test_asking_for_stages_does_not_change_the_features() -> None:
    embedder = Embedder(small_msfl()).eval()
    crops = torch.rand(2, 3, 64, 32)
    plain = embedder.features(crops).after_neck
    assert torch.equal(plain, embedder.features(crops, (0, 1, 2, 3, 4)).after_neck)
