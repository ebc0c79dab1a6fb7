"""Alerts from outside: from a sighting to the event of its alert, and to its webhook's message."""

from __future__ import annotations

import contextlib
import io
import json
import statistics
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import numpy as np
from PIL import Image

from bench.result import BenchResult, compare
from demo.service import own_service
from demo.story import draw_cast, enroll_all
from gmn_client import Client
from model.problems import InputProblem

SEED = 31
PEOPLE = 40
CAMERAS = 4
ALERTS = 60
ENROLLING = 8
PATIENCE_SECONDS = 30.0
AIMS_MS = {"idle": 300.0, "busy": 3000.0}
Arrived = dict[str, dict[str, float]]
"""When each alert arrived, by `time.monotonic`: by way, then by the camera of its sighting."""


def bench_alerts(artefact: str | None = None) -> BenchResult:
    """Time alerts of an idle service, and beside eight clients that enroll.

    Returns:
        The aim over the time that 95% of the alerts took, where that is least; the details have
        the times in milliseconds.

    Raises:
        InputProblem: an alert does not come.
    """
    cast = draw_cast(SEED, PEOPLE, 0, CAMERAS)
    arrived: Arrived = {"event": {}, "webhook": {}}
    details: dict[str, Any] = {"artefact": artefact or "bundled"}
    shares = []
    with own_service(details["artefact"]) as url, Client(url) as client:
        enroll_all(client, cast.gallery)
        settings: Any = {
            "budget": 3,
            "tracks_per_day": 1000,
            "expires_at": datetime.now(UTC) + timedelta(days=1),
            "reason": "bench",
            "retention_days": 1,
        }
        client.arm_watch(client.propose_watch(**settings).confirm, **settings)
        client.create_gallery("busy")
        with _receiving(url, arrived) as address:
            client.create_webhook(address)
            for state, aim in AIMS_MS.items():
                crops = [crop.read() for crop in cast.gallery[:ALERTS]]
                with _enrolling(url, ENROLLING if state == "busy" else 0, crops):
                    times = _time_alerts(client, crops, state, arrived)
                for way, milliseconds in times.items():
                    late = float(np.quantile(milliseconds, 0.95))
                    details[f"{state} {way}, median ms"] = round(statistics.median(milliseconds))
                    details[f"{state} {way}, 95% ms"] = round(late)
                    shares.append(aim / late)
    return compare("alerts", [min(shares)], [1.0], 1.0, details)


def _time_alerts(
    client: Client, crops: list[bytes], state: str, arrived: Arrived
) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {way: [] for way in arrived}
    for number, crop in enumerate(crops):
        camera = f"{state} {number}"
        sent = time.monotonic()
        client.sight(crop, camera=camera)
        while not all(camera in cameras for cameras in arrived.values()):
            if time.monotonic() - sent > PATIENCE_SECONDS:
                raise InputProblem(f"the alert of camera {camera} did not arrive; see the log")
            time.sleep(0.002)
        for way, cameras in arrived.items():
            times[way].append(1000.0 * (cameras[camera] - sent))
    return times


@contextlib.contextmanager
def _receiving(url: str, arrived: Arrived) -> Iterator[str]:
    """Note the arrival of events and messages; yield the address for messages."""

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            message = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            arrived["webhook"].setdefault(message["data"]["camera"], time.monotonic())
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Write no line for a message."""

    def follow() -> None:
        with (
            contextlib.suppress(httpx.TransportError),
            httpx.stream("GET", f"{url}/v1/alerts/events", timeout=None) as events,
        ):
            following.set()
            for line in events.iter_lines():
                if line.startswith("data: "):
                    camera = json.loads(line.removeprefix("data: "))["camera"]
                    arrived["event"].setdefault(camera, time.monotonic())

    following = threading.Event()
    threading.Thread(target=follow, daemon=True).start()
    following.wait(PATIENCE_SECONDS)
    with ThreadingHTTPServer(("127.0.0.1", 0), Receiver) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@contextlib.contextmanager
def _enrolling(url: str, clients: int, crops: list[bytes]) -> Iterator[None]:
    """Keep clients enrolling pictures that are all different."""
    stop = threading.Event()

    def enroll(number: int) -> None:
        random = np.random.default_rng(number)
        with Client(url, gallery="busy") as client:
            while not stop.is_set():
                pixels = np.array(Image.open(io.BytesIO(crops[number])).convert("RGB"))
                pixels[0] = random.integers(0, 256, pixels[0].shape)
                file = io.BytesIO()
                Image.fromarray(pixels).save(file, "PNG")
                client.enroll([file.getvalue()])

    threads = [threading.Thread(target=enroll, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()
