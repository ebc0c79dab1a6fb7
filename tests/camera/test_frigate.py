"""Events of Frigate, by a stand-in of its documented messages and calls."""

import json
from datetime import UTC, datetime
from types import SimpleNamespace

import httpx2
import pytest

from gmn_camera import frigate
from gmn_camera.frigate import FrigateBridge
from gmn_client.errors import KeyRefused, ServiceUnreachable
from gmn_client.models import Problem

EVENT = "1772366400.123456-abc123"
FRAME_TIME = 1772366400.5


def event(kind="new", frame_time=FRAME_TIME, box=(10, 20, 110, 220), **more):
    """Return a message of `frigate/events`, with fields that the bridge does not need."""
    after = {
        "id": EVENT,
        "camera": "front_door",
        "label": "person",
        "false_positive": False,
        "top_score": 0.9,
        "sub_label": None,
        "snapshot": {"frame_time": frame_time, "box": list(box), "score": 0.9, "area": 1000},
        **more,
    }
    return json.dumps({"type": kind, "before": {}, "after": after}).encode()


class StandInFrigate:
    """Frigate's two calls.

    Attributes:
        frame_time: of the snapshot that it has; None leaves the header out.
        labels: bodies of the sub labels by event.
    """

    def __init__(self):
        self.frame_time = FRAME_TIME
        self.status = 200
        self.labels = {}

    def __call__(self, request):
        event_id = request.url.path.split("/")[3]
        if request.method == "POST":
            self.labels.setdefault(event_id, []).append(json.loads(request.read()))
            return httpx2.Response(200, json={"success": True})
        headers = {} if self.frame_time is None else {"X-Frame-Time": str(self.frame_time)}
        return httpx2.Response(self.status, content=b"a frame", headers=headers)


class StandInService:
    """Remembers what is sent, and answers with matches.

    Attributes:
        matches: pairs of identity and probability.
        error: raised instead of an answer.
    """

    def __init__(self):
        self.sent = []
        self.matches = [("Ann", 0.9)]
        self.error = None

    def sight_frame(self, frame, boxes, **options):
        self.sent.append((frame, boxes, options))
        if self.error is not None:
            raise self.error
        matches = [
            SimpleNamespace(identity=identity, probability=probability)
            for identity, probability in self.matches
        ]
        return SimpleNamespace(results=[SimpleNamespace(problem=None, matches=matches)])


@pytest.fixture
def stand_in():
    return StandInFrigate()


@pytest.fixture
def service():
    return StandInService()


@pytest.fixture
def bridge(stand_in, service, monkeypatch):
    monkeypatch.setattr(frigate, "ASK_EVERY_SECONDS", -1.0)
    transport = httpx2.MockTransport(stand_in)
    return FrigateBridge(service, httpx2.Client(base_url="http://frigate", transport=transport), 96)


def test_a_person_is_sent_as_the_box_of_a_frame_and_named(bridge, service, stand_in):
    bridge.handle(event())
    ((frame, boxes, options),) = service.sent
    assert frame == b"a frame"
    assert boxes == [{"x": 10, "y": 20, "width": 100, "height": 200, "track": EVENT}]
    assert options == {
        "camera": "front_door",
        "captured_at": datetime.fromtimestamp(FRAME_TIME, UTC),
        "wait": True,
    }
    assert stand_in.labels == {EVENT: [{"subLabel": "Ann", "subLabelScore": 0.9}]}


@pytest.mark.parametrize(
    "message",
    [
        event(label="car"),
        event(false_positive=True),
        event(snapshot=None),
        event(box=(10, 20, 60, 100)),
        b"no JSON",
        b"{}",
        b" " * 2_000_000,
    ],
    ids=["a car", "a false positive", "no snapshot", "too low", "no JSON", "no event", "too long"],
)
def test_what_is_no_person_of_a_frame_is_left_out(bridge, service, message):
    bridge.handle(message)
    assert service.sent == []
    bridge.handle(event())
    assert len(service.sent) == 1


def test_a_snapshot_of_another_frame_than_the_box_is_left_out(bridge, service, stand_in):
    stand_in.frame_time = FRAME_TIME + 1
    bridge.handle(event())
    assert service.sent == []
    bridge.handle(event("update", FRAME_TIME + 1))
    assert len(service.sent) == 1


def test_a_snapshot_without_a_time_is_taken_for_that_of_the_box(bridge, service, stand_in):
    stand_in.frame_time = None
    bridge.handle(event())
    assert len(service.sent) == 1


def test_the_same_snapshot_is_sent_once(bridge, service):
    for kind in ("new", "update", "end"):
        bridge.handle(event(kind))
    assert len(service.sent) == 1


def test_a_name_changes_only_for_a_more_certain_one(bridge, service, stand_in):
    for step, match in enumerate([("Ann", 0.7), ("Bob", 0.6), ("Cid", 0.8)]):
        service.matches = [match]
        stand_in.frame_time = FRAME_TIME + step
        bridge.handle(event("update", FRAME_TIME + step))
    assert [label["subLabel"] for label in stand_in.labels[EVENT]] == ["Ann", "Cid"]


def test_a_stranger_gets_no_name(bridge, service, stand_in):
    service.matches = []
    bridge.handle(event())
    assert stand_in.labels == {}


def test_an_event_that_fails_does_not_end_the_next_ones(bridge, service, stand_in, caplog):
    service.error = ServiceUnreachable("no service answers")
    bridge.handle(event())
    service.error = None
    stand_in.status = 500
    bridge.handle(event("update"))
    stand_in.status = 404
    bridge.handle(event("update"))
    stand_in.status = 200
    bridge.handle(event("end"))
    assert "no service answers" in caplog.text


def test_a_person_is_asked_about_every_two_seconds_and_at_the_end(
    bridge, service, stand_in, monkeypatch
):
    monkeypatch.setattr(frigate, "ASK_EVERY_SECONDS", 1000.0)
    for step, kind in enumerate(["new", "update", "end"]):
        stand_in.frame_time = FRAME_TIME + step
        bridge.handle(event(kind, FRAME_TIME + step))
    assert len(service.sent) == 2


def test_a_refused_key_ends_the_bridge(bridge, service):
    service.error = KeyRefused(Problem(status=403, detail="no scope"))
    with pytest.raises(KeyRefused):
        bridge.handle(event())


def test_events_that_never_end_do_not_fill_the_memory(bridge, monkeypatch):
    monkeypatch.setattr(frigate, "MOST_EVENTS", 10)
    for number in range(50):
        bridge.handle(event(id=f"event-{number}"))
    assert len(bridge._events) == 10
