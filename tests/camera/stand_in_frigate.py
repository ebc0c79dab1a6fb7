"""A stand-in of Frigate's HTTP API, with the answers that its versions 0.14 to 0.18 give.

`python -m tests.camera.stand_in_frigate PORT` serves 200 events of drawn people.
"""

import contextlib
import dataclasses
import functools
import json
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

from PIL import Image

from demo.drawn_videos import BACKGROUND
from tests.drawn_photos import drawn_people
from tests.outside import encoded

FRAME = (320, 240)
PERSON = (60, 150)
COOKIE = "frigate_token=drawn"
DAY = 86_400.0


@dataclasses.dataclass
class StandInEvent:
    """An event of Frigate.

    Attributes:
        number: decides its id and its picture.
        seconds: time of its beginning, since 1970.
        has_clean: whether Frigate keeps the frame without drawings on it.
        fields: fields of its answer that are otherwise than usual.
    """

    number: int
    seconds: float
    has_clean: bool = True
    fields: dict = dataclasses.field(default_factory=dict)

    @property
    def id(self):
        return f"{self.seconds:.6f}-{self.number:06d}"

    @property
    def listed(self):
        left, top = 20 + self.number % 200, 40
        return {
            "id": self.id,
            "camera": ("gate", "yard")[self.number % 2],
            "label": "person",
            "sub_label": None,
            "zones": [],
            "false_positive": None,
            "start_time": self.seconds,
            "end_time": self.seconds + 10,
            "has_clip": True,
            "has_snapshot": True,
            "top_score": None,
            "data": {
                "type": "object",
                "score": 0.8,
                "box": [
                    left / FRAME[0],
                    top / FRAME[1],
                    PERSON[0] / FRAME[0],
                    PERSON[1] / FRAME[1],
                ],
            },
            **self.fields,
        }

    @property
    def frame(self):
        """Return the frame with the drawn person, which differs from that of any other event."""
        frame = Image.new("RGB", FRAME, BACKGROUND)
        people = drawn_people()
        person = people[self.number % len(people)].resize(PERSON)
        person.putpixel((0, 0), (self.number % 256, self.number // 256, 0))
        frame.paste(person, (20 + self.number % 200, 40))
        return frame


def events_of_a_week(count=200, now=None):
    """Return events of the last six days, some at one time, and some without a usable picture."""
    begin = (time.time() if now is None else now) - 6 * DAY
    events = []
    for number in range(count):
        # Five people enter in one frame, on both sides of the end of a page.
        step = 97 if 97 <= number <= 101 else number
        event = StandInEvent(number, round(begin + step * 5 * DAY / count, 6))
        if number % 40 == 7:
            event.fields = {"has_snapshot": False}
        elif number % 100 == 31:
            event.has_clean = False
        elif number % 100 == 55:
            event.fields = {"data": {"box": [0.1, 0.1, 0.1, 0.2]}}
        events.append(event)
    return events


@dataclasses.dataclass
class StandInFrigate:
    """Frigate, over HTTP on this machine.

    Attributes:
        events: all its events.
        version: its version.
        user, password, role: of its only user; without a user it asks for none.
        cameras: settings by camera.
        mqtt: settings of MQTT.
        login_status: the answer to a wrong password.
        away: number of requests that it answers as its web server does during a restart.
        pause: seconds that a picture takes.
        asked: methods and paths of the requests.
        pictures: number of pictures that it has sent.
        labels: bodies of sub labels, by event.
    """

    events: list = dataclasses.field(default_factory=list)
    version: str = "0.16.4-2c5a5d5"
    user: str | None = None
    password: str = "drawn people"
    role: str = "admin"
    cameras: dict = dataclasses.field(
        default_factory=lambda: {name: camera_settings() for name in ("gate", "yard")}
    )
    mqtt: dict = dataclasses.field(
        default_factory=lambda: {"enabled": True, "host": "127.0.0.1", "port": 1883}
    )
    login_status: int = 401
    away: int = 0
    pause: float = 0.0
    asked: list = dataclasses.field(default_factory=list)
    pictures: int = 0
    labels: dict = dataclasses.field(default_factory=dict)

    def answer(self, method, target, headers, body):
        """Return status, headers and content of the answer to a request."""
        url = urlsplit(target)
        asked = {name: values[-1] for name, values in parse_qs(url.query).items()}
        self.asked.append(f"{method} {url.path}")
        if self.away:
            self.away -= 1
            return 502, {}, b"<h1>Bad Gateway</h1>"
        if url.path == "/api/login":
            return self._log_in(json.loads(body))
        if self.user is not None and COOKIE not in headers.get("Cookie", ""):
            return 401, {"Location": "/login"}, b""
        if url.path.startswith("/api/events/"):
            return self._answer_about(method, url.path.split("/")[3:], body)
        contents = {
            "/api/version": lambda: self.version,
            "/api/profile": lambda: {"username": self.user or "anonymous", "role": self.role},
            "/api/config": lambda: {"mqtt": self.mqtt, "cameras": self.cameras, "detectors": {}},
            "/api/events": lambda: self.listed(asked),
        }
        if url.path not in contents:
            return 404, {}, b'{"detail": "Not Found"}'
        return _as_json(contents[url.path]())

    def _answer_about(self, method, path, body):
        event_id, name = path
        if method == "GET":
            return self._send_picture(event_id, name)
        if self.role != "admin":
            return 403, {}, b'{"detail": "Role viewer not authorized. Required: admin"}'
        self.labels.setdefault(event_id, []).append(json.loads(body))
        return _as_json({"success": True})

    def _log_in(self, given):
        if given != {"user": self.user, "password": self.password}:
            return self.login_status, {}, b'{"message": "Login failed"}'
        return 200, {"Set-Cookie": f"{COOKIE}; HttpOnly; Path=/"}, b""

    def listed(self, asked):
        after = float(asked.get("after", 0))
        before = float(asked.get("before", "inf"))
        chosen = [event for event in self.events if after < event.seconds < before]
        is_rising = asked.get("sort") == "date_asc"
        chosen.sort(key=lambda event: event.seconds, reverse=not is_rising)
        listed = [event.listed for event in chosen]
        labels = asked.get("labels", "all")
        listed = [event for event in listed if labels == "all" or event["label"] in labels]
        return listed[: int(asked.get("limit", 100))]

    def _send_picture(self, event_id, name):
        clean = "snapshot-clean.webp" if self.version >= "0.17" else "snapshot-clean.png"
        kept = {event.id: event for event in self.events if event.has_clean}
        if name != clean or event_id not in kept:
            return 404, {}, b'{"success": false, "message": "Clean snapshot not available"}'
        time.sleep(self.pause)
        self.pictures += 1
        return 200, {"Cache-Control": "private, max-age=31536000"}, picture_of(kept[event_id], name)


@functools.cache
def _drawn(number, name):
    event = StandInEvent(number, 0.0)
    if name.endswith("webp"):
        return encoded(event.frame, "WEBP", quality=60)
    return encoded(event.frame)


def picture_of(event, name="snapshot-clean.png"):
    return _drawn(event.number, name)


def camera_settings(**snapshots):
    return {
        "enabled": True,
        "objects": {"track": ["person", "car"]},
        "snapshots": {"enabled": True, "clean_copy": True, "bounding_box": True, **snapshots},
    }


def _as_json(content):
    """Return an answer in JSON; a text, such as the version, stands as it is."""
    text = content if isinstance(content, str) else json.dumps(content)
    return 200, {}, text.encode()


@contextlib.contextmanager
def serving_frigate(frigate, port=0, tls=None):
    """Yield the address of a stand-in.

    Args:
        tls: context of the server's end of encrypted connections.
    """

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self):
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            status, headers, content = frigate.answer(self.command, self.path, self.headers, body)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            # A program that was killed reads no answer.
            with contextlib.suppress(ConnectionError):
                self.wfile.write(content)

        do_GET = do_POST = handle_any  # noqa: N815

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http{'' if tls is None else 's'}://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def main():
    with serving_frigate(StandInFrigate(events_of_a_week()), int(sys.argv[1])) as address:
        sys.stderr.write(f"{address}\n")
        threading.Event().wait()


if __name__ == "__main__":
    main()
