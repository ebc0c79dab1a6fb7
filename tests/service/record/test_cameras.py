"""Cameras in the record: what each key's cameras sent lately, their limit, and their end."""

from datetime import UTC, datetime, timedelta

import pytest

from gmn_client.models import Forecast, WatchSettings
from service.errors import InvalidField, UnknownStill
from service.record.keys import ApiKey
from service.watch.tables.cameras import MOST_CAMERAS, CameraCounts
from tests.service.gallery.new_crops import enroll, new_crop, open_record, watch_of

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
HEALTHY = {"state": "ok", "fps": 10.0, "lag": 0.2}
DOOR, YARD = (ApiKey(key_id, "0" * 64, ("sight",), created_at=NOON) for key_id in ("door", "yard"))


def arm(record, gallery, **settings):
    settings = WatchSettings(
        budget=3,
        expires_at=datetime.now(UTC) + timedelta(days=1),
        reason="door",
        retention_days=30,
        **settings,
    )
    forecast = Forecast(
        threshold=0.5,
        people=1,
        tracks_per_day=300,
        traffic_tracks=0,
        false_alarms=None,
        low=None,
        high=None,
        promised=False,
        found=None,
        found_low=None,
        found_high=None,
        found_basis="not_known",
        basis="list",
        sentence="Not known.",
    )
    embedder = record.galleries.get(gallery).embedding_fingerprint
    watch_of(record).watches.arm(gallery, settings, forecast, embedder, "door")


def listed(record, now=NOON, key_ids=("door", "yard"), cursor=None, limit=5000):
    return watch_of(record).cameras.page(key_ids, cursor, limit, now)


def sent(crops=1, tracks=1, refused=0, at=NOON):
    return CameraCounts(at, at if crops else None, crops, tracks, refused)


def test_a_camera_shows_what_it_sent_in_the_last_day_and_its_heartbeat(record):
    cameras = watch_of(record).cameras
    for hours, crops in ((25, 100), (10, 3), (0, 2)):
        then = NOON - timedelta(hours=hours)
        cameras.note_sightings(DOOR, {"gate": sent(crops, at=then)}, then)
    later = NOON + timedelta(minutes=1)
    cameras.note_sightings(DOOR, {"gate": sent(crops=0, tracks=0, refused=4, at=later)}, later)
    before = NOON - timedelta(minutes=1)
    cameras.note_heartbeat(DOOR, "gate", {"state": "no_frames", "fps": None, "lag": 3.5}, before)
    cameras.note_heartbeat(DOOR, "gate", HEALTHY, NOON)
    (gate,) = listed(record, later)
    assert (gate.crops, gate.tracks, gate.refused) == (5, 2, 4)
    assert gate.last_crop_at == NOON
    assert (gate.heartbeat.received_at, gate.heartbeat.state, gate.heartbeat.fps) == (
        NOON,
        "ok",
        10.0,
    )
    assert not gate.silent


def test_two_keys_that_use_one_name_have_two_cameras(record):
    watch_of(record).cameras.note_heartbeat(DOOR, "gate", HEALTHY, NOON)
    watch_of(record).cameras.note_heartbeat(YARD, "gate", HEALTHY, NOON)
    assert [camera.key_id for camera in listed(record)] == ["door", "yard"]
    assert [camera.key_id for camera in listed(record, key_ids=["yard"])] == ["yard"]
    later = NOON + timedelta(minutes=6)
    watch_of(record).cameras.note_heartbeat(YARD, "gate", HEALTHY, later)
    assert watch_of(record).cameras.overdue(later - timedelta(minutes=5)) == [("door", "gate")]


def test_cameras_are_listed_page_by_page(record):
    names = ["", "gate", "a/b", "zoo", "Ä"]
    for key in (DOOR, YARD):
        watch_of(record).cameras.note_sightings(key, {name: sent() for name in names}, NOON)
    whole = listed(record)
    assert len(whole) == 10
    found = []
    while not found or len(found) % 3 == 0:
        last = found[-1] if found else None
        cursor = f"{last.key_id}/{last.camera or ''}" if last else None
        found += listed(record, cursor=cursor, limit=3)
    assert found == whole


