"""Events of Frigate, by a stand-in of its documented messages and calls."""

import itertools
import json
from datetime import UTC, datetime
from types import SimpleNamespace

import httpx2
import pytest

from gmn_camera import frigate, frigate_api
from gmn_camera.frigate import FrigateBridge
from gmn_camera.frigate_api import FrigateApi
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
    """Frigate's calls about an event.

    Attributes:
        frame_time: of the snapshot that it has; None leaves the header out.
        cache: the header Cache-Control, by which a stored snapshot differs from one of an event
            that goes on; None leaves it out.
        clean: content of clean pictures by their names.
        parts: the content of a snapshot as it arrives.
        label_status: status of the answer to a sub label.
        labels: bodies of the sub labels by event.
        asked: paths that were asked for.
    """

    def __init__(self):
        self.frame_time = FRAME_TIME
        self.cache = None
        self.clean = {"snapshot-clean.webp": b"a clean frame"}
        self.parts = [b"a ", b"frame"]
        self.status = 200
        self.label_status = 200
        self.labels = {}
        self.asked = []

    def __call__(self, request):
        self.asked.append(request.url.path)
        *_, event_id, name = request.url.path.split("/")
        if request.method == "POST":
            self.labels.setdefault(event_id, []).append(json.loads(request.read()))
            return httpx2.Response(self.label_status, json={"success": True})
        if name.startswith("snapshot-clean"):
            status = 200 if name in self.clean else 404
            return httpx2.Response(status, content=self.clean.get(name, b"{}"))
        headers = {"X-Frame-Time": self.frame_time, "Cache-Control": self.cache}
        headers = {name: str(value) for name, value in headers.items() if value is not None}
        return httpx2.Response(self.status, content=iter(self.parts), headers=headers)


class StandInService:
    """Remembers what is sent, and answers with matches.

    Attributes:
        matches: pairs of identity and probability.
        error: raised instead of an answer.
        problem: why the box cannot be used; None if it can.
        has_results: whether the answer has the result of the box.
    """

    def __init__(self):
        self.sent = []
        self.matches = [("Ann", 0.9)]
        self.error = None
        self.problem = None
        self.has_results = True

    def sight_frame(self, frame, boxes, **options):
        self.sent.append((frame, boxes, options))
        if self.error is not None:
            raise self.error
        matches = [
            SimpleNamespace(identity=identity, probability=probability)
            for identity, probability in self.matches
        ]
        result = SimpleNamespace(problem=self.problem, matches=matches)
        return SimpleNamespace(results=[result] if self.has_results else [])


@pytest.fixture
def stand_in():
    return StandInFrigate()


@pytest.fixture
def service():
    return StandInService()


@pytest.fixture
def bridge(stand_in, service, monkeypatch):
    monkeypatch.setattr(frigate, "ASK_EVERY_SECONDS", -1.0)
    return FrigateBridge(service, connect(stand_in), 96)


def connect(stand_in, address="http://frigate"):
    transport = httpx2.MockTransport(stand_in)
    return FrigateApi(httpx2.Client(base_url=address, transport=transport))


def test_a_person_is_sent_as_the_box_of_a_frame_and_named(bridge, service, stand_in):
    bridge.handle(event())
    ((frame, boxes, options),) = service.sent
    assert frame == b"a frame"
    assert boxes == [{"x": 10, "y": 20, "width": 100, "height": 200, "track": EVENT, "zone": None}]
    assert options == {
        "camera": "front_door",
        "captured_at": datetime.fromtimestamp(FRAME_TIME, UTC),
        "wait": True,
    }
    assert stand_in.labels == {EVENT: [{"subLabel": "Ann", "subLabelScore": 0.9}]}


@pytest.mark.parametrize(
    ("zones", "sent"), [(["step", "yard"], "step"), ([], None), ([65 * "a"], 64 * "a")]
)
def test_a_person_is_sent_with_the_first_zone_of_the_event(zones, sent, bridge, service):
    bridge.handle(event(current_zones=zones))
    ((_, (box,), _),) = service.sent
    assert box["zone"] == sent


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


@pytest.mark.parametrize(
    "message",
    [
        event(box=(float("nan"), 20, 110, 220)),
        event(box=(10, 20, 110, 222)).replace(b"222", b"1e400"),
        event(box=(10, 20, 110, 1e300)),
        event(box=(-float("inf"), 20, 110, 220)),
        event(frame_time=float("inf")),
        event(frame_time=float("nan")),
        event(frame_time=1e18),
        event(frame_time=-1),
        event(id="x/../../restart?a="),
        event(id=".."),
        event(id="a%2f..%2frestart"),
        event(id="x\r\nHost: elsewhere"),
        event(id=f"{EVENT}\n"),
        event(id=""),
        event(id="a" * 65),
        event(camera=""),
        event(camera="c" * 1000),
        event(snapshot={"frame_time": FRAME_TIME, "box": [1, 2, 3]}),
        event(snapshot={"frame_time": FRAME_TIME, "box": "1234"}),
        event(kind="begin"),
        b"[" * 100_000,
        b"\xff\xfe\x00",
        b'{"type": "new", "after": null}',
    ],
)
def test_an_odd_message_is_logged_and_asks_for_nothing(bridge, service, stand_in, message, caplog):
    bridge.handle(message)
    assert "no event of Frigate" in caplog.text
    assert service.sent == []
    assert stand_in.asked == []
    bridge.handle(event())
    assert len(service.sent) == 1


