"""`gmn camera frigate` and `gmn camera mqtt`, with a real broker and a real service."""

import contextlib
import io
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion
from PIL import Image

from gmn_camera.home_assistant import slug_of
from tests.broker import running_broker
from tests.outside import encoded, free_port
from tests.service.watch_places import arm_new, read_list
from tests.waiting import eventually

ROOT = Path(__file__).parents[2]
PERSON = 0
BOX = (100, 50, 164, 178)


@pytest.fixture(scope="module")
def watching(start, drawn_crops):
    """Return a service with an armed list of the drawn people."""
    served = start()
    arm_new(served, "wanted", drawn_crops)
    return served


@pytest.fixture
def broker():
    """Yield the port of a broker."""
    port = free_port()
    with running_broker(port, "-p", str(port)):
        yield port


class Listener:
    """Follows every topic of a broker.

    Attributes:
        topics: payloads by topic, in their order.
    """

    def __init__(self, port):
        self.topics = {}
        self.client = Client(CallbackAPIVersion.VERSION2)
        self.client.on_message = self._note
        self.client.connect("127.0.0.1", port)
        self.client.subscribe("#", qos=1)
        self.client.loop_start()

    def _note(self, _client, _data, message):
        self.topics.setdefault(message.topic, []).append(message.payload)

    def last(self, topic):
        return self.topics[topic][-1]

    def close(self):
        self.client.disconnect()
        self.client.loop_stop()


@pytest.fixture
def listener(broker):
    opened = Listener(broker)
    yield opened
    opened.close()


class StandInFrigate:
    """Frigate's calls over HTTP: its version, a snapshot, and the sub label of an event."""

    def __init__(self, snapshot, frame_time):
        self.labels = queue.Queue()
        stand_in = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(200)
                self.send_header("X-Frame-Time", str(frame_time))
                self.end_headers()
                self.wfile.write(b"0.16.4" if self.path == "/api/version" else snapshot)

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                stand_in.labels.put((self.path, json.loads(body)))
                self.send_response(200)
                self.end_headers()
                self.wfile.write(b"{}")

            def log_message(self, *arguments):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@contextlib.contextmanager
def running(served, folder, *arguments):
    """Yield the program; it has to end well after SIGTERM, unless it was killed."""
    url = str(served.http.base_url).rstrip("/")
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "gmn", "camera", *map(str, arguments)],
            env=os.environ | {"GMN_URL": url, "PYTHONPATH": str(ROOT)},
            stderr=log,
        )
        try:
            yield process
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                assert process.wait(60) == 0
        finally:
            process.kill()
            process.wait()


def log_has(folder, text):
    return text in (folder / "log").read_text()


def test_who_is_on_a_list_is_named_in_frigate(watching, broker, listener, drawn_crops, tmp_path):
    frame = Image.new("RGB", (320, 240), (120, 125, 118))
    person = Image.open(io.BytesIO(drawn_crops[PERSON].png)).convert("RGB")
    frame.paste(person.resize((BOX[2] - BOX[0], BOX[3] - BOX[1])), BOX[:2])
    frame_time = time.time()
    stand_in = StandInFrigate(encoded(frame), frame_time)
    event = {
        "type": "new",
        "before": {},
        "after": {
            "id": "1772366400.123456-abc123",
            "camera": "front_door",
            "label": "person",
            "false_positive": False,
            "snapshot": {"frame_time": frame_time, "box": BOX},
        },
    }
    with running(
        watching, tmp_path, "frigate", "--frigate", stand_in.url, "--broker", f"127.0.0.1:{broker}"
    ):
        eventually(lambda: log_has(tmp_path, "the broker is connected"))
        # The subscription follows the connection.
        while stand_in.labels.empty():
            listener.client.publish("frigate/events", json.dumps(event), qos=1)
            time.sleep(0.5)
        path, label = stand_in.labels.get()
    stand_in.server.shutdown()
    stand_in.server.server_close()
    assert path == "/api/events/1772366400.123456-abc123/sub_label"
    assert label["subLabel"] == drawn_crops[PERSON].identity
    assert 0.5 <= label["subLabelScore"] <= 1


def test_home_assistant_hears_of_alerts_with_their_picture_and_of_the_end(
    watching, broker, listener, drawn_crops, tmp_path
):
    status = "gmn/status"
    with running(watching, tmp_path, "mqtt", "--broker", f"127.0.0.1:{broker}") as process:
        eventually(lambda: listener.last(status) == b"online")

        def event_topics():
            return [topic for topic in listener.topics if topic.endswith("/alert")]

        number = 0
        # Alerts that were raised before the program asked for them are not told.
        while not event_topics():
            number += 1
            watching.http.post(
                "/v1/sightings",
                files=[("images", ("crop", drawn_crops[PERSON].png))],
                data={"camera": f"Yard {number}", "track": "1"},
            )
            time.sleep(1)
        (topic, *_) = event_topics()
        told = json.loads(listener.last(topic))
        assert (told["event_type"], told["list"]) == ("visit", "wanted")
        assert told["identity"] == drawn_crops[PERSON].identity
        picture = listener.last(topic.replace("/alert", "/image"))
        assert Image.open(io.BytesIO(picture)).height > 0
        assert listener.last(topic.replace("/alert", "/connected")) == b"ON"
        configured = [name for name in listener.topics if name.startswith("homeassistant/event/")]
        assert any(json.loads(listener.last(name))["state_topic"] == topic for name in configured)
        process.kill()
        process.wait()
        # The broker publishes the last will.
        eventually(lambda: listener.last(status) == b"offline")