def test_beyond_its_limit_a_key_names_no_new_camera_and_its_sightings_count_as_unnamed(record):
    cameras = watch_of(record).cameras
    cameras.note_heartbeat(DOOR, "gate", HEALTHY, NOON)
    many = {f"camera {number}": sent() for number in range(MOST_CAMERAS + 4)}
    cameras.note_sightings(DOOR, many, NOON)
    with pytest.raises(InvalidField, match="1,000 other cameras"):
        cameras.note_heartbeat(DOOR, "new", HEALTHY, NOON)
    cameras.note_sightings(DOOR, {"newer": sent(refused=2)}, NOON)
    unnamed = next(camera for camera in listed(record) if camera.camera is None)
    # Five of the many names, and the one that came last.
    assert (unnamed.crops, unnamed.refused) == (6, 2)
    # Known names go on, and other keys have their own limit.
    cameras.note_heartbeat(DOOR, "camera 7", HEALTHY, NOON)
    cameras.note_heartbeat(YARD, "new", HEALTHY, NOON)
    assert len(listed(record)) == MOST_CAMERAS + 2


def test_a_camera_that_is_not_heard_for_a_week_is_forgotten(record):
    watch_of(record).cameras.note_heartbeat(DOOR, "gate", HEALTHY, NOON)
    day_later = NOON + timedelta(days=1)
    watch_of(record).cameras.note_sightings(DOOR, {"hall": sent(at=day_later)}, day_later)
    watch_of(record).cameras.remove_old(NOON + timedelta(days=7, seconds=1))
    assert [camera.camera for camera in listed(record)] == ["hall"]


def test_a_camera_with_zones_is_not_forgotten_until_they_are_taken_away(record):
    cameras = watch_of(record).cameras
    cameras.note_heartbeat(DOOR, "gate", HEALTHY, NOON)
    zones = ["0,0.5 1,0.5 1,1 0,1", "0,0 1,0 1,1"]
    cameras.set_zones("door", "gate", zones)
    month_later = NOON + timedelta(days=30)
    cameras.remove_old(month_later)
    assert [camera.zones for camera in listed(record, month_later)] == [zones]
    assert cameras.answer_heartbeat("door", "gate", month_later).zones == zones
    cameras.set_zones("door", "gate", [])
    cameras.remove_old(month_later)
    assert listed(record, month_later) == []


def test_a_still_is_wanted_for_ten_minutes_or_until_it_has_come(record):
    cameras = watch_of(record).cameras
    cameras.note_heartbeat(DOOR, "gate", HEALTHY, NOON)

    def is_wanted(minutes):
        then = NOON + timedelta(minutes=minutes)
        return cameras.answer_heartbeat("door", "gate", then).still_wanted

    assert not is_wanted(0)
    cameras.ask_for_still("door", "gate", NOON)
    assert [is_wanted(minutes) for minutes in (0, 9, 10)] == [True, True, False]
    with pytest.raises(UnknownStill):
        cameras.require_wanted_still("door", "gate", NOON + timedelta(minutes=10))
    cameras.note_still("door", "gate")
    assert not is_wanted(1)


def test_a_key_that_is_revoked_takes_its_cameras_along(record):
    for key in (DOOR, YARD):
        record.keys.add(key)
        watch_of(record).cameras.note_heartbeat(key, "gate", HEALTHY, NOON)
    record.keys.revoke("door")
    assert [camera.key_id for camera in listed(record)] == ["yard"]


def test_keys_that_go_with_their_gallery_take_their_cameras_along(record, gallery):
    own = ApiKey("own", "0" * 64, ("sight",), gallery="lobby", created_at=NOON)
    record.keys.add(own)
    watch_of(record).cameras.note_heartbeat(own, "gate", HEALTHY, NOON)
    record.galleries.delete(gallery)
    assert listed(record, key_ids=["own"]) == []


def test_cameras_are_counted_by_their_state(record):
    cameras = watch_of(record).cameras
    cameras.note_heartbeat(DOOR, "dead", HEALTHY, NOON)
    later = NOON + timedelta(minutes=6)
    cameras.note_heartbeat(DOOR, "gate", HEALTHY, later)
    cameras.note_heartbeat(DOOR, "yard", {"state": "reconnecting", "fps": 0, "lag": None}, later)
    cameras.note_sightings(DOOR, {"without heartbeats": sent()}, later)
    cameras.note_silence(DOOR, "dead", later - timedelta(minutes=5), later)
    assert cameras.count_by_state(["door"]) == {"ok": 1, "trouble": 1, "silent": 1}
    assert cameras.count_by_state(["yard"]) == {}