def test_a_time_of_the_frame_that_is_no_number_is_that_of_another_one(bridge, service, stand_in):
    for odd in ("soon", "nan", "None", "inf", ""):
        stand_in.frame_time = odd
        bridge.handle(event())
    assert service.sent == []


def test_an_answer_of_the_service_without_results_is_logged(bridge, service, stand_in, caplog):
    service.has_results = False
    bridge.handle(event())
    assert "without a result" in caplog.text
    assert stand_in.labels == {}


def test_a_box_that_the_service_refuses_is_logged(bridge, service, stand_in, caplog):
    service.problem = Problem(status=422, detail="the box is outside of the image")
    bridge.handle(event())
    assert "the box is outside of the image" in caplog.text
    assert stand_in.labels == {}


@pytest.mark.parametrize("error", [IndexError("no such result"), OverflowError(), ValueError("?")])
def test_whatever_fails_the_next_messages_are_handled(bridge, service, stand_in, error, caplog):
    service.error = error
    bridge.handle(event())
    assert type(error).__name__ in caplog.text
    service.error = None
    bridge.handle(event("update", FRAME_TIME + 0.001))
    assert EVENT in stand_in.labels


def test_an_error_of_frigate_is_logged_without_the_password_of_its_address(
    service, stand_in, caplog
):
    stand_in.status = 500
    FrigateBridge(service, connect(stand_in, "http://me:secret@frigate"), 96).handle(event())
    assert "snapshot.jpg: HTTP 500" in caplog.text
    assert "secret" not in caplog.text


def test_of_an_answer_that_is_too_large_the_rest_is_not_read(
    bridge, service, stand_in, monkeypatch, caplog
):
    monkeypatch.setattr(frigate_api, "MOST_ANSWER_BYTES", 1000)
    stand_in.parts = itertools.repeat(b"x" * 100)
    bridge.handle(event())
    assert "more than 1,000 bytes" in caplog.text
    assert service.sent == []


def test_of_an_answer_that_drips_the_rest_is_not_read(
    bridge, service, stand_in, monkeypatch, caplog
):
    monkeypatch.setattr(frigate_api, "ANSWER_SECONDS", 0.0)
    stand_in.parts = itertools.repeat(b"x")
    bridge.handle(event())
    assert "takes longer than" in caplog.text
    assert service.sent == []


def test_of_an_event_that_ended_the_clean_picture_is_sent(bridge, service, stand_in):
    bridge.handle(event("end"))
    ((frame, *_),) = service.sent
    assert frame == b"a clean frame"
    assert not any("snapshot.jpg" in path for path in stand_in.asked)


def test_a_clean_picture_has_another_name_in_former_versions(bridge, service, stand_in):
    stand_in.clean = {"snapshot-clean.png": b"a clean PNG"}
    bridge.handle(event("end"))
    ((frame, *_),) = service.sent
    assert frame == b"a clean PNG"


def test_without_a_clean_picture_an_ended_event_is_left_out_and_this_is_said_once(
    bridge, service, stand_in, caplog
):
    stand_in.clean = {}
    for number in range(3):
        bridge.handle(event("end", id=f"{EVENT}{number}"))
    assert service.sent == []
    assert caplog.text.count("clean_copy: true") == 1


def test_a_stored_snapshot_of_an_event_that_ended_meanwhile_is_left_out(bridge, service, stand_in):
    stand_in.frame_time = None
    stand_in.cache = "private, max-age=31536000"
    bridge.handle(event("update"))
    assert service.sent == []
    stand_in.cache = "no-store"
    bridge.handle(event("update"))
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


def test_a_viewer_gets_a_warning_in_place_of_names(bridge, service, stand_in, caplog):
    stand_in.label_status = 403
    bridge.handle(event())
    assert len(service.sent) == 1
    assert "give it the role admin" in caplog.text


def test_events_that_never_end_do_not_fill_the_memory(bridge, monkeypatch):
    monkeypatch.setattr(frigate, "MOST_EVENTS", 10)
    for number in range(50):
        bridge.handle(event(id=f"event-{number}"))
    assert len(bridge._events) == 10
