"""Forecasts of watch lists: false alarms, found people, and the sentences that say so."""

import numpy as np
import pytest

from service.watch.forecast import (
    Alarms,
    Found,
    describe_basis,
    describe_forecast,
    forecast_alarms,
    forecast_found,
    make_forecast,
    measure_kept_silent,
)
from service.watch.scores import WatchList
from service.watch.silent import SilentGallery
from service.watch.threshold import WatchThreshold


def _threshold(rate=1e-3, people=40, tracks=0, basis="reference", value=0.0):
    return WatchThreshold(value, rate, max(rate, 1e-3), basis, people, tracks)


def _list(cosines, cameras):
    """Return a list of a person a cosine, whose two crops have that cosine with each other."""
    vectors = np.zeros((2 * len(cosines), 2 * len(cosines)), np.float32)
    for person, cosine in enumerate(cosines):
        vectors[2 * person, 2 * person] = 1.0
        vectors[2 * person + 1, 2 * person : 2 * person + 2] = cosine, (1 - cosine**2) ** 0.5
    people = np.repeat(np.arange(len(cosines)), 2)
    return WatchList(vectors, people, np.tile(np.array(cameras), len(cosines)))


def test_forty_people_and_three_thousand_tracks_a_day():
    before = forecast_alarms(_threshold(), 3000)
    after = forecast_alarms(_threshold(tracks=200, basis="traffic"), 3000)
    assert before == Alarms(4.5, 0, 17)
    assert after == Alarms(3.0, 0, 12)


def test_the_interval_is_narrower_with_more_people_and_more_traffic():
    rates = [_threshold(1e-2, 5), _threshold(1e-2, 500)]
    rates += [_threshold(1e-2, 40, tracks, "traffic") for tracks in (200, 20_000)]
    forecasts = [forecast_alarms(rate, 3000) for rate in rates]
    widths = [alarms.high / alarms.false_alarms for alarms in forecasts]
    assert widths[1] < widths[0]
    assert widths[3] < widths[2]


def test_alarms_of_people_who_pass_more_often_come_in_larger_groups():
    once, often = (forecast_alarms(_threshold(), 3000, tracks) for tracks in (1, 20))
    assert once.false_alarms == often.false_alarms
    assert once.high < often.high


def test_a_smaller_budget_than_the_smallest_promise_is_forecast_as_that():
    assert forecast_alarms(_threshold(1e-6), 3000) == forecast_alarms(_threshold(1e-3), 3000)


def test_an_artefacts_threshold_has_no_forecast():
    assert forecast_alarms(_threshold(basis="artefact"), 3000) == Alarms()


def test_one_crop_a_person_shows_nothing_of_what_is_found():
    watch_list = WatchList(np.eye(3, dtype=np.float32), np.arange(3), np.zeros(3, np.int64))
    assert forecast_found(watch_list, _threshold()) == Found("not_known")


@pytest.mark.parametrize("cameras", [(3, 3), (-1, 3), (-1, -1)])
def test_crops_of_one_camera_bound_what_is_found(cameras):
    found = forecast_found(_list([0.9, 0.8, 0.7, 0.3], cameras), _threshold(value=0.5))
    # Three of four people, at the upper end of Wilson's interval for them.
    assert found == Found("one_camera", found_high=0.95)


def test_crops_of_another_camera_show_what_is_found():
    watch_list = _list([0.9, 0.8, 0.3, 0.2], (1, 2))
    found = forecast_found(watch_list, _threshold(value=0.5))
    # Half of the crops: the logit of a half is 0, and a track is found more often than a crop.
    assert found.found == pytest.approx(1 / (1 + np.exp(-1.1)))
    assert (found.found_basis, found.found_low, found.found_high) == ("several_cameras", 0.29, 0.96)


def test_a_crop_whose_best_match_is_somebody_else_is_not_found():
    # A person of cosine 0.6, whose first crop is nearer to another person.
    vectors = np.array([[1, 0, 0], [0.6, 0.8, 0], [0.9, 0, 0.435889894]], np.float32)
    watch_list = WatchList(vectors, np.array([0, 0, 1]), np.array([1, 2, 1]))
    half = forecast_found(watch_list, _threshold(value=0.5))
    assert half.found == pytest.approx(1 / (1 + np.exp(-1.1)))


def _one_crop_each(vectors):
    vectors = np.array(vectors, np.float32)
    return WatchList(vectors, np.arange(len(vectors)), np.zeros(len(vectors), np.int64))


