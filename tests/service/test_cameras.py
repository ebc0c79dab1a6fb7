"""Health of cameras: heartbeats, who sees which camera, and one alert for each silence.

The services read their time from a file, which the tests move.
"""

import json
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from gmn_client import Client
from tests.outside import bearer, refused_fields
from tests.service.conftest import START, files
from tests.service.http.conftest import make_key
from tests.service.watch_places import alerts, arm_new, create_webhook, deliveries
from tests.waiting import eventually

CLOCK = """
import os
from datetime import datetime
from pathlib import Path

from service.watch import camera_contacts, camera_health, parts

CLOCK = Path({clock!r})
SEEN = CLOCK.with_name(f"seen {{os.getpid()}}")

def read_clock():
    text = CLOCK.read_text()
    SEEN.write_text(text)
    return datetime.fromisoformat(text)

parts.CameraContacts = lambda: camera_contacts.CameraContacts(read_clock)
camera_health.LOOK_EVERY_SECONDS = 0.02
"""
LONGEST_STEP_SECONDS = 30


class Clock:
    """The time of services, in a file."""

    def __init__(self, folder):
        self._path = folder / "clock"
        self._now = datetime.now(UTC)
        self._write()

    @property
    def program(self):
        return CLOCK.format(clock=str(self._path)) + START

    def jump(self, seconds):
        self._now += timedelta(seconds=seconds)
        self._write()

    def advance(self, seconds, *services):
        """Move the time in steps, each of which every service sees."""
        while seconds > 0:
            step = min(seconds, LONGEST_STEP_SECONDS)
            seconds -= step
            self.jump(step)
            for service in services:
                eventually(lambda service=service: self._is_seen_by(service))

    def _is_seen_by(self, service):
        seen = self._path.with_name(f"seen {service.process.pid}")
        return seen.read_text() == self._now.isoformat()

    def _write(self):
        # A service must not read a part of the text.
        written = self._path.with_name("clock being written")
        written.write_text(self._now.isoformat())
        written.replace(self._path)


@pytest.fixture(scope="module")
def clock(tmp_path_factory):
    return Clock(tmp_path_factory.mktemp("clock"))


@pytest.fixture(scope="module")
def watching(start, data_dir, clock):
    """A service whose clock the tests move, asked as an administrator."""
    admin = bearer(make_key(data_dir, "--scope", "admin"))
    served = start(data_dir, program=clock.program, webhook_private="true")
    served.http.headers.update(admin)
    return served


@pytest.fixture
def camera():
    return f"camera {uuid4().hex[:8]}"


@pytest.fixture
def wanted(watching, drawn_crops, camera):
    """Return a list that watches one camera."""
    return arm_new(watching, f"wanted-{uuid4().hex[:8]}", drawn_crops[:2], cameras=camera)


@pytest.fixture
def camera_key(watching):
    """Return the header of a new key that may send what a camera sees."""
    _, headers = watching.make_key("sight")
    return headers


def beat(served, camera, key, state="ok", **fields):
    sent = {"state": state, **fields}
    answer = served.http.post(f"/v1/cameras/{camera}/heartbeat", data=sent, headers=key)
    assert answer.status_code == 200, answer.text
    return answer.json()


def sight(served, camera, key, image, **fields):
    sent = {"camera": camera, **fields}
    return served.http.post("/v1/sightings", files=files(image), data=sent, headers=key)


def listed(served, camera, **asked):
    found = served.results("/v1/cameras", params={"limit": 1000}, **asked)
    return next((entry for entry in found if entry["camera"] == camera), None)


def kinds(served, gallery):
    return [alert["kind"] for alert in reversed(alerts(served, gallery=gallery))]


