"""Events that Frigate keeps, walked by a stand-in of it and one of the service."""

import io
import re
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
from PIL import Image

from gmn_camera import frigate_history
from gmn_camera.frigate_api import FrigateFailed, FrigateRefused, FrigateUnreachable, open_frigate
from gmn_camera.frigate_history import HistoryWalk, read_since, require_kept
from gmn_client.errors import InvalidInput
from gmn_client.models import Problem
from tests.camera.stand_in_frigate import (
    PERSON,
    StandInEvent,
    StandInFrigate,
    events_of_a_week,
    serving_frigate,
)

NOW = 1_772_366_400.0
SINCE = datetime.fromtimestamp(NOW, UTC) - timedelta(days=7)


class StandInGallery:
    """Remembers the crops that are enrolled, as the service does.

    Attributes:
        crops: the images that were sent, by their external id.
        requests: number of images of each request.
        problems: problems of crops by their external id.
    """

    def __init__(self):
        self.stored = {}
        self.requests = []
        self.problems = {}

    def crops(self, gallery, captured_after):
        assert gallery == "sightings"
        return [
            SimpleNamespace(external_id=name)
            for name, image in self.stored.items()
            if image.captured_at >= captured_after
        ]

    def enroll(self, images, gallery):
        assert gallery == "sightings"
        self.requests.append(len(images))
        known = {image.data for image in self.stored.values()}
        results = []
        for image in images:
            problem = self.problems.get(image.external_id)
            is_known = image.data in known
            if problem is None and not is_known:
                self.stored[image.external_id] = image
            results.append(SimpleNamespace(problem=problem, duplicate=is_known))
        return SimpleNamespace(results=results)


@pytest.fixture
def service():
    return StandInGallery()


@pytest.fixture
def stand_in(monkeypatch):
    monkeypatch.setattr(frigate_history, "PAUSES", (0.0, 0.0))
    return StandInFrigate()


@pytest.fixture
def walk(service, stand_in):
    """Return a function that walks all events, and returns the counts as a sentence."""

    def walk_all(min_height=96):
        with serving_frigate(stand_in) as address:
            frigate = open_frigate(address)
            walked = HistoryWalk(service, frigate, "sightings", SINCE, min_height)
            try:
                walked.run()
            finally:
                frigate.close()
        return walked.counts.describe(min_height)

    return walk_all


def test_each_event_of_a_week_becomes_one_unnamed_crop_with_its_labels(walk, service, stand_in):
    stand_in.events = events_of_a_week(now=NOW)
    assert walk() == (
        "200 events of people: 191 crops enrolled, 0 there already, 5 without a snapshot, "
        "2 without a clean picture, 2 lower than 96 pixels"
    )
    usable = {
        event.id: event
        for event in stand_in.events
        if event.has_clean and event.listed["has_snapshot"] and "data" not in event.fields
    }
    assert service.stored.keys() == usable.keys()
    for event_id, image in service.stored.items():
        assert (image.track, image.identity) == (event_id, None)
        assert image.camera == usable[event_id].listed["camera"]
        assert image.captured_at == datetime.fromtimestamp(usable[event_id].seconds, UTC)
        assert Image.open(io.BytesIO(image.data)).size == PERSON


def test_a_second_walk_asks_for_no_picture_of_an_event_that_is_there(walk, service, stand_in):
    stand_in.events = events_of_a_week(50, now=NOW)
    walk()
    pictures = stand_in.pictures
    stand_in.events.append(StandInEvent(1000, NOW - 60))
    assert walk().startswith("51 events of people: 1 crop enrolled, 47 there already")
    assert stand_in.pictures == pictures + 1


def test_a_crop_that_a_killed_walk_has_sent_is_there_already(walk, service, stand_in):
    stand_in.events = [StandInEvent(number, NOW - 60 + number) for number in range(3)]
    walk()
    # The service had not stored it when the next walk asked what is there.
    service.crops = Mock(return_value=[])
    assert walk() == "3 events of people: 0 crops enrolled, 3 there already, 0 without a snapshot"
    assert len(service.stored) == 3


