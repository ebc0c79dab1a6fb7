import numpy as np
import pytest

from training.evaluation.domain_gap import (
    domain_classifier,
    halves,
    maximum_mean_discrepancy,
)
from training.evaluation.intervals import mean_interval


def domain(groups, seed, shift=0.0):
    """Unit features `(groups, 4, 24)`: those of one group are alike, a domain has its own mean."""
    random = np.random.default_rng(seed)
    features = random.normal(size=(groups, 1, 24)) + 0.3 * random.normal(size=(groups, 4, 24))
    features[..., :4] += shift
    lengths = np.linalg.norm(features, axis=-1, keepdims=True)
    return (features / lengths).astype(np.float32)


def test_the_gap_grows_with_the_shift_and_is_none_within_a_domain():
    first = domain(40, 0)
    gaps = [maximum_mean_discrepancy(first, domain(40, 1, shift)) for shift in (0.0, 0.5, 1.0)]
    assert gaps[0].squared < gaps[0].by_chance < gaps[1].squared < gaps[2].squared
    within = maximum_mean_discrepancy(*halves(first))
    assert within.squared < within.by_chance


def test_mmd_is_that_of_the_definition():
    first = domain(5, 0)
    second = domain(5, 1, 1.0)
    flat = np.concatenate([first, second]).reshape(40, 24).astype(np.float64)
    distances = ((flat[:, None] - flat[None, :]) ** 2).sum(axis=-1)
    median = np.median(distances[np.triu_indices(40, k=1)])
    kernel = np.mean([np.exp(-distances / (b * median)) for b in (0.5, 1.0, 2.0)], axis=0)
    group = np.repeat(np.arange(10), 4)
    side = np.repeat([0, 1], 20)
    others = group[:, None] != group[None, :]
    means = {
        (a, b): kernel[others & (side[:, None] == a) & (side[None, :] == b)].mean()
        for a in (0, 1)
        for b in (0, 1)
    }
    expected = means[0, 0] + means[1, 1] - 2 * means[0, 1]
    assert maximum_mean_discrepancy(first, second).squared == pytest.approx(expected, abs=1e-9)


def test_the_classifier_tells_far_domains_apart_and_one_domain_not_from_itself():
    first = domain(40, 0)
    far = mean_interval(domain_classifier(first, domain(40, 1, 4.0)))
    same = mean_interval(domain_classifier(first, domain(40, 1)))
    assert 0.9 < far.low <= far.mean <= far.high <= 1.0
    assert 0.3 < same.mean < 0.7


def test_no_person_is_learnt_and_asked_at_once():
    # Groups that are far apart and their own domain's nothing else: learnt by heart they would
    # all be named right.
    random = np.random.default_rng(0)
    centres = random.normal(size=(2, 30, 1, 400))
    features = (centres + 0.01 * random.normal(size=(2, 30, 4, 400))).astype(np.float32)
    assert domain_classifier(features[0], features[1]).mean() < 0.75
