import numpy as np
import pytest

from training.evaluation.intervals import (
    average_intervals,
    mean_interval,
    people_and_seeds_interval,
)


def test_the_interval_covers_the_true_mean_about_19_times_in_20():
    random = np.random.default_rng(1)
    covered = 0
    for _ in range(200):
        interval = mean_interval(random.uniform(size=100))
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
    people = np.arange(300)
    assert people_and_seeds_interval([(first[None], second[None], people)]).low > 0
    assert mean_interval(second).high > mean_interval(first).low


def test_an_average_weighs_a_small_set_as_much_as_a_large_one():
    sets = [({"mAP": np.ones(1000)}, None), ({"mAP": np.zeros(10)}, None)]
    assert average_intervals(sets)["mAP"].mean == 0.5


@pytest.mark.parametrize(("ours", "theirs"), [(2, 2), (3, 1), (4, 4)])
def test_seeds_of_one_recipe_differ_by_the_test_once_in_20_times_at_most(ours, theirs):
    random = np.random.default_rng(8)
    trials = 200
    apart = 0
    people = np.repeat(np.arange(60), 2)

    def runs(number):
        """The same people are hard for each run; a seed moves all of its run's values."""
        shift = random.normal(0, 0.015, size=(number, 1))
        return hard + shift + random.normal(0, 0.05, size=(number, 120))

    for _ in range(trials):
        hard = random.uniform(size=60)[people]
        found = people_and_seeds_interval([(runs(ours), runs(theirs), people)])
        apart += not found.low <= 0.0 <= found.high
    assert apart <= 0.08 * trials


def test_the_mean_of_several_seeds_has_an_interval_over_people_and_seeds():
    values = np.random.default_rng(9).uniform(size=(1, 100)).repeat(3, axis=0)
    people = np.arange(100)
    steady = people_and_seeds_interval([(values, None, people)])
    alone = mean_interval(values[0], people)
    assert (steady.low, steady.high) == (alone.low, alone.high)
    shifted = values + np.array([[-0.2], [0.0], [0.2]])
    unsteady = people_and_seeds_interval([(shifted, None, people)])
    # Student's t with two degrees of freedom: 4.303 standard errors of 0.2 / √3.
    of_seeds = 4.303 * 0.2 / 3**0.5
    of_people = alone.high - alone.mean
    assert unsteady.high - unsteady.mean == pytest.approx(np.hypot(of_seeds, of_people), rel=1e-3)


def test_an_average_of_sets_has_the_spread_of_each_seeds_own_average():
    values = np.random.default_rng(10).uniform(size=(1, 100)).repeat(3, axis=0)
    people = np.arange(100)
    shift = np.array([[-0.2], [0.0], [0.2]])
    alone = people_and_seeds_interval([(values + shift, None, people)])
    both = people_and_seeds_interval([(values + shift, None, people)] * 2)
    against = people_and_seeds_interval(
        [(values + shift, None, people), (values - shift, None, people)]
    )
    still = people_and_seeds_interval([(values, None, people)] * 2)
    assert both.mean == pytest.approx(alone.mean)
    of_seeds = 4.303 * 0.2 / 3**0.5
    assert both.high - both.mean == pytest.approx(
        np.hypot(of_seeds, still.high - still.mean), rel=1e-3
    )
    # A seed that gains on one set what it loses on the other one has the same average.
    assert (against.low, against.high) == pytest.approx((still.low, still.high))