def test_a_camera_whose_heartbeats_end_raises_one_alert_and_another_when_it_is_back(
    watching, clock, camera, wanted, camera_key, receiver
):
    create_webhook(watching.http, receiver.url, gallery=wanted)
    beat(watching, camera, camera_key, fps="12.5")
    clock.advance(295, watching)
    assert kinds(watching, wanted) == []
    assert not listed(watching, camera)["silent"]
    clock.advance(35, watching)
    eventually(lambda: kinds(watching, wanted) == ["silent"])
    (silent,) = alerts(watching, gallery=wanted)
    assert (silent["camera"], silent["identity"], silent["image_url"]) == (camera, None, None)
    assert silent["detail"].startswith(
        f"the camera '{camera}' has sent nothing for 5 minutes; check the camera"
    )
    assert listed(watching, camera)["silent"]
    clock.advance(600, watching)
    assert kinds(watching, wanted) == ["silent"]
    beat(watching, camera, camera_key)
    assert kinds(watching, wanted) == ["silent", "heard"]
    heard, _ = alerts(watching, gallery=wanted)
    assert heard["detail"].endswith("is heard again, after 16 minutes of silence")
    assert not listed(watching, camera)["silent"]
    # They reach webhooks and the stream of events as other alerts do.
    eventually(lambda: len(receiver.received) == 2)
    messages = [json.loads(got.body) for got in receiver.received]
    assert {message["type"] for message in messages} == {"watch.silent", "watch.heard"}
    before = {"Last-Event-ID": str(silent["number"] - 1)}
    with watching.http.stream("GET", "/v1/alerts/events", headers=before) as stream:
        events = (line for line in stream.iter_lines() if line.startswith("event: "))
        assert [next(events), next(events)] == ["event: silent", "event: heard"]
    # Another silence is another alert.
    clock.advance(330, watching)
    eventually(lambda: kinds(watching, wanted) == ["silent", "heard", "silent"])


def test_the_alert_goes_to_the_armed_lists_that_watch_the_camera_and_that_its_key_may_see(
    watching, clock, camera, wanted, drawn_crops
):
    lists = {
        name: arm_new(watching, f"{name}-{uuid4().hex[:8]}", drawn_crops[:2], cameras=cameras)
        for name, cameras in {"own": camera, "other": camera, "elsewhere": "yard"}.items()
    }
    watching.http.delete(f"/v1/galleries/{wanted}/watch")
    made = watching.http.post("/v1/keys", data={"scopes": "sight", "gallery": lists["own"]})
    beat(watching, camera, bearer(made.json()["key"]))
    clock.advance(330, watching)
    eventually(lambda: kinds(watching, lists["own"]) == ["silent"])
    _, for_all = watching.make_key("sight")
    beat(watching, camera, for_all)
    clock.advance(330, watching)
    eventually(lambda: kinds(watching, lists["other"]) == ["silent"])
    assert kinds(watching, lists["own"]) == ["silent", "silent"]
    assert kinds(watching, lists["elsewhere"]) == kinds(watching, wanted) == []


def test_a_camera_without_heartbeats_is_never_silent(
    watching, clock, camera, wanted, camera_key, images
):
    assert sight(watching, camera, camera_key, images[20]).status_code == 202
    eventually(lambda: listed(watching, camera))
    clock.advance(660, watching)
    assert kinds(watching, wanted) == []
    assert (listed(watching, camera)["silent"], listed(watching, camera)["heartbeat"]) == (
        False,
        None,
    )


def test_a_sighting_counts_as_heard_and_ends_a_silence(
    watching, clock, camera, wanted, camera_key, images
):
    beat(watching, camera, camera_key)
    heard_at = listed(watching, camera)["last_heard_at"]
    clock.advance(240, watching)
    assert sight(watching, camera, camera_key, images[20]).status_code == 202
    eventually(lambda: listed(watching, camera)["last_heard_at"] > heard_at)
    clock.advance(240, watching)
    assert kinds(watching, wanted) == []
    clock.advance(90, watching)
    eventually(lambda: kinds(watching, wanted) == ["silent"])
    assert sight(watching, camera, camera_key, images[20]).status_code == 202
    eventually(lambda: kinds(watching, wanted) == ["silent", "heard"])


def test_a_heartbeat_of_another_key_keeps_no_camera_alive_and_a_revoked_key_raises_nothing(
    watching, clock, camera, wanted
):
    key_id, first = watching.make_key("sight")
    revoked_id, revoked = watching.make_key("sight")
    _, other = watching.make_key("sight")
    beat(watching, camera, first)
    beat(watching, camera, revoked)
    assert watching.http.delete(f"/v1/keys/{revoked_id}").status_code == 204
    clock.advance(200, watching)
    beat(watching, camera, other)
    clock.advance(130, watching)
    eventually(lambda: kinds(watching, wanted) == ["silent"])
    assert f"of the key {key_id} " in alerts(watching, gallery=wanted)[0]["detail"]
    clock.advance(60, watching)
    assert kinds(watching, wanted) == ["silent"]


