import numpy as np
import pytest

from model.problems import InputProblem
from training.evaluation.intervals import (
    average_intervals,
    difference_interval,
    mean_interval,
    mean_intervals,
    seed_interval,
)


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


def test_figures_that_are_resampled_together_have_the_intervals_that_each_has_alone():
    random = np.random.default_rng(5)
    values = {"mAP": random.uniform(size=60), "rank_1": random.integers(0, 2, 60).astype(float)}
    people = random.integers(0, 20, 60)
    together = mean_intervals(values, people)
    for name, own in values.items():
        alone = mean_interval(own, people)
        assert together[name].mean == pytest.approx(alone.mean)
        assert (together[name].low, together[name].high) == pytest.approx((alone.low, alone.high))


def test_an_average_weighs_a_small_set_as_much_as_a_large_one():
    sets = [({"mAP": np.ones(1000)}, None), ({"mAP": np.zeros(10)}, None)]
    assert average_intervals(sets)["mAP"].mean == 0.5


def test_the_average_of_several_sets_is_surer_than_one_set():
    random = np.random.default_rng(6)
    sets = [({"mAP": random.uniform(size=100)}, np.arange(100)) for _ in range(4)]
    average = average_intervals(sets)["mAP"]
    alone = mean_interval(sets[0][0]["mAP"])
    assert 0.3 < (average.high - average.low) / (alone.high - alone.low) < 0.7


def test_the_interval_over_three_seeds_covers_the_true_mean_about_19_times_in_20():
    random = np.random.default_rng(7)
    covered = 0
    for _ in range(400):
        interval = seed_interval(random.normal(0.5, 0.02, size=3))
        covered += interval.low <= 0.5 <= interval.high
    assert 0.92 <= covered / 400 <= 0.98


def test_one_seed_has_a_mean_and_no_interval():
    interval = seed_interval(np.array([0.4]))
    assert (interval.mean, interval.runs) == (0.4, 1)
    assert np.isnan(interval.low)
    assert np.isnan(interval.spread)
