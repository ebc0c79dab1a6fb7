"""Figures over several seeds of one recipe."""

from types import SimpleNamespace

import pytest

from model.problems import InputProblem
from training.evaluation.results import Figure
from training.evaluation.seeds import over_seeds


def report(mean: float, rankings: tuple[str, ...] = ("cosine",), queries: int = 10):
    """Only searches and means of a report are read."""
    figure = Figure(mean=mean, low=0.0, high=1.0)
    scorings = {name: SimpleNamespace(metrics={"mAP": figure}) for name in rankings}
    result = SimpleNamespace(
        name="people", protocol="all", queries=queries, gallery=20, scorings=scorings
    )
    return SimpleNamespace(datasets=[result])


def test_the_mean_over_seeds_has_a_spread_and_an_interval():
    found = over_seeds([report(0.4), report(0.5), report(0.6)])["people"]["cosine"]["mAP"]
    assert (found.mean, found.spread, found.runs) == (pytest.approx(0.5), pytest.approx(0.1), 3)
    # Student's t with two degrees of freedom: 4.303 standard errors.
    assert found.high - found.mean == pytest.approx(4.303 * 0.1 / 3**0.5, rel=1e-3)


def test_a_ranking_that_one_seed_lacks_is_left_out():
    found = over_seeds([report(0.4, ("cosine", "mnet")), report(0.5)])
    assert list(found["people"]) == ["cosine"]


def test_reports_of_other_searches_are_refused():
    with pytest.raises(InputProblem, match="not of the same searches"):
        over_seeds([report(0.4), report(0.5, queries=9)])
