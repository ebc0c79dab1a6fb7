"""Each loss term against a case computed by hand."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn import functional

from training.losses.base import LossSettings
from training.losses.gmn import generalizable_metric_loss, pair_identity_center_loss
from training.losses.reid import (
    CosFace,
    CosFaceSettings,
    IdentityLoss,
    IdentitySettings,
    TripletSettings,
    triplet_loss,
)

ALONE: Any = LossSettings()


def triplet(features, labels, distance="euclidean"):
    seen = SimpleNamespace(before_neck=features, labels=labels)
    return triplet_loss(TripletSettings(distance=distance), seen)


def gmn(logits, same):
    """Return the loss of pairs, some of which show one person."""
    labels = torch.tensor([0, 1])
    rows = torch.stack((torch.zeros_like(same), ~same)).long()
    seen = SimpleNamespace(logits=logits, labels=labels, pair_rows=rows)
    return generalizable_metric_loss(ALONE, seen)


def pic(pairs, first, second):
    """Return the loss of pairs with these labels."""
    rows = torch.stack((first, second))
    seen = SimpleNamespace(pairs=pairs, labels=torch.arange(9), pair_rows=rows)
    return pair_identity_center_loss(ALONE, seen)


def test_identity_loss_smooths_the_label_over_all_classes():
    logits = torch.tensor([[2.0, 0.0, 0.0]])
    log_probabilities = [2.0 - math.log(math.e**2 + 2), -math.log(math.e**2 + 2)]
    expected = -(0.9 + 0.1 / 3) * log_probabilities[0] - 2 * (0.1 / 3) * log_probabilities[1]
    loss = IdentityLoss(IdentitySettings(label_smoothing=0.1), 3, 3)
    torch.nn.init.eye_(loss.classifier.weight)
    seen = SimpleNamespace(after_neck=logits, labels=torch.tensor([0]))
    assert loss(seen).item() == pytest.approx(expected, rel=1e-5)


def test_margin_identity_loss_lowers_the_cosine_to_the_own_class_alone():
    features = torch.tensor([[3.0, 0.0], [0.0, 0.5]])
    classes = torch.tensor([[0.1, 0.0], [0.0, 7.0], [-1.0, 0.0]])
    labels = torch.tensor([0, 2])
    logits = 10.0 * torch.tensor([[1.0 - 0.3, 0.0, -1.0], [0.0, 1.0, 0.0 - 0.3]])
    expected = functional.cross_entropy(logits, labels)
    loss = CosFace(CosFaceSettings(margin=0.3, scale=10.0), 2, 3)
    loss.classifier.weight.data = classes
    seen = SimpleNamespace(after_neck=features, labels=labels)
    assert loss(seen).item() == pytest.approx(float(expected))


def test_a_cosine_triplet_knows_no_length():
    features = torch.tensor([[1.0, 0.0], [3.0, 4.0], [0.0, 9.0]])
    labels = torch.tensor([0, 0, 1])
    # Anchors 0 and 1: 1 − 0.6 to the positive; 1 − 0 and 1 − 0.8 to the negative.
    expected = (max(0.0, 0.4 - 1.0 + 0.3) + max(0.0, 0.4 - 0.2 + 0.3) + 0.0) / 3
    assert triplet(features, labels, "cosine") == pytest.approx(expected)
    assert triplet(5.0 * features, labels, "cosine") == pytest.approx(expected)


def test_triplet_loss_takes_the_farthest_positive_and_the_nearest_negative():
    features = torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 1.0], [6.0, 8.0]])
    labels = torch.tensor([0, 0, 1, 1])
    to_second = math.hypot(3, 3)
    within_second = math.hypot(6, 7)
    expected = (
        max(0, 5 - 1 + 0.3)  # (0,0): positive at 5, nearest negative (0,1)
        + max(0, 5 - to_second + 0.3)  # (3,4): negatives at √18 and 5
        + max(0, within_second - 1 + 0.3)  # (0,1): nearest negative (0,0)
        + max(0, within_second - 5 + 0.3)  # (6,8): nearest negative (3,4)
    ) / 4
    assert float(triplet(features, labels)) == pytest.approx(expected, rel=1e-5)


def test_triplet_loss_takes_no_crop_of_the_same_person_for_a_negative():
    features = torch.tensor([[0.0], [1.0], [3.0], [9.0]])
    # Only the crop at 3 has its own person's other crop, 6 away, farther than another's, 2 away.
    expected = (6 - 2 + 0.3) / 4
    assert float(triplet(features, torch.tensor([0, 0, 1, 1]))) == pytest.approx(expected)


def test_triplet_loss_has_a_gradient_where_two_features_are_equal():
    features = torch.ones(4, 3, requires_grad=True)
    triplet(features, torch.tensor([0, 0, 1, 1])).backward()
    assert features.grad is not None
    assert bool(torch.isfinite(features.grad).all())


def test_gmn_loss_averages_positives_and_negatives_apart():
    logits = torch.tensor([[0.0, 1.0], [2.0, 0.0], [0.0, 0.0], [0.0, 3.0]])
    same = torch.tensor([True, False, False, False])
    positive = math.log(1 + math.exp(-1))
    negative = (math.log(1 + math.exp(-2)) + math.log(2) + math.log(1 + math.exp(3))) / 3
    expected = 0.5 * positive + 0.5 * negative
    assert float(gmn(logits, same)) == pytest.approx(expected, rel=1e-5)


def test_gmn_loss_of_positives_alone_is_their_mean():
    logits = torch.tensor([[0.0, 1.0], [0.0, 1.0]])
    loss = gmn(logits, torch.tensor([True, True]))
    assert loss.item() == pytest.approx(math.log(1 + math.exp(-1)), rel=1e-5)


def test_pair_identity_center_is_the_mean_of_pairs_of_the_same_two_people():
    pairs = torch.tensor([[0.0, 0.0], [2.0, 4.0], [5.0, 5.0]])
    first = torch.tensor([1, 2, 1])
    second = torch.tensor([2, 1, 1])
    # {1,2} has the centre (1,2); {1,1} is its own centre.
    expected = (1 + 4 + 1 + 4 + 0 + 0) / 6
    assert float(pic(pairs, first, second)) == pytest.approx(expected)


def test_a_pair_identity_seen_once_adds_nothing_and_gets_no_gradient():
    pairs = torch.randn(3, 5, requires_grad=True)
    loss = pic(pairs, torch.tensor([0, 0, 1]), torch.tensor([1, 2, 2]))
    loss.backward()
    assert loss.item() == 0.0
    assert pairs.grad is not None
    assert float(pairs.grad.abs().max()) == pytest.approx(0.0, abs=1e-7)


def test_triplet_loss_counts_an_anchor_without_a_positive_as_zero():
    features = torch.tensor([[0.0, 0.0], [1.0, 0.0], [10.0, 0.0]])
    expected = (max(0, 1 - 10 + 0.3) + max(0, 1 - 9 + 0.3) + 0) / 3
    assert float(triplet(features, torch.tensor([0, 0, 1]))) == pytest.approx(expected)
