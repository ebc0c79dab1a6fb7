"""Following the alerts of a service, by a stand-in of its event stream."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest

from gmn_camera import alerts
from gmn_camera.alerts import follow_alerts
from gmn_camera.service import Service
from tests.camera.drawn_alerts import alert


def event(number, **more):
    """Return an alert as the service sends it."""
    told = alert(number=number, **more)
    return f"id: {number}\nevent: visit\ndata: {told.model_dump_json()}\n\n".encode()


class StandInService:
    """A service whose event stream sends given bytes, one content for each connection.

    Attributes:
        streams: what is still to be sent.
        after: the numbers after which alerts were asked for.
    """

    def __init__(self, *streams):
        self.streams = list(streams)
        self.after = []
        stand_in = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                stand_in.after.append(self.headers["Last-Event-ID"])
                self.send_response(200)
                self.send_header("Content-Type", "text/event-stream")
                self.end_headers()
                if stand_in.streams:
                    self.wfile.write(stand_in.streams.pop(0))

            def log_message(self, *arguments):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.service = Service(f"http://127.0.0.1:{self.server.server_port}", None)

    def close(self):
        self.server.shutdown()
        self.server.server_close()


class Taken(list):
    """Collects alerts, and stops after the one with a given number."""

    def __init__(self, last):
        super().__init__()
        self.stop = threading.Event()
        self._last = last

    def take(self, found):
        self.append(found.number)
        if found.number == self._last:
            self.stop.set()


@pytest.fixture
def stand_in(monkeypatch):
    """Return a function that makes a service with these streams."""
    monkeypatch.setattr(alerts, "LONGEST_WAIT", 0.05)
    opened = []

    def open_one(*streams):
        opened.append(StandInService(*streams))
        return opened[-1]

    yield open_one
    for service in opened:
        service.close()


NOTHING_YET = SimpleNamespace(alerts=lambda: iter(()))


@pytest.mark.parametrize(
    "odd",
    [
        b"data: no JSON\n\n",
        b"event: visit\ndata: {}\n\n",
        b"\xff\xfe\x00\n\n",
        b"data\n: comment\n::\n\n",
        b'event: visit\ndata: {"number": NaN}\n\n',
        b"data: " + b"[" * 100_000 + b"\n\n",
        event(2, kind="visit").replace(b'"kind":"visit"', b'"kind":"of a newer service"'),
    ],
)
def test_an_odd_event_does_not_end_the_next_ones(stand_in, odd):
    served = stand_in(event(1) + odd + event(3))
    taken = Taken(last=3)
    follow_alerts(served.service, NOTHING_YET, taken.take, taken.stop)
    assert taken == [1, 3]


def test_a_change_of_an_alert_is_no_new_alert(stand_in):
    changed = event(1, probability=0.99).replace(b"id: 1\nevent: visit", b"event: updated")
    served = stand_in(event(1) + event(2) + changed, event(3))
    taken = Taken(last=3)
    follow_alerts(served.service, NOTHING_YET, taken.take, taken.stop)
    assert taken == [1, 2, 3]
    assert served.after == ["0", "2"]


def test_after_a_line_without_an_end_the_next_alerts_are_asked_for(stand_in, monkeypatch, caplog):
    monkeypatch.setattr(alerts, "MOST_LINE_BYTES", 10_000)
    served = stand_in(event(1) + b"x" * 100_000, event(2))
    taken = Taken(last=2)
    follow_alerts(served.service, NOTHING_YET, taken.take, taken.stop)
    assert taken == [1, 2]
    assert served.after == ["0", "1"]
    assert "a line has more than" in caplog.text


def test_a_line_may_contain_other_ends_of_lines_than_those_of_events(stand_in):
    served = stand_in(event(1, detail="one\u2028line\x85"))
    taken = Taken(last=1)
    follow_alerts(served.service, NOTHING_YET, taken.take, taken.stop)
    assert taken == [1]


def test_whatever_fails_the_alerts_are_asked_for_again(stand_in, caplog):
    served = stand_in(event(1))
    answers = iter([ValueError("odd"), OverflowError("odder")])

    def list_alerts():
        error = next(answers, None)
        if error is not None:
            raise error
        return iter(())

    taken = Taken(last=1)
    follow_alerts(served.service, SimpleNamespace(alerts=list_alerts), taken.take, taken.stop)
    assert taken == [1]
    assert "odder" in caplog.text