def test_after_sigterm_the_entities_are_unavailable(watching, broker, listener, tmp_path):
    with running(watching, tmp_path, "mqtt", "--broker", f"127.0.0.1:{broker}"):
        eventually(lambda: listener.last("gmn/status") == b"online")
    eventually(lambda: listener.last("gmn/status") == b"offline")


@pytest.mark.slow
def test_bridges_at_one_broker_do_not_end_each_other(watching, broker, listener, tmp_path):
    at = ("--broker", f"127.0.0.1:{broker}")
    folders = [tmp_path / name for name in ("one", "same", "other")]
    for folder in folders:
        folder.mkdir()
    with (
        running(watching, folders[0], "mqtt", *at) as one,
        running(watching, folders[1], "mqtt", *at),
        running(watching, folders[2], "mqtt", "--topic", "site/other", *at),
    ):
        for folder in folders:
            eventually(lambda folder=folder: log_has(folder, "the broker is connected"))
        for topic in ("gmn/status", "site/other/status"):
            eventually(lambda topic=topic: listener.last(topic) == b"online")
        told = listener.topics["gmn/status"]
        eventually(lambda: told.count(b"online") >= 2)
        before = len(told)
        one.send_signal(signal.SIGTERM)
        assert one.wait(60) == 0
        eventually(lambda: b"offline" in told[before:] and told[-1] == b"online")
        assert listener.last("site/other/status") == b"online"
    eventually(lambda: listener.last("gmn/status") == b"offline")
    assert not any(log_has(folder, "ended the connection") for folder in folders)


def test_a_camera_that_left_while_the_program_was_down_is_not_connected(
    watching, broker, listener, tmp_path
):
    topic = "gmn/gone_12345678/connected"
    listener.client.publish(topic, "ON", qos=1, retain=True).wait_for_publish(60)
    with running(watching, tmp_path, "mqtt", "--broker", f"127.0.0.1:{broker}"):
        eventually(lambda: listener.last(topic) == b"None")


@pytest.mark.promise("paused")
def test_home_assistant_pauses_a_list_and_what_the_broker_kept_does_not(
    watching, broker, listener, tmp_path
):
    state = f"gmn/{slug_of('wanted')}/watch"
    listener.client.publish(f"{state}/set", "OFF", qos=1, retain=True).wait_for_publish(60)
    at = ("--broker", f"127.0.0.1:{broker}", "--switch", "wanted")
    with running(watching, tmp_path, "mqtt", *at):
        eventually(lambda: listener.last(state) == b"ON")
        for asked, is_paused in ((b"OFF", True), (b"ON", False)):
            listener.client.publish(f"{state}/set", asked, qos=1)
            eventually(lambda asked=asked: listener.last(state) == asked)
            assert (read_list(watching, "wanted")["paused_at"] is not None) is is_paused
    assert listener.topics[state] == [b"ON", b"OFF", b"ON"]


def test_a_switch_for_a_list_that_does_not_exist_is_refused(watching, broker, tmp_path):
    at = ("--broker", f"127.0.0.1:{broker}", "--switch", "nosuch")
    with running(watching, tmp_path, "mqtt", *at) as process:
        assert process.wait(60) == 2
    assert log_has(tmp_path, "--switch: ")
    assert log_has(tmp_path, "nosuch")


def test_a_broker_at_an_ipv6_address_is_reached(watching, broker, listener, tmp_path):
    with running(watching, tmp_path, "mqtt", "--broker", f"[::1]:{broker}"):
        eventually(lambda: listener.last("gmn/status") == b"online")


def test_odd_messages_that_the_broker_keeps_do_not_end_the_bridge(
    watching, broker, listener, tmp_path
):
    box = [float("nan"), float("inf"), 3, 4]
    after = {"camera": "gate", "label": "person", "snapshot": {"frame_time": 1e400, "box": box}}
    event = {"type": "new", "after": after | {"id": "x/../../restart?a="}}
    kept = json.dumps(event)
    listener.client.publish("frigate/events", kept, qos=1, retain=True).wait_for_publish(60)
    options = ("--frigate", "http://127.0.0.1:9", "--broker", f"127.0.0.1:{broker}")
    for start in ("first", "second"):
        folder = tmp_path / start
        folder.mkdir()
        with running(watching, folder, "frigate", *options):
            eventually(lambda folder=folder: log_has(folder, "no event of Frigate"))
