"""Cllr and minCllr of likelihood ratios, on drawn scores."""

import numpy as np
import pytest

from model.likelihood_ratio import SampledPairs
from training.evaluation.likelihood import cosine_scores, cost, measure, minimum_cost


def pairs_of(same):
    numbers = np.arange(len(same))
    return SampledPairs(numbers, numbers, np.array(same), numbers)


def test_the_cost_of_ratios_is_that_of_the_definition():
    pairs = pairs_of([True, True, False, False])
    assert cost(np.ones(4), pairs) == 1.0
    # (log2(1 + 1/3) + log2(1 + 2)) / 4 + (log2(1 + 1/4) + log2(1 + 7)) / 4
    assert cost(np.array([3.0, 0.5, 0.25, 7.0]), pairs) == pytest.approx(1.3305, abs=1e-4)


def test_the_minimum_is_0_for_separated_scores_and_1_for_scores_that_say_nothing():
    pairs = pairs_of([True, True, False, False])
    assert minimum_cost(np.array([0.9, 0.8, 0.7, 0.1]), pairs) == 0.0
    assert minimum_cost(np.array([0.5, 0.4, 0.5, 0.4]), pairs) == pytest.approx(1.0)
    # The lowest score and the two above it share a ratio: 3/4 of the entropy of one third.
    assert minimum_cost(np.array([0.9, 0.2, 0.5, 0.5]), pairs) == pytest.approx(0.6887, abs=1e-4)


def draw(people, noise, random):
    """Draw two crops of each person, one by each of two cameras."""
    middles = np.repeat(random.standard_normal((people, 32)), 2, axis=0)
    features = middles + noise * random.standard_normal((2 * people, 32))
    return np.repeat(np.arange(people), 2), np.tile([0, 1], people), features.astype(np.float32)


@pytest.mark.parametrize("noise", [0.3, 0.8])
def test_ratios_of_other_people_drawn_alike_cost_little_more_than_the_best(noise):
    random = np.random.default_rng(0)
    names, cameras, features = draw(600, noise, random)
    halves = np.arange(300), np.arange(300, 600)
    result = measure(names, cameras, cosine_scores(features), *halves, random)
    assert result.people == 300
    assert result.min_cllr <= result.cllr < result.min_cllr + 0.05
    assert result.different_from_10 < 0.1
    assert result.same_below_1 < 0.1


def test_too_few_people_to_fit_have_no_figures():
    random = np.random.default_rng(0)
    names, cameras, features = draw(300, 0.3, random)
    score = cosine_scores(features)
    assert measure(names, cameras, score, np.arange(99), np.arange(99, 300), random) is None
    assert measure(names, cameras, score, np.arange(100), np.arange(100, 300), random)
