"""Passages of a watch list, its pauses and its weekdays, as a camera and a guard meet them."""

import json
from datetime import UTC, datetime
from uuid import uuid4

import pytest

from gmn_client.models import WatchSettings
from service.watch.active import is_within_hours
from tests.conftest import draw_crop
from tests.outside import audit_lines, refused_fields
from tests.service.conftest import files
from tests.service.watch_places import alerts, arm, read_list, short_tracks
from tests.waiting import eventually

LISTED = "0000"
ON_LIST, NEAR = (draw_crop(0, 0, shot) for shot in (0, 1))
SEEN, TWIN = (draw_crop(0, 1, shot) for shot in (2, 4))
STRANGER = draw_crop(7, 1, 0)


@pytest.fixture(scope="module")
def watching(open_service, data_dir):
    with short_tracks():
        yield open_service(data_dir)


@pytest.fixture
def wanted(watching):
    gallery = watching.create(f"wanted-{uuid4().hex[:8]}")
    watching.enrolled(gallery, ON_LIST, identity=LISTED)
    yield gallery
    watching.http.delete(f"/v1/galleries/{gallery}")


def rings(served, gallery, *images, **sent):
    """Send crops of one track, and return whether a list rings for them."""
    data = {"camera": "gate", "wait": "true", **sent}
    answer = served.http.post("/v1/sightings", files=files(*images), data=data)
    assert answer.status_code == 200, answer.text
    matches = [match for image in answer.json()["results"] for match in image["matches"]]
    return any(match["gallery"] == gallery for match in matches)


def passages(served, gallery):
    return served.results(f"/v1/galleries/{gallery}/watch/passages")


def tracks(served, gallery):
    return sum(trial["tracks"] for trial in read_list(served, gallery)["trials"])


def pause(served, gallery, paused, **more):
    return served.http.patch(f"/v1/galleries/{gallery}/watch", data={"paused": paused, **more})


@pytest.mark.promise("passages")
def test_it_did_not_ring_has_an_answer(watching, wanted):
    arm(watching, wanted, explain_passages="true")
    assert not rings(watching, wanted, STRANGER, track="stranger")
    assert rings(watching, wanted, NEAR, track="listed")
    eventually(lambda: passages(watching, wanted))
    eventually(lambda: tracks(watching, wanted) == 2)
    (passage,) = passages(watching, wanted)
    assert (passage["camera"], passage["track"]) == ("gate", "stranger")
    assert passage["margin"] == pytest.approx(passage["score"] - passage["threshold"])
    assert passage["margin"] < 0
    assert passage["height"] > 0
    assert passage["sentence"].startswith(f"{-passage['margin']:.2f} below; ")
    assert "image" not in json.dumps(passage)


@pytest.mark.promise("passages")
def test_a_list_explains_nothing_unless_it_is_armed_to(watching, wanted):
    arm(watching, wanted)
    assert not rings(watching, wanted, STRANGER, track="stranger")
    eventually(lambda: tracks(watching, wanted) == 1)
    assert passages(watching, wanted) == []


@pytest.mark.promise("passages")
@pytest.mark.promise("silent-people")
def test_who_is_kept_silent_is_no_passage(watching, wanted, data_dir):
    staff = watching.create(f"staff-{uuid4().hex[:8]}")
    watching.enrolled(staff, TWIN, identity="twin")
    arm(watching, wanted, silent=staff, explain_passages="true")
    assert not rings(watching, wanted, SEEN, track="staff")
    assert not rings(watching, wanted, STRANGER, track="stranger")
    eventually(lambda: tracks(watching, wanted) == 2)
    eventually(lambda: passages(watching, wanted))
    assert [passage["track"] for passage in passages(watching, wanted)] == ["stranger"]
    assert "twin" not in json.dumps([passages(watching, wanted), audit_lines(data_dir)])


@pytest.mark.promise("paused")
def test_a_paused_list_raises_no_alert_and_counts_nothing(watching, wanted, data_dir):
    arm(watching, wanted)
    before = read_list(watching, wanted)
    assert before["paused_at"] is None
    paused = pause(watching, wanted, "true", reason="works at the gate").json()
    assert paused["state"] == "armed"
    assert paused["paused_at"] is not None
    assert not rings(watching, wanted, NEAR, track="1")
    assert pause(watching, wanted, "true").json()["paused_at"] == paused["paused_at"]
    resumed = pause(watching, wanted, "false").json()
    assert {**resumed, "days": 0} == {**before, "days": 0}
    assert alerts(watching, gallery=wanted) == []
    assert rings(watching, wanted, NEAR, track="2")
    eventually(lambda: tracks(watching, wanted) == 1)
    lines = [line for line in audit_lines(data_dir) if line["event"] == "pause_list"]
    first = next(line for line in lines if line["gallery"] == wanted)
    assert (first["paused"], first["reason"]) == (True, "works at the gate")


@pytest.mark.promise("paused")
def test_another_process_that_compares_with_a_paused_list_raises_no_alert(watching, wanted, people):
    arm(watching, wanted)
    pause(watching, wanted, "true")
    assert people.pass_by(wanted) is None
    pause(watching, wanted, "false")
    assert people.pass_by(wanted).is_new


def test_a_list_that_is_not_armed_cannot_be_paused(watching, wanted):
    refused = pause(watching, wanted, "true")
    assert refused_fields(refused) == {"gallery"}
    assert "arm it first" in refused.json()["detail"]


def test_arming_resumes_a_paused_list(watching, wanted):
    arm(watching, wanted)
    pause(watching, wanted, "true")
    arm(watching, wanted)
    assert read_list(watching, wanted)["paused_at"] is None
    assert rings(watching, wanted, NEAR, track="1")


def within(moment, **settings):
    ends = datetime(2027, 1, 1, tzinfo=UTC)
    watch = WatchSettings(budget=3, expires_at=ends, reason="door", retention_days=30, **settings)
    return is_within_hours(watch, datetime.fromisoformat(moment))


@pytest.mark.parametrize(
    ("moment", "is_watched"),
    [
        ("2026-03-06T22:30+01:00", True),
        ("2026-03-07T05:59+01:00", True),
        ("2026-03-07T06:00+01:00", False),
        ("2026-03-07T22:30+01:00", False),
        ("2026-03-08T05:00+01:00", False),
        ("2026-03-06T21:30Z", True),
    ],
)
def test_a_night_belongs_to_the_day_on_which_it_begins(moment, is_watched):
    """The sixth of March 2026 is a Friday."""
    night = {"hours": "22:00-06:00", "weekdays": ["fri"], "time_zone": "Europe/Zurich"}
    assert within(moment, **night) is is_watched


def test_weekdays_are_those_of_the_time_zone_of_the_list():
    weekend = {"weekdays": ["sat", "sun"], "time_zone": "Asia/Tokyo"}
    assert within("2026-03-06T15:00Z", **weekend)
    assert not within("2026-03-06T14:59Z", **weekend)
    assert not within("2026-03-08T15:00Z", **weekend)


def test_a_list_is_armed_for_its_weekdays_and_a_day_that_is_none_is_named(watching, wanted):
    arm(watching, wanted, weekdays="sat,sun")
    assert read_list(watching, wanted)["settings"]["weekdays"] == ["sat", "sun"]
    fields = {**read_list(watching, wanted)["settings"], "weekdays": "samedi"}
    kept = {name: value for name, value in fields.items() if value not in (None, [], "")}
    refused = watching.http.put(f"/v1/galleries/{wanted}/watch", data=kept)
    assert {field.partition(".")[0] for field in refused_fields(refused)} == {"weekdays"}