def test_silent_people_take_their_share_of_strangers_alarms_and_of_those_found():
    watch_list = _list([0.9, 0.8], (1, 2))
    # One looks like a crop of the list, and the other one like every second stranger.
    people = _one_crop_each([watch_list.units[1], [0.3, -0.95, 0, 0]])
    silent = SilentGallery("staff", people)
    strangers = np.array([[0.6, -0.8, 0, 0], [0, 0, 0.6, -0.8]] * 100, np.float32)
    assert measure_kept_silent(watch_list, silent, strangers) == 0.5
    assert measure_kept_silent(watch_list, silent, None) == 0.0
    before = forecast_alarms(_threshold(), 3000)
    half = forecast_alarms(_threshold(), 3000, kept_silent=0.5)
    assert half.false_alarms == before.false_alarms / 2
    assert half.high < before.high
    threshold = _threshold(value=0.5)
    found_before = forecast_found(watch_list, threshold)
    found = forecast_found(watch_list, threshold, silent)
    assert found.found < found_before.found
    forecast = make_forecast(watch_list, threshold, 3000, silent=silent, reference=strangers)
    assert forecast.false_alarms == half.false_alarms
    assert forecast.without_silent.false_alarms == before.false_alarms
    assert (forecast.found, forecast.without_silent.found) == (found.found, found_before.found)
    with_them, without = forecast.sentence.split(" Without the 2 silent people: ")
    assert without == describe_forecast(threshold, before, found_before)
    assert with_them == describe_forecast(threshold, half, found)


def test_silent_people_who_cannot_be_used_change_no_forecast():
    watch_list = _list([0.9, 0.8], (1, 2))
    gone = SilentGallery("staff", None, why="it was deleted")
    assert make_forecast(watch_list, _threshold(), 3000, silent=gone) == make_forecast(
        watch_list, _threshold(), 3000
    )


@pytest.mark.parametrize("value", [0.0, 0.99])
def test_everybody_or_nobody_found_is_no_certainty(value):
    found = forecast_found(_list([0.9, 0.8, 0.7], (1, 2)), _threshold(value=value))
    assert found.found_high - found.found_low > 0.01


@pytest.mark.parametrize(
    ("expected", "number"),
    [
        (0.2, "Fewer than 1 false alarm a day [0, 3]."),
        (0.9, "1 false alarm a day [0, 3]."),
        (2.7, "3 false alarms a day [0, 3]."),
        (4.5, "4 to 5 false alarms a day [0, 3]."),
        (45.2, "45 false alarms a day [0, 3]."),
        (1234.5, "1,234 false alarms a day [0, 3]."),
    ],
)
def test_a_user_reads_numbers_of_alarms_and_their_interval(expected, number):
    said = describe_forecast(_threshold(), Alarms(expected, 0, 3), Found("not_known"))
    assert said.startswith(number)


def test_a_user_reads_what_is_not_promised_not_known_or_bounded():
    unpromised = describe_forecast(
        _threshold(1e-4), Alarms(4.5, 0, 17), Found("several_cameras", 0.83, 0.51, 0.96)
    )
    assert unpromised == (
        "Fewer than 1 false alarm in 667 tracks cannot be promised; at most 17 a day. "
        "83% [51%, 96%] of the tracks of listed people are found."
    )
    after = _threshold(1e-4, tracks=200, basis="traffic")
    said = describe_forecast(after, Alarms(3.0, 0, 12), Found("not_known"))
    assert said.startswith("Fewer than 1 false alarm in 1,000 tracks cannot be promised;")
    bounded = Found("one_camera", found_high=0.66)
    unknown = describe_forecast(_threshold(basis="artefact"), Alarms(), bounded)
    assert "is not known" in unknown
    assert "At most 66% of the tracks" in unknown


@pytest.mark.parametrize(("bound", "says_bound"), [(0.99, True), (1.0, False)])
def test_a_bound_that_says_nothing_is_replaced_by_what_would_tell_more(bound, says_bound):
    found = Found("one_camera", found_high=bound)
    sentence = describe_forecast(_threshold(), Alarms(4.5, 0, 17), found)
    assert ("At most" in sentence) == says_bound
    advised = (
        "How many of their tracks are found is not known: enroll pictures from a second camera."
    )
    assert sentence.endswith(advised) != says_bound


@pytest.mark.parametrize(
    ("basis", "tracks", "own", "said"),
    [
        ("artefact", 0, 0, "model's own thresholds alone; no camera of the list is known."),
        ("list", 0, 0, "list alone; no camera of the list is known."),
        ("reference", 0, 0, "made-up strangers, and no tracks of the cameras it watches yet."),
        ("traffic", 1200, 1200, "and 1,200 counted tracks of the cameras it watches."),
        ("traffic", 1200, 200, ": 200 of the cameras it watches, 1,000 of other or unknown ones."),
    ],
)
def test_a_forecast_says_what_it_rests_on(basis, tracks, own, said):
    sentence = describe_basis(_threshold(tracks=tracks, basis=basis), own)
    assert sentence.startswith("It rests on the ")
    assert sentence.endswith(said)
