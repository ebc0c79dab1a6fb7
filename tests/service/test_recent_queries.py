"""Queries by pictures of one passage of a person have one key, so that they count as one search."""

import numpy as np
import pytest

from service.search.calibration import RECENT_QUERIES, RecentQueries

DIMENSION = 64
random = np.random.default_rng(5)


@pytest.fixture
def recent():
    return RecentQueries(DIMENSION)


def drawn():
    return random.standard_normal(DIMENSION).astype(np.float32)


def test_a_repeated_query_has_the_key_of_the_first_whatever_its_length(recent):
    query = drawn()
    key = recent.find_key(query)
    assert recent.find_key(3 * query + 0.05 * drawn()) == key
    assert recent.find_key(-query) != key
    assert recent.find_key(query) == key


def test_a_query_is_compared_with_the_last_of_its_repetitions(recent):
    """A person who turns round slowly is one passage."""
    first = np.eye(DIMENSION, dtype=np.float32)[0]
    second = np.eye(DIMENSION, dtype=np.float32)[1]
    angles = np.linspace(0, np.pi / 2, 10)
    turned = [np.cos(angle) * first + np.sin(angle) * second for angle in angles]
    assert len({recent.find_key(query) for query in turned}) == 1


def test_the_least_recently_repeated_query_is_forgotten_first(recent):
    queries = [drawn() for _ in range(RECENT_QUERIES)]
    keys = [recent.find_key(query) for query in queries]
    assert len(set(keys)) == RECENT_QUERIES
    assert recent.find_key(queries[0]) == keys[0]
    recent.find_key(drawn())
    assert recent.find_key(queries[0]) == keys[0]
    assert recent.find_key(queries[1]) != keys[1]


def test_a_query_without_length_is_like_none(recent):
    nothing = np.zeros(DIMENSION, np.float32)
    assert recent.find_key(nothing) != recent.find_key(nothing)