def test_a_process_that_stood_still_gives_cameras_five_minutes(
    watching, clock, camera, wanted, camera_key
):
    beat(watching, camera, camera_key)
    clock.jump(3600)
    clock.advance(290, watching)
    assert kinds(watching, wanted) == []
    clock.advance(40, watching)
    eventually(lambda: kinds(watching, wanted) == ["silent"])


def test_cameras_leave_half_of_the_waiting_messages_to_people(
    watching, clock, camera, wanted, camera_key, people, receiver
):
    receiver.answer = lambda _: (500, {})
    webhook = create_webhook(watching.http, receiver.url, gallery=wanted)
    for number in range(251):
        people.pass_by(wanted, camera=f"door {number}")
    waiting = len(deliveries(watching, webhook, state="waiting", limit=1000))
    beat(watching, camera, camera_key)
    clock.advance(330, watching)
    eventually(lambda: kinds(watching, wanted)[-1] == "silent")
    assert len(deliveries(watching, webhook, state="waiting", limit=1000)) == waiting
    assert watching.results("/v1/webhooks")[-1]["dropped"] == 1


def test_what_a_camera_sent_and_its_heartbeat_are_listed(watching, camera, camera_key, images):
    assert listed(watching, camera) is None
    sent = sight(watching, camera, camera_key, images[0], track="17")
    assert sent.status_code == 202
    assert sight(watching, camera, camera_key, images[1], track="17").status_code == 202
    assert sight(watching, camera, camera_key, images[2], track="18").status_code == 202
    assert sight(watching, camera, camera_key, b"no picture", track="19").status_code == 422
    beat(watching, camera, camera_key, state="reconnecting", fps="0", lag="2.5")
    eventually(lambda: listed(watching, camera)["refused"])
    shown = listed(watching, camera)
    assert (shown["crops"], shown["tracks"], shown["refused"]) == (3, 2, 1)
    assert shown["last_crop_at"]
    heartbeat = shown["heartbeat"]
    assert (heartbeat["state"], heartbeat["fps"], heartbeat["lag"]) == ("reconnecting", 0, 2.5)


def test_crops_that_are_enrolled_and_watched_count_too(watching, camera, images):
    watching.create("passage", retention_days="30")
    watching.enrolled("passage", images[0], camera=camera, watch="true")
    eventually(lambda: (listed(watching, camera) or {}).get("crops") == 1)


def test_a_key_sees_its_own_cameras_and_an_administrator_those_of_its_galleries(
    watching, camera, images
):
    watching.create("left")
    keys = {}
    for name, fields in {
        "all": {"scopes": "sight"},
        "left": {"scopes": "sight", "gallery": "left"},
        "admin of left": {"scopes": "admin", "gallery": "left"},
        "query": {"scopes": "query"},
    }.items():
        made = watching.http.post("/v1/keys", data=fields).json()
        keys[name] = bearer(made["key"])
    beat(watching, camera, keys["all"])
    beat(watching, f"{camera} of left", keys["left"])

    def seen_by(key):
        own = watching.results("/v1/cameras", params={"limit": 1000}, headers=key)
        return {entry["camera"] for entry in own}

    both = {camera, f"{camera} of left"}
    assert seen_by({}) >= both
    assert seen_by(keys["all"]) == {camera}
    assert seen_by(keys["left"]) == seen_by(keys["admin of left"]) == {f"{camera} of left"}
    assert seen_by(keys["query"]) == set()


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"state": ""}, "state"),
        ({"state": "x" * 65}, "state"),
        ({"fps": "-1"}, "fps"),
        ({"lag": "nan"}, "lag"),
        ({"state": "ok\n"}, "state"),
        ({"speed": "3"}, "speed"),
    ],
)
def test_a_heartbeat_that_cannot_be_is_refused_by_its_field(watching, camera, fields, field):
    sent = {"state": "ok", **fields}
    refused = watching.http.post(f"/v1/cameras/{camera}/heartbeat", data=sent)
    assert refused_fields(refused) == {field}
    assert listed(watching, camera) is None