def test_events_without_a_picture_are_named(walk, stand_in, caplog):
    missing = StandInEvent(1, NOW - 300, fields={"has_snapshot": False})
    boxless = StandInEvent(2, NOW - 200, fields={"data": {"box": None}})
    drawn_on = StandInEvent(3, NOW - 100, has_clean=False)
    stand_in.events = [missing, boxless, drawn_on]
    assert walk() == (
        "3 events of people: 0 crops enrolled, 0 there already, 2 without a snapshot, "
        "1 without a clean picture"
    )
    for event, reason in ((missing, "no snapshot"), (boxless, "no snapshot"), (drawn_on, "clean")):
        assert re.search(f"{event.id} of (gate|yard), 2026-03-01.* UTC: .*{reason}", caplog.text)


def test_cars_false_alarms_and_people_who_are_still_there_are_left_out(walk, service, stand_in):
    stand_in.events = [
        StandInEvent(1, NOW - 300, fields={"label": "car"}),
        StandInEvent(2, NOW - 200, fields={"false_positive": True}),
        StandInEvent(3, NOW - 100, fields={"end_time": None}),
    ]
    assert walk() == (
        "1 event of people: 0 crops enrolled, 0 there already, 0 without a snapshot, "
        "1 not ended yet"
    )
    assert service.stored == {}


def test_the_time_of_the_picture_counts_where_frigate_tells_it(walk, service, stand_in):
    event = StandInEvent(1, NOW - 100)
    event.fields = {"data": {**event.listed["data"], "snapshot_frame_time": NOW - 95}}
    stand_in.events = [event]
    walk()
    (image,) = service.stored.values()
    assert image.captured_at == datetime.fromtimestamp(NOW - 95, UTC)


@pytest.mark.parametrize("version", ["0.14.1", "0.17.2"])
def test_clean_pictures_of_each_version_are_found(walk, service, stand_in, version):
    stand_in.version = version
    stand_in.events = [StandInEvent(1, NOW - 100)]
    walk()
    assert len(service.stored) == 1


@pytest.mark.parametrize(
    "odd",
    [
        {"id": "../../restart"},
        {"camera": ""},
        {"start_time": "soon"},
        {"data": {"box": [1, 2, 3]}},
        {"data": {"box": [0, 0, 1e9, 1]}},
    ],
)
def test_an_odd_event_is_logged_and_the_others_are_enrolled(walk, service, stand_in, odd, caplog):
    stand_in.events = [StandInEvent(1, NOW - 200, fields=odd), StandInEvent(2, NOW - 100)]
    walk()
    assert "an event is not as Frigate's" in caplog.text
    assert len(service.stored) == 1
    assert not any("restart" in path for path in stand_in.asked)


@pytest.mark.parametrize("content", [b"no picture", b""])
def test_a_picture_that_cannot_be_read_is_counted(walk, stand_in, monkeypatch, content, caplog):
    stand_in.events = [StandInEvent(1, NOW - 100)]
    monkeypatch.setattr("tests.camera.stand_in_frigate.picture_of", Mock(return_value=content))
    assert walk().endswith("1 failed")
    assert "its picture cannot be read" in caplog.text


def test_a_picture_with_too_many_pixels_is_not_decoded(walk, stand_in, monkeypatch, caplog):
    monkeypatch.setattr(frigate_history, "MOST_PIXELS", 1000)
    stand_in.events = [StandInEvent(1, NOW - 100)]
    assert walk().endswith("1 failed")
    assert "320×240 pixels" in caplog.text


def test_a_box_outside_of_the_frame_is_counted(walk, stand_in, caplog):
    stand_in.events = [StandInEvent(1, NOW - 100, fields={"data": {"box": [1.5, 0, 0.2, 1]}})]
    assert walk().endswith("1 failed")
    assert "the box is outside" in caplog.text


