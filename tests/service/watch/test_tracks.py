"""Tracks in memory: their ends, their alerts, and their greatest number."""

import math
import time

import numpy as np
import pytest

from service.ops.metrics import Metrics
from service.watch import tracks
from service.watch.tracks import LONGEST_SECONDS, QUIET_SECONDS, STILL_SECONDS, OpenTracks

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
    assert first.began == BEGIN


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


def test_a_person_who_stays_is_one_track_while_a_crop_arrives_each_minute(opened):
    first = opened.take("key", "gate", "17", BEGIN, still=True)
    assert opened.take("key", "gate", "17", BEGIN + STILL_SECONDS, still=True) is first
    # A crop that was sent late, or without the word, does not shorten the wait.
    for seconds in (STILL_SECONDS - 5.0, STILL_SECONDS + 1.0):
        assert opened.take("key", "gate", "17", BEGIN + seconds) is first
    assert opened.take("key", "gate", "17", BEGIN + 2 * STILL_SECONDS) is first
    # Another crop would have to arrive within ten seconds now.
    later = BEGIN + 2 * STILL_SECONDS + QUIET_SECONDS + 0.1
    assert opened.take("key", "gate", "17", later) is not first


def test_a_track_of_a_person_who_stays_ends_90_seconds_after_its_last_crop_arrived(opened):
    still = opened.take("key", "gate", "17", BEGIN, still=True)
    moving = opened.take("key", "gate", "18", BEGIN)
    opened.take("key", "gate", "17", BEGIN + 1.0)
    now = time.monotonic()
    assert opened.end(now + 1.0) == [moving]
    assert opened.end(now + STILL_SECONDS - QUIET_SECONDS - 1.0) == []
    assert opened.end(now + STILL_SECONDS - QUIET_SECONDS + 1.0) == [still]


def test_a_track_ends_after_half_an_hour_however_often_it_is_seen(opened):
    first = opened.take("key", "gate", "17", BEGIN, still=True)
    for seconds in range(60, 1801, 60):
        assert opened.take("key", "gate", "17", BEGIN + seconds, still=True) is first
    second = opened.take("key", "gate", "17", BEGIN + LONGEST_SECONDS + 1.0)
    assert opened.end(math.inf) == [first, second]
    # It is another track for the other processes, too.
    assert [first.number, second.number] == [0, 1]


def test_a_crop_of_another_person_begins_a_track_and_the_first_goes_on_if_they_return(opened):
    def belongs_to(person):
        return lambda track: track is person

    ann = opened.take("key", "gate", "17", BEGIN)
    assert opened.take("key", "gate", "17", BEGIN + 1.0) is ann
    ben = opened.move(ann, BEGIN + 1.0, False, belongs_to(None))
    assert opened.take("key", "gate", "17", BEGIN + 2.0) is ben
    assert opened.move(ben, BEGIN + 2.0, False, belongs_to(ann)) is ann
    assert opened.take("key", "gate", "17", BEGIN + 3.0) is ann
    assert opened.move(ann, BEGIN + 3.0, False, belongs_to(ben)) is ben
    # Ann has left, and whoever comes under the label then is a third person.
    for seconds in (5.0, 14.0):
        assert opened.take("key", "gate", "17", BEGIN + seconds) is ben
    eve = opened.move(ben, BEGIN + 14.0, False, belongs_to(ann))
    assert [track.number for track in (ann, ben, eve)] == [0, 1, 2]
    # The order of their newest crops.
    assert opened.end(math.inf) == [ann, ben, eve]


def test_a_crop_counts_for_the_track_of_the_person_whom_it_shows(opened):
    ann = opened.take("key", "gate", "17", BEGIN)
    ann.add_crop(BEGIN)
    assert opened.take("key", "gate", "17", BEGIN + 1.0) is ann
    ben = opened.move(ann, BEGIN + 1.0, False, lambda _: False)
    ben.add_crop(BEGIN + 1.0)
    # A crop that is refused later.
    assert opened.take("key", "gate", "17", BEGIN + 2.0) is ben
    assert (ann.crops, ann.first_seen, ann.last_seen) == (1, BEGIN, BEGIN)
    assert (ben.crops, ben.first_seen, ben.last_seen) == (1, BEGIN + 1.0, BEGIN + 1.0)


def test_nobody_returns_to_a_track_that_has_ended(opened):
    ann = opened.take("key", "gate", "17", BEGIN)
    ben = opened.move(ann, BEGIN, False, lambda _: False)
    ann.last_arrival -= 60.0
    assert opened.end(time.monotonic() - QUIET_SECONDS) == [ann]
    assert opened.take("key", "gate", "17", BEGIN + 1.0) is ben
    assert opened.move(ben, BEGIN + 1.0, False, lambda _: True) is not ann


def test_times_that_go_backwards_begin_one_track_and_crops_out_of_order_none(opened):
    first = opened.take("key", None, "17", BEGIN, still=True)
    for seconds in (-4.0, 2.0, -8.0, 2.0):
        assert opened.take("key", None, "17", BEGIN + seconds) is first
    # The camera's clock was set back by an hour.
    second = opened.take("key", None, "17", BEGIN - 3600.0, still=True)
    assert second is not first
    for seconds in (1.0, 60.0, 30.0):
        assert opened.take("key", None, "17", BEGIN - 3600.0 + seconds) is second


def test_a_track_of_a_camera_whose_clock_stands_still_ends_after_half_an_hour(opened):
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
    scores = {place: [ended.score for ended in found] for place, found in opened.traffic.items()}
    assert scores == {PLACE: [0.2, 0.7], (2, "embedder"): [0.3]}


def test_a_track_has_the_same_name_in_every_process(opened):
    other = OpenTracks(Metrics())
    for process, labels in ((opened, ["17", "18", None]), (other, ["17"])):
        for label in labels:
            process.take("key", "gate", label, BEGIN).best = {PLACE: 0.2}
        process.end(math.inf)
    names = [ended.name for ended in opened.traffic[PLACE]]
    assert names[0] != names[1]
    assert names[2] is None
    assert [ended.name for ended in other.traffic[PLACE]] == names[:1]


def test_cohesion_is_known_from_the_second_crop_on(opened):
    track = opened.take("key", "gate", "17", BEGIN)
    track.vectors["embedder"] = [np.array([3.0, 0.0], np.float16)]
    assert track.cohesion("embedder") is None
    track.vectors["embedder"].append(np.array([1.0, 1.0], np.float16))
    assert track.cohesion("embedder") == pytest.approx(math.sqrt(0.5), abs=1e-3)
    assert track.cohesion("another") is None