def test_a_camera_that_no_sighting_could_name_sends_no_heartbeat(watching):
    for name in ("a,b", " gate", "x" * 257, "gate%00"):
        path = f"/v1/cameras/{name.replace(' ', '%20')}/heartbeat"
        assert refused_fields(watching.http.post(path, data={"state": "ok"})) == {"camera"}, name


def test_cameras_are_listed_page_by_page(watching, camera, camera_key):
    names = [f"{camera} {number}" for number in range(3)]
    for name in names:
        beat(watching, name, camera_key)
    found = []
    asked = {"limit": 2}
    while "cursor" not in asked or asked["cursor"] is not None:
        page = watching.read("/v1/cameras", params=asked, headers=camera_key)
        found += [entry["camera"] for entry in page["results"]]
        asked["cursor"] = page["next_cursor"]
    assert found == names
    wrong = watching.http.get("/v1/cameras", params={"cursor": "gate"})
    assert refused_fields(wrong) == {"cursor"}


def test_the_client_sends_heartbeats_and_lists_cameras(watching, camera_key):
    key = camera_key["Authorization"].removeprefix("Bearer ")
    with Client(str(watching.http.base_url), key) as client:
        client.heartbeat("gate/north 1", state="no_frames", lag=0.5)
        (shown,) = client.cameras()
    assert (shown.camera, shown.heartbeat.state, shown.heartbeat.lag) == (
        "gate/north 1",
        "no_frames",
        0.5,
    )


def test_silent_cameras_are_counted_in_the_metrics(watching, clock, camera, camera_key):
    beat(watching, camera, camera_key)
    clock.advance(330, watching)
    eventually(lambda: listed(watching, camera)["silent"])
    beat(watching, f"{camera} 2", camera_key)
    figures = watching.http.get("/metrics").text.splitlines()
    shown = dict(line.rsplit(" ", 1) for line in figures if line.startswith("gmn_cameras{"))
    assert float(shown['gmn_cameras{state="silent"}']) >= 1
    assert float(shown['gmn_cameras{state="ok"}']) >= 1


def test_two_processes_hear_as_one_and_raise_one_alert(start, tmp_path, clock, drawn_crops, camera):
    data_dir = tmp_path / "data"
    one = start(data_dir, program=clock.program)
    wanted = arm_new(one, "wanted", drawn_crops[:2])
    other = start(data_dir, program=clock.program)
    beat(one, camera, {})
    for _ in range(2):
        clock.advance(240, one, other)
        beat(other, camera, {})
    assert kinds(one, wanted) == []
    clock.advance(330, one, other)
    eventually(lambda: kinds(one, wanted) == ["silent"])
    clock.advance(60, one, other)
    assert kinds(other, wanted) == ["silent"]
    beat(other, camera, {})
    assert kinds(one, wanted) == ["silent", "heard"]


def test_a_service_that_was_down_gives_cameras_five_minutes_from_its_start(
    start, tmp_path, clock, drawn_crops, camera
):
    data_dir = tmp_path / "data"
    before = start(data_dir, program=clock.program)
    wanted = arm_new(before, "wanted", drawn_crops[:2])
    for name in (camera, "was silent", "is back"):
        beat(before, name, {})
    clock.advance(240, before)
    for name in (camera, "is back"):
        beat(before, name, {})
    clock.advance(90, before)
    eventually(lambda: kinds(before, wanted) == ["silent"])
    assert before.stop() == 0
    clock.jump(3600)
    served = start(data_dir, program=clock.program)
    clock.advance(240, served)
    beat(served, "is back", {})
    clock.advance(50, served)
    assert kinds(served, wanted) == ["silent"]
    clock.advance(40, served)
    # The one that was silent before is not reported again.
    eventually(lambda: kinds(served, wanted) == ["silent", "silent"])
    clock.advance(30, served)
    assert [alert["camera"] for alert in alerts(served, gallery=wanted)] == [camera, "was silent"]
