import numpy as np
import pytest

from model.problems import InputProblem
from training.evaluation.intervals import difference_interval, mean_interval


def test_the_interval_covers_the_true_mean_about_19_times_in_20():
    random = np.random.default_rng(1)
    covered = 0
    for trial in range(200):
        interval = mean_interval(random.uniform(size=100), resamples=400, seed=trial)
        covered += interval.low <= 0.5 <= interval.high
    assert 0.90 <= covered / 200 <= 0.99


def test_the_interval_over_people_is_wider_where_their_queries_are_alike():
    people = np.repeat(np.arange(50), 10)
    values = np.random.default_rng(2).uniform(size=50)[people]
    over_queries = mean_interval(values)
    over_people = mean_interval(values, clusters=people)
    assert over_people.mean == over_queries.mean
    assert over_people.high - over_people.low > 2 * (over_queries.high - over_queries.low)


def test_a_small_but_steady_difference_shows_only_when_paired():
    random = np.random.default_rng(3)
    first = random.uniform(size=300)
    second = first - 0.01 + random.normal(0, 0.01, size=300)
    assert difference_interval(first, second).low > 0
    assert mean_interval(second).high > mean_interval(first).low


def test_the_same_values_give_the_same_interval():
    values = np.random.default_rng(4).uniform(size=20)
    assert mean_interval(values) == mean_interval(values)


def test_values_of_different_queries_cannot_be_paired():
    with pytest.raises(InputProblem, match="same queries"):
        difference_interval(np.ones(3), np.ones(4))


def test_an_interval_of_nothing_is_refused():
    with pytest.raises(InputProblem):
        mean_interval(np.empty(0))
