"""Helpers of the tests of watch lists: an armed list, visits of its people, and a receiver."""

from __future__ import annotations

import json
import socket
import threading
import time
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from service.opening import open_folder
from service.record.values import Picture
from service.watch import sightings
from service.watch.tables.alerts import SightedPerson
from service.watch.tables.parts import WatchTables
from tests.engines import database_url

SETTINGS = {
    "budget": "3",
    "tracks_per_day": "300",
    "reason": "case 7/2026",
    "retention_days": "30",
}


@contextmanager
def short_tracks():
    """End tracks half a second after their last crop, and store them as often.

    A track ends after ten seconds otherwise, and its traffic is stored twice a minute.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sightings, "QUIET_SECONDS", 0.5)
        patch.setattr(sightings, "TRAFFIC_EVERY_SECONDS", 0.5)
        patch.setattr(sightings, "LOOK_EVERY_SECONDS", 0.2)
        yield


def settings(**more):
    ends = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    given = {**SETTINGS, "expires_at": ends, **more}
    return {name: value for name, value in given.items() if value is not None}


def arm(served, gallery, **more):
    """Arm a list as a person does: by its forecast and the token of it."""
    fields = settings(**more)
    path = f"/v1/galleries/{gallery}/watch"
    proposal = served.http.put(path, data=fields)
    assert proposal.status_code == 200, proposal.text
    armed = served.http.put(path, data={**fields, "confirm": proposal.json()["confirm"]})
    assert armed.status_code == 200, armed.text


def arm_new(served, gallery, crops, **more):
    served.fill(served.create(gallery), crops)
    arm(served, gallery, **more)
    return gallery


def read_list(served, gallery):
    return served.read(f"/v1/galleries/{gallery}/watch")


def alerts(served, **asked):
    return served.results("/v1/alerts", params=asked)


def deliveries(served, webhook, **asked):
    asked = {"webhook_id": webhook["webhook_id"], **asked}
    return served.results("/v1/webhooks/deliveries", params=asked)


class Passersby:
    """Another process that shares a service's record, and sees people of its lists."""

    def __init__(self, data_dir):
        self.record = open_folder(data_dir, database_url(data_dir))
        self.watch = WatchTables(self.record.database)

    def gallery_id(self, gallery):
        return next(
            listed.gallery_id for listed in self.record.galleries.all() if listed.name == gallery
        )

    def pass_by(
        self,
        gallery,
        slot=1,
        content=b"a picture",
        own_alert=None,
        own_score=None,
        key_id="loopback",
        score_kind="",
        **more,
    ):
        """Report a visit of the person whom a crop of the list shows, by default now.

        Args:
            content: the picture.
            key_id: the API key of the camera.
            score_kind: identifies the scores that this one is comparable with.
            own_alert: id of the alert about the same track.
            own_score: score by which that alert shows the track.
        """
        now = datetime.now(UTC)
        seen = {
            "kind": "visit",
            "camera": "gate",
            "zone": None,
            "track": "17",
            "first_seen": now,
            "last_seen": now,
            "crops": 3,
            "score": 0.5,
            "threshold": 0.3,
            "probability": 0.9,
            "needed": 0.5,
            "cohesion": None,
            "calibration_version": "a1b2c3",
            **more,
        }
        sighted = SightedPerson(
            slot=slot,
            key_id=key_id,
            score_kind=score_kind,
            captured_at=seen["last_seen"],
            picture=Picture(content, "image/png"),
            own_alert=own_alert,
            own_score=own_score,
            **seen,
        )
        return self.watch.alerts.note_visit(self.gallery_id(gallery), sighted)

    def end_time_of(self, gallery):
        """Let the time of an armed list be over."""
        gallery_id = self.gallery_id(gallery)

        def expire(transaction):
            asked = "SELECT settings FROM watches WHERE gallery_id = ?"
            fields = json.loads(transaction.value(asked, (gallery_id,)))
            fields["expires_at"] = datetime.now(UTC).isoformat()
            changed = "UPDATE watches SET settings = ? WHERE gallery_id = ?"
            transaction.change(changed, (json.dumps(fields), gallery_id))

        self.record.database.write(expire)


@contextmanager
def passersby(data_dir):
    people = Passersby(data_dir)
    with closing(people.record):
        yield people


@dataclass
class Received:
    """A request that a receiver got, when it began."""

    path: str
    headers: dict[str, str]
    body: bytes
    at: float = field(default_factory=time.monotonic)


def unused_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


class Receiver:
    """An HTTP server on this machine; `answer` decides what each request gets."""

    def __init__(self):
        self.received = []
        self.answer = lambda _: (204, {})
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                length = int(self.headers.get("Content-Length", 0))
                # Names of headers in one case, as the verifying library wants them.
                headers = {name.lower(): value for name, value in self.headers.items()}
                got = Received(self.path, headers, self.rfile.read(length))
                receiver.received.append(got)
                status, answered = receiver.answer(got)
                self.send_response(status)
                for name, value in answered.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_):
                """Write no line for a request."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/alerts"
        self._thread = threading.Thread(
            target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        )
        self._thread.start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()


@contextmanager
def receiving(served):
    """Open a receiver, and delete every webhook of a service at its end."""
    receiver = Receiver()
    yield receiver
    for webhook in served.results("/v1/webhooks"):
        served.http.delete(f"/v1/webhooks/{webhook['webhook_id']}")
    receiver.close()


def create_webhook(http, url, **fields):
    made = http.post("/v1/webhooks", data={"url": url, **fields})
    assert made.status_code == 201, made.text
    return made.json()
