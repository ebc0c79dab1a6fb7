"""The traffic of each camera of a watch list, with a histogram for each key that sends tracks."""

from datetime import UTC, datetime, timedelta

import numpy as np

from service.record.keys import ApiKey
from service.record.values import Sender
from service.watch.tables.traffic import MOST_CAMERAS, EndedTracks, TrackPart
from tests.service.gallery.new_crops import new_gallery, watch_of
from tests.service.record.test_cameras import arm

GATE = Sender("camera", "gate")


def add(record, gallery, counts, score_kind="a"):
    tracks = {sender: EndedTracks(np.array(counted)) for sender, counted in counts.items()}
    watch_of(record).traffic.add(gallery, score_kind, tracks)


def by_camera(record, gallery, score_kind="a"):
    traffic = watch_of(record).traffic.by_camera(gallery, score_kind)
    assert all(camera.tracks == camera.counts.sum() for camera in traffic.values())
    return {sender: camera.counts.tolist() for sender, camera in traffic.items()}


def of_list(record, gallery):
    return watch_of(record).traffic.of_list(gallery, "a")[0].tolist()


def test_each_camera_of_each_key_has_a_histogram(record, gallery):
    unnamed = Sender("camera", None)
    foreign = Sender("other", "gate")
    add(record, gallery, {GATE: [1, 0], unnamed: [0, 2]})
    began = watch_of(record).traffic.by_camera(gallery, "a")[GATE].since
    add(record, gallery, {GATE: [0, 3], foreign: [4, 0]})
    assert by_camera(record, gallery) == {GATE: [1, 3], unnamed: [0, 2], foreign: [4, 0]}
    assert of_list(record, gallery) == [5, 5]
    assert watch_of(record).traffic.by_camera(gallery, "a")[GATE].since == began
    assert timedelta(0) <= datetime.now(UTC) - began < timedelta(minutes=1)


def test_traffic_with_scores_of_another_kind_begins_anew(record, gallery):
    yard = Sender("camera", "yard")
    add(record, gallery, {GATE: [1], yard: [2]})
    add(record, gallery, {GATE: [5]}, score_kind="b")
    assert by_camera(record, gallery) == {}
    assert by_camera(record, gallery, "b") == {GATE: [5]}


def test_invented_cameras_count_for_the_list_alone(record, gallery):
    invented = [Sender("noisy", f"camera {number}") for number in range(MOST_CAMERAS)]
    add(record, gallery, {sender: [1] for sender in invented})
    further = Sender("noisy", "one more")
    add(record, gallery, {further: [1], invented[0]: [1], GATE: [1]})
    expected = {sender: [1] for sender in invented} | {invented[0]: [2], GATE: [1]}
    assert by_camera(record, gallery) == expected
    assert of_list(record, gallery) == [MOST_CAMERAS + 3]


def test_the_traffic_of_a_camera_goes_with_its_key_and_with_its_gallery(record, gallery):
    other = new_gallery(record, "other")
    for key_id, name in (("gate", None), ("visitor", "other"), ("admin", None)):
        record.keys.add(ApiKey(key_id, "0" * 64, ("sight",), name))
    gate, visitor, admin = (Sender(key_id, "gate") for key_id in ("gate", "visitor", "admin"))
    for watched in (gallery, other):
        add(record, watched, {gate: [1], visitor: [1], admin: [1]})
    record.keys.revoke("gate")
    assert by_camera(record, gallery) == {visitor: [1], admin: [1]}
    assert of_list(record, gallery) == [3]
    record.galleries.delete(other)
    assert by_camera(record, gallery) == {admin: [1]}
    assert by_camera(record, other) == {}


def test_a_track_that_was_counted_before_its_camera_leaves_no_count_below_zero(record, gallery):
    moment = datetime.now(UTC)
    parts = [TrackPart(b"17", moment, moment + timedelta(seconds=10), best) for best in (0, 1)]
    none = np.zeros(2, np.int64)
    before, after = (EndedTracks(none, [part]) for part in parts)
    watch_of(record).traffic.add(gallery, "a", {GATE: before})
    record.database.write(lambda transaction: transaction.change("DELETE FROM camera_traffic"))
    watch_of(record).traffic.add(gallery, "a", {GATE: after})
    assert by_camera(record, gallery) == {GATE: [0, 1]}
    assert of_list(record, gallery) == [0, 1]


def test_a_track_that_was_kept_silent_in_several_processes_counts_once(record, gallery):
    watch = watch_of(record)
    moment = datetime.now(UTC)

    def kept_silent(*parts, whole=0):
        ended = EndedTracks(np.zeros(2, np.int64), parts, whole)
        watch.traffic.add(gallery, "a", {GATE: ended})
        return watch.watches.get(gallery).kept_silent

    def part(began, until, is_kept=True):
        times = (moment + timedelta(seconds=seconds) for seconds in (began, until))
        return TrackPart(b"17", *times, 0, is_kept)

    arm(record, gallery)
    assert kept_silent(part(0, 10), part(20, 30), part(40, 50, False), whole=2) == 4
    # What another process saw in between makes one track of the first two.
    assert kept_silent(part(8, 22, False)) == 3
    assert kept_silent(part(49, 52)) == 4
    arm(record, gallery)
    assert kept_silent() == 0
    assert kept_silent(part(29, 41, False)) == 0


def test_scores_of_a_list_of_another_size_begin_anew_and_its_tracks_count_on(record, gallery):
    yard = Sender("camera", "yard")
    traffic = watch_of(record).traffic
    assert traffic.counted(gallery) is None
    arm(record, gallery)
    add(record, gallery, {GATE: [1, 0], yard: [2, 0]}, score_kind="a 0 3")
    since = traffic.counted(gallery).since
    add(record, gallery, {GATE: [0, 5]}, score_kind="a 1 4")
    assert by_camera(record, gallery, "a 1 4") == {GATE: [0, 5]}
    assert by_camera(record, gallery, "a 0 3") == {yard: [2, 0]}
    assert traffic.of_list(gallery, "a 1 4")[0].tolist() == [0, 5]
    assert traffic.counted(gallery) == ("a 1 4", 8, since)
    trials = watch_of(record).watches.get(gallery).trials
    assert {trial.camera: trial.tracks for trial in trials} == {"gate": 6, "yard": 2}
    # Another embedder compares other tracks.
    add(record, gallery, {GATE: [1, 0]}, score_kind="b 1 4")
    assert traffic.counted(gallery)[:2] == ("b 1 4", 1)
    assert [trial.tracks for trial in watch_of(record).watches.get(gallery).trials] == [1]


def test_a_list_tells_of_each_fault_once_a_day(record, gallery):
    watches = watch_of(record).watches
    arm(record, gallery)
    assert watches.warn(gallery, "nobody rings: there is no one") is not None
    assert watches.warn(gallery, "nobody rings: there is still no one") is None
    assert watches.warn(gallery, "nobody is silent: there is no one") is not None

    def let_a_day_pass(transaction):
        day = timedelta(days=1) // timedelta(microseconds=1)
        transaction.change("UPDATE alerts SET created_at = created_at - ?", (day,))

    record.database.write(let_a_day_pass)
    assert watches.warn(gallery, "nobody rings: there is still no one") is not None
    arm(record, gallery)
    assert watches.warn(gallery, "nobody rings: there is still no one") is not None