def test_a_crop_that_the_service_refuses_is_named_with_the_reason(walk, service, stand_in, caplog):
    event = StandInEvent(1, NOW - 100)
    stand_in.events = [event, StandInEvent(2, NOW - 50)]
    service.problems[event.id] = Problem(status=422, detail="the crop is too dark")
    assert walk() == (
        "2 events of people: 1 crop enrolled, 0 there already, 0 without a snapshot, 1 failed"
    )
    assert f"{event.id} of yard: the crop is too dark" in caplog.text


def test_frigate_may_restart_during_the_walk(walk, service, stand_in, caplog):
    stand_in.events = [StandInEvent(1, NOW - 100)]
    stand_in.away = 2
    walk()
    assert "HTTP 502" in caplog.text
    assert len(service.stored) == 1


def test_a_frigate_that_stays_away_ends_the_walk(walk, stand_in):
    stand_in.away = 1000
    with pytest.raises(FrigateUnreachable, match="HTTP 502"):
        walk()


def test_a_frigate_that_asks_for_a_user_ends_the_walk(walk, stand_in):
    stand_in.user = "viewer"
    with pytest.raises(FrigateRefused, match="--frigate-user"):
        walk()


def test_more_people_in_one_frame_than_a_page_holds_are_all_enrolled(
    walk, service, stand_in, monkeypatch
):
    monkeypatch.setattr(frigate_history, "EVENTS_AT_ONCE", 5)
    stand_in.events = [StandInEvent(number, NOW - 100) for number in range(30)]
    assert walk().startswith("30 events of people: 30 crops enrolled")
    assert max(service.requests) <= 16


def test_a_list_that_never_goes_on_ends_the_walk(walk, stand_in, monkeypatch):
    monkeypatch.setattr(frigate_history, "EVENTS_AT_ONCE", 2)
    monkeypatch.setattr(frigate_history, "MOST_AT_ONCE", 2)
    same = [StandInEvent(number, NOW - 100).listed for number in range(2)]
    stand_in.listed = Mock(return_value=same)
    with pytest.raises(FrigateFailed, match="again and again"):
        walk()


def test_a_list_that_is_no_list_ends_the_walk(walk, stand_in):
    stand_in.listed = Mock(return_value={"success": False})
    with pytest.raises(FrigateFailed, match="/api/events: the answer is not as Frigate's"):
        walk()


@pytest.mark.parametrize(
    ("text", "duration"), [("7d", timedelta(days=7)), ("12h", timedelta(hours=12))]
)
def test_since_is_a_number_of_days_or_hours(text, duration):
    assert read_since(text) == duration


@pytest.mark.parametrize("text", ["", "7", "d", "0d", "-1d", "7 days", "99999d", "2026-03-01"])
def test_another_since_is_refused_with_an_example(text):
    with pytest.raises(InvalidInput, match=r"--since: .* write it like 7d or 12h"):
        read_since(text)


def gallery_with(retention_from="captured", days=None, hours=None):
    return SimpleNamespace(
        name="sightings", retention_from=retention_from, retention_days=days, retention_hours=hours
    )


def test_events_that_the_gallery_would_delete_at_once_are_refused():
    with pytest.raises(InvalidInput, match="--since: 7d is longer than the 3 days"):
        require_kept(gallery_with(days=3), timedelta(days=7), "7d")
    with pytest.raises(InvalidInput, match="--since: 7d is longer than the 23 hours"):
        require_kept(gallery_with(hours=23), timedelta(days=7), "7d")


def test_events_that_the_gallery_keeps_are_taken():
    require_kept(gallery_with(days=7), timedelta(days=7), "7d")
    require_kept(gallery_with("enrolled", days=3), timedelta(days=7), "7d")
