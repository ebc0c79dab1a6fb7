"""Tracks in memory: their ends, their alerts, and their greatest number."""

import math
import time

import numpy as np
import pytest

from service.ops.metrics import Metrics
from service.watch import tracks
from service.watch.tracks import LONGEST_SECONDS, QUIET_SECONDS, OpenTracks

PLACE = (1, "embedder")
BEGIN = 1_800_000_000.0


@pytest.fixture
def opened():
    return OpenTracks(Metrics())


def test_crops_of_one_id_at_one_camera_of_one_key_are_a_track(opened):
    first = opened.take("key", "gate", "17", BEGIN)
    assert opened.take("key", "gate", "17", BEGIN + 9.0) is first
    # Trackers number alike: another key's 17 is somebody else, and uses up no look of this one.
    for other in (("key", "yard", "17"), ("key", "gate", "18"), ("other", "gate", "17")):
        assert opened.take(*other, BEGIN + 9.0) is not first
    assert (first.crops, first.began, first.last) == (2, BEGIN, BEGIN + 9.0)


@pytest.mark.parametrize(
    ("seconds", "same"),
    [
        (QUIET_SECONDS, True),
        (QUIET_SECONDS + 0.1, False),
        (-QUIET_SECONDS, True),
        (-QUIET_SECONDS - 0.1, False),
    ],
)
def test_a_track_ends_after_ten_seconds_without_a_crop(opened, seconds, same):
    first = opened.take("key", "gate", "17", BEGIN)
    assert (opened.take("key", "gate", "17", BEGIN + seconds) is first) is same


def test_a_track_ends_after_a_minute_however_often_it_is_seen(opened):
    first = opened.take("key", "gate", "17", BEGIN)
    for seconds in range(5, 61, 5):
        assert opened.take("key", "gate", "17", BEGIN + seconds) is first
    second = opened.take("key", "gate", "17", BEGIN + LONGEST_SECONDS + 1.0)
    assert opened.end(math.inf) == [first, second]


def test_a_track_of_a_camera_whose_clock_stands_still_ends_after_a_minute(opened):
    first = opened.take("key", "gate", "17", BEGIN)
    first.opened -= LONGEST_SECONDS
    assert opened.take("key", "gate", "17", BEGIN) is not first


def test_a_track_of_which_nothing_is_heard_ends_and_a_crop_without_an_id_is_one_alone(opened):
    tracks = [opened.take("key", "gate", name, BEGIN) for name in ("17", None, None)]
    now = time.monotonic()
    assert opened.end(now - QUIET_SECONDS) == []
    assert opened.end(now + 1.0) == tracks
    assert opened.end(math.inf) == []


def test_of_too_many_open_tracks_the_one_heard_of_longest_ago_ends(monkeypatch):
    monkeypatch.setattr(tracks, "MOST_OPEN", 3)
    metrics = Metrics()
    opened = OpenTracks(metrics)
    first, second, *_ = (opened.take("key", "gate", name, BEGIN) for name in "abcad")
    assert opened.end(time.monotonic() - QUIET_SECONDS) == [second]
    assert metrics.counted.get_sample_value("gmn_open_tracks") == 3
    assert metrics.counted.get_sample_value("gmn_tracks_forgotten_total") == 1
    assert opened.take("key", "gate", "a", BEGIN) is first
    # The only track of another key stays, though it is older.
    quiet = opened.take("other", "gate", "a", BEGIN)
    opened.take("key", "gate", "e", BEGIN)
    assert len(opened.end(time.monotonic() - QUIET_SECONDS)) == 2
    assert opened.take("other", "gate", "a", BEGIN) is quiet


def test_traffic_counts_the_best_score_of_each_track_with_each_list(opened):
    first = opened.take("key", "gate", "1", BEGIN)
    first.best = {PLACE: 0.2, (2, "embedder"): 0.3}
    second = opened.take("key", "gate", "2", BEGIN)
    second.best = {PLACE: 0.7}
    # Compared with no list, such as one that watches another camera.
    third = opened.take("key", "yard", "3", BEGIN)
    assert opened.end(math.inf) == [first, second, third]
    assert opened.traffic == {PLACE: [0.2, 0.7], (2, "embedder"): [0.3]}


def test_cohesion_is_known_from_the_second_crop_on(opened):
    track = opened.take("key", "gate", "17", BEGIN)
    track.vectors["embedder"] = [np.array([3.0, 0.0], np.float16)]
    assert track.cohesion("embedder") is None
    track.vectors["embedder"].append(np.array([1.0, 1.0], np.float16))
    assert track.cohesion("embedder") == pytest.approx(math.sqrt(0.5), abs=1e-3)
    assert track.cohesion("another") is None
