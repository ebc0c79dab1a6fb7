"""Travel times are learned from confident matches, and speak within bounds."""

import numpy as np
import pytest

from service.index.moments import Moments
from service.visits.travel_times import (
    BINS,
    FAR,
    FEWEST_MATCHES,
    LONGEST_SECONDS,
    MOST_LOG_ODDS,
    TravelTimes,
    difference_bins,
    find_matches,
    learn_travel_times,
)
from tests.service.visits.drawn_walks import HOUR, WALK, odds, walk

CONFIDENT = 0.6


def test_drawn_travel_times_are_recovered():
    times = learn_travel_times(walk(400), CONFIDENT)
    usual = odds(times, WALK)
    assert usual > 3.5
    assert usual == pytest.approx(max(odds(times, seconds) for seconds in range(0, 1000, 10)), 0.1)
    for unusual in (0.0, 30.0, 400.0, HOUR, -WALK):
        assert odds(times, unusual) < -1.0


def test_the_way_back_is_another_one():
    times = learn_travel_times(walk(400), CONFIDENT)
    assert odds(times, -WALK, "2", "1") == odds(times, WALK, "1", "2")
    assert odds(times, WALK, "2", "1") == odds(times, -WALK, "1", "2")
    assert odds(times, WALK, "2", "1") < 0.0


def test_no_time_speaks_more_than_the_bound_for_or_against_a_match():
    times = learn_travel_times(walk(5000, hours=24), CONFIDENT)
    table = times.tables["1", "2"]
    assert table.shape == (BINS,)
    assert np.abs(table).max() < MOST_LOG_ODDS
    # The bound is nearly reached by what never happens to matches.
    assert table.min() < -3.5


def test_few_matches_say_nothing_and_some_say_less_than_many():
    assert learn_travel_times(walk(FEWEST_MATCHES - 1), CONFIDENT).tables == {}
    some = learn_travel_times(walk(FEWEST_MATCHES + 10), CONFIDENT)
    many = learn_travel_times(walk(2000), CONFIDENT)
    assert 0.0 < odds(some, WALK) < odds(many, WALK)
    assert odds(many, HOUR) < odds(some, HOUR) < 0.0


def test_times_drawn_at_random_say_next_to_nothing():
    crops = walk(2000)
    random = np.random.default_rng(1)
    shuffled = crops._replace(captured=random.permutation(crops.captured))
    times = learn_travel_times(shuffled, CONFIDENT)
    shares = np.bincount(difference_bins(random.choice(crops.captured, 9000)), minlength=BINS)
    common = shares > 200
    assert np.abs(times.tables["1", "2"][common]).max() < 0.4


def test_unlike_crops_teach_nothing_however_well_their_times_fit():
    assert learn_travel_times(walk(400, likeness=0.3), CONFIDENT).tables == {}


def test_unknown_times_and_cameras_leave_scores_as_they_are():
    times = learn_travel_times(walk(400), CONFIDENT)
    cameras = np.array(["2", "2", "3", ""])
    crops = Moments(cameras, np.array([np.nan, WALK, WALK, WALK]))
    said = times.log_odds("1", 0.0, crops)
    assert said[0] == said[2] == said[3] == 0.0
    assert said[1] > 3.0
    assert not times.log_odds("1", np.nan, crops).any()
    assert not TravelTimes({}).log_odds("1", 0.0, crops).any()


def test_another_day_is_one_difference():
    days = np.array([-9.0, -1.0, 1.0, 30.0]) * 24 * HOUR
    assert difference_bins(days).tolist() == [FAR] * 4
    within = difference_bins(np.linspace(-LONGEST_SECONDS, LONGEST_SECONDS, 1001))
    assert (np.diff(within) >= 0).all()
    assert (within.min(), within.max()) == (0, FAR - 1)


def test_different_names_never_match_and_a_name_matches_its_own():
    crops = walk(100)
    named = np.tile(np.arange(100), 2)
    one = crops.at(np.arange(100))
    other = crops.at(np.arange(100, 200))

    def matches(people):
        sides = (one._replace(people=people[:100]), other._replace(people=people[100:]))
        return find_matches(*sides, CONFIDENT, False, lambda: None).T.tolist()

    assert matches(named) == [[row, row] for row in range(100)]
    renamed = named.copy()
    renamed[100] = 1000
    assert matches(renamed) == [[row, row] for row in range(1, 100)]


def test_two_tracks_teach_once_however_many_crops_they_have():
    crops = walk(100)
    repeated = crops.at(np.repeat(np.arange(200), 5))
    one = repeated.at(np.flatnonzero(repeated.cameras == "1"))
    other = repeated.at(np.flatnonzero(repeated.cameras == "2"))
    assert find_matches(one, other, CONFIDENT, False, lambda: None).shape == (2, 100)


def test_who_comes_back_to_a_camera_is_learned_from_other_tracks_alone():
    crops = walk(400)
    here = crops._replace(cameras=np.full(800, "1"))
    times = learn_travel_times(here, CONFIDENT)
    assert odds(times, WALK, "1", "1") == odds(times, -WALK, "1", "1") > 3.0
    of_one_track = here._replace(tracks=np.tile(np.arange(400), 2))
    assert learn_travel_times(of_one_track, CONFIDENT).tables == {}
