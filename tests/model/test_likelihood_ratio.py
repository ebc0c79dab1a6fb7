"""Likelihood ratios of two crops, fitted to drawn pairs."""

import math

import numpy as np
import pytest

from model.likelihood_ratio import (
    FEWEST_PEOPLE,
    SampledPairs,
    fit_likelihood_ratio,
    sample_pairs,
)

SEPARATION = 2.0


def drawn_pairs(people, pairs_each=20):
    """Draw scores with a spread of 1, those of one person higher by `SEPARATION`.

    The logarithm of their true likelihood ratio is a line of slope `SEPARATION`, 0 at its half.
    """
    random = np.random.default_rng(0)
    same = np.tile([True, False], people * pairs_each)
    scores = random.normal(np.where(same, SEPARATION, 0.0), 1.0)
    crops = np.zeros(len(same), np.int64)
    names = np.repeat(np.arange(people), 2 * pairs_each)
    return scores, SampledPairs(crops, crops, same, names)


def test_the_ratio_of_drawn_scores_is_the_true_one():
    fitted = fit_likelihood_ratio(*drawn_pairs(2000))
    for score in (-1.0, 1.0, 3.0):
        expected = SEPARATION * (score - SEPARATION / 2.0)
        assert np.log(fitted.of(np.array(score))) == pytest.approx(expected, abs=0.1)


@pytest.mark.parametrize("people", [FEWEST_PEOPLE, 400])
def test_no_ratio_exceeds_the_number_of_people_or_is_below_its_inverse(people):
    fitted = fit_likelihood_ratio(*drawn_pairs(people))
    ratios = fitted.of(np.array([-1e6, -50.0, 50.0, 1e6]))
    assert fitted.people == people
    assert ratios.tolist() == [1.0 / people] * 2 + [people] * 2
    assert (np.diff(fitted.of(np.linspace(-9.0, 9.0, 99))) >= 0.0).all()


def test_pairs_that_do_not_overlap_have_a_finite_line():
    _, pairs = drawn_pairs(FEWEST_PEOPLE)
    fitted = fit_likelihood_ratio(np.where(pairs.same, 0.9, 0.1), pairs)
    assert math.isfinite(fitted.slope)
    assert fitted.of(np.array([0.1, 0.5, 0.9])) == pytest.approx([0.01, 1.0, 100.0], rel=0.02)


def test_fewer_than_100_people_with_pairs_of_their_own_have_no_ratio():
    scores, pairs = drawn_pairs(FEWEST_PEOPLE)
    assert fit_likelihood_ratio(scores, pairs)
    # Somebody whose pairs have no score does not count.
    scores[pairs.people == 7] = np.nan
    assert fit_likelihood_ratio(scores, pairs) is None


def test_scores_that_do_not_speak_for_one_person_have_no_ratio():
    scores, pairs = drawn_pairs(FEWEST_PEOPLE)
    assert fit_likelihood_ratio(-scores, pairs) is None
    assert fit_likelihood_ratio(np.ones_like(scores), pairs) is None
    of_one_person = pairs.where(pairs.same)
    assert fit_likelihood_ratio(scores[pairs.same], of_one_person) is None


def test_a_person_with_many_pairs_counts_as_one_with_few():
    scores, pairs = drawn_pairs(200, pairs_each=5)
    before = fit_likelihood_ratio(scores, pairs)
    of_one_person = np.flatnonzero(pairs.people == 3)
    repeated = np.concatenate([np.arange(len(scores)), np.tile(of_one_person, 500)])
    columns = [column[repeated] for column in pairs]
    after = fit_likelihood_ratio(scores[repeated], SampledPairs(*columns))
    assert after.slope == pytest.approx(before.slope, rel=1e-4)
    assert after.intercept == pytest.approx(before.intercept, rel=1e-4)


def crops_of_people(people, cameras, each=2):
    """Return names and cameras of crops, `each` of a person and camera."""
    names = np.repeat(np.arange(people), len(cameras) * each)
    return names, np.tile(np.repeat(cameras, each), people)


def test_pairs_of_one_person_and_of_two_are_of_two_cameras_and_of_the_same_ones():
    names, cameras = crops_of_people(300, [0, 1, 2])
    # One camera sees one person in three alone.
    seen = (cameras < 2) | (names % 3 == 0)
    names = names[seen]
    cameras = cameras[seen]
    pairs = sample_pairs(names, cameras, np.random.default_rng(0))
    assert (cameras[pairs.first] != cameras[pairs.second]).all()
    assert ((names[pairs.first] == names[pairs.second]) == pairs.same).all()
    assert (pairs.people == names[pairs.first]).all()
    shares = [np.mean(cameras[pairs.second[kind]] == 2) for kind in (pairs.same, ~pairs.same)]
    assert shares[0] == pytest.approx(shares[1], abs=0.01)
    assert len(np.unique(pairs.people)) == 300


def test_equal_crops_have_equal_pairs_and_a_large_gallery_has_no_more_than_a_bound():
    names, cameras = crops_of_people(3000, [0, 1, 2, 3])
    pairs = sample_pairs(names, cameras, np.random.default_rng(5))
    again = sample_pairs(names, cameras, np.random.default_rng(5))
    for column, column_again in zip(pairs, again, strict=True):
        assert column.tolist() == column_again.tolist()
    assert pairs.same.sum() == 4000
    assert (~pairs.same).sum() <= 12_000
    assert len(np.unique(pairs.people)) == 1000


def test_crops_of_unknown_cameras_count_as_those_of_different_ones():
    names, cameras = crops_of_people(120, [-1], each=3)
    pairs = sample_pairs(names, cameras, np.random.default_rng(0))
    assert (pairs.first != pairs.second).all()
    assert len(np.unique(pairs.people[pairs.same])) == 120


def test_people_under_one_camera_alone_have_no_pairs():
    names, cameras = crops_of_people(120, [4], each=3)
    assert len(sample_pairs(names, cameras, np.random.default_rng(0)).first) == 0