def test_of_several_processes_the_first_notes_a_silence(record, gallery, tmp_path):
    arm(record, gallery)
    watch_of(record).cameras.note_heartbeat(DOOR, "gate", HEALTHY, NOON)
    later = NOON + timedelta(minutes=6)
    with open_record(tmp_path) as other:
        noted = [
            watch_of(process).cameras.note_silence(
                DOOR, "gate", later - timedelta(minutes=5), later
            )
            for process in (record, other)
        ]
        heard = [
            watch_of(process).cameras.note_heartbeat(DOOR, "gate", HEALTHY, later)
            for process in (other, record)
        ]
    assert [len(alerts) for alerts in noted + heard] == [1, 0, 1, 0]
    silent, back = reversed(watch_of(record).alerts.page(10))
    assert (silent.kind, silent.camera, silent.first_seen, silent.last_seen) == (
        "silent",
        "gate",
        NOON,
        later,
    )
    assert (back.kind, back.detail) == (
        "heard",
        "the camera 'gate' is heard again, after 6 minutes of silence",
    )


@pytest.mark.parametrize("state", ["no_frames", "reconnecting"])
def test_a_camera_that_shows_its_program_nothing_falls_silent(record, gallery, state):
    arm(record, gallery)
    cameras = watch_of(record).cameras
    cameras.note_heartbeat(DOOR, "gate", HEALTHY, NOON)
    later = NOON + timedelta(minutes=6)
    heard_before = later - timedelta(minutes=5)
    dark = {"state": state, "fps": 0.0, "lag": None}
    assert cameras.note_heartbeat(DOOR, "gate", dark, later) == []
    assert cameras.overdue(heard_before) == [("door", "gate")]
    assert len(cameras.note_silence(DOOR, "gate", heard_before, later)) == 1
    assert cameras.note_heartbeat(DOOR, "gate", dark, later + timedelta(minutes=1)) == []
    (silent,) = watch_of(record).alerts.page(10)
    assert silent.detail.startswith(
        f"the camera 'gate' has shown nothing to its program ({state}) "
        "for 6 minutes; check the camera"
    )
    (gate,) = listed(record, later)
    assert (gate.silent, gate.last_heard_at, gate.heartbeat.state) == (True, NOON, state)
    (back,) = cameras.note_heartbeat(DOOR, "gate", HEALTHY, later + timedelta(minutes=2))
    assert back.alert.kind == "heard"


def test_a_camera_whose_program_still_lives_is_not_forgotten(record):
    watch_of(record).cameras.note_heartbeat(DOOR, "gate", HEALTHY, NOON)
    week_later = NOON + timedelta(days=7, seconds=1)
    dark = {"state": "no_frames", "fps": 0.0, "lag": None}
    watch_of(record).cameras.note_heartbeat(DOOR, "gate", dark, week_later)
    watch_of(record).cameras.remove_old(week_later)
    (gate,) = listed(record)
    assert gate.last_heard_at == NOON


def test_a_camera_that_is_heard_meanwhile_is_not_silent(record, gallery):
    arm(record, gallery)
    watch_of(record).cameras.note_heartbeat(DOOR, "gate", HEALTHY, NOON)
    later = NOON + timedelta(minutes=6)
    ((key_id, camera),) = watch_of(record).cameras.overdue(later - timedelta(minutes=5))
    watch_of(record).cameras.note_heartbeat(DOOR, "gate", HEALTHY, later)
    assert (key_id, camera) == ("door", "gate")
    assert (
        watch_of(record).cameras.note_silence(DOOR, camera, later - timedelta(minutes=5), later)
        == []
    )
    assert watch_of(record).alerts.page(10) == []


@pytest.mark.sqlite_alone
def test_a_heartbeat_and_an_enrollment_do_not_wait_until_the_log_is_empty(record, gallery):
    log = record.database.path.with_name("record.sqlite3-wal")
    for minutes in range(2):
        now = NOON + timedelta(minutes=minutes)
        watch_of(record).cameras.note_heartbeat(DOOR, "gate", HEALTHY, now)
        assert log.stat().st_size
        enroll(record, gallery, new_crop(minutes))
        assert log.stat().st_size
