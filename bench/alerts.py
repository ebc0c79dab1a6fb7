"""`gmn bench alerts`: the time from a sighting to the event and the webhook message of its alert.

Forty people are enrolled and watched. Their enrolled crops are then sent as sightings, one at a
time, to an idle service, and again while eight clients enroll.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from queue import Empty, Queue
from typing import Any

import httpx2
import numpy as np

from bench.result import BenchResult, compare, filled_service
from gmn_client import Client
from model.problems import InputProblem

PEOPLE = 40
ALERTS = 60
ENROLLING_CLIENTS = 8
PATIENCE_SECONDS = 30.0
# 95% of the alerts are to arrive within this time.
AIMS_MS = {"idle": 300.0, "busy": 3000.0}
WAYS = ("event", "webhook")
Arrivals = Queue[tuple[str, str, float]]
"""Alerts as they arrive: the way, the camera, and the time by `time.monotonic`."""


def bench_alerts(artefact: str | None) -> BenchResult:
    """Time alerts of an idle service, and of one that enrolls at the same time.

    Returns:
        The aim divided by the time until 95% of the alerts have arrived, in the worst case.

    Raises:
        InputProblem: an alert does not arrive.
    """
    artefact = artefact or "bundled"
    details: dict[str, Any] = {"artefact": artefact}
    ratios = []
    arrivals = Arrivals()
    with filled_service(artefact, PEOPLE) as (client, cast):
        _watch(client)
        client.create_gallery("busy")
        _follow_events(client.url, arrivals)
        with _receive_messages(arrivals) as address:
            client.create_webhook(address)
            crops = [crop.read() for crop in cast.gallery[:ALERTS]]
            for state, aim in AIMS_MS.items():
                clients = ENROLLING_CLIENTS if state == "busy" else 0
                with _enroll_again_and_again(client.url, crops[:clients]):
                    alerts = [
                        _time_alert(client, crop, f"{state} {number}", arrivals)
                        for number, crop in enumerate(crops)
                    ]
                for way in WAYS:
                    times = [alert[way] for alert in alerts]
                    median, late = np.quantile(times, [0.5, 0.95])
                    details[f"{state} {way}, median ms"] = round(median)
                    details[f"{state} {way}, 95% ms"] = round(late)
                    ratios.append(aim / late)
    return compare("alerts", [(min(ratios), 1.0)], 1.0, details)


def _watch(client: Client) -> None:
    settings: Any = {
        "budget": 3,
        "tracks_per_day": 1000,
        "expires_at": datetime.now(UTC) + timedelta(days=1),
        "reason": "bench",
        "retention_days": 1,
    }
    client.arm_watch(client.propose_watch(**settings).confirm, **settings)


def _time_alert(
    client: Client,
    crop: bytes,
    camera: str,
    arrivals: Arrivals,
) -> dict[str, float]:
    """Send a crop from a new camera, and return the milliseconds until both alerts arrive."""
    sent = time.monotonic()
    client.sight(crop, camera=camera)
    times: dict[str, float] = {}
    while len(times) < len(WAYS):
        try:
            way, alert_camera, moment = arrivals.get(timeout=PATIENCE_SECONDS)
        except Empty as error:
            raise InputProblem(f"no alert of camera {camera!r} arrived; see the log") from error
        # An alert of an earlier camera may be delivered again.
        if alert_camera == camera:
            times[way] = 1000.0 * (moment - sent)
    return times


def _follow_events(url: str, arrivals: Arrivals) -> None:
    connected = threading.Event()

    def follow() -> None:
        with (
            suppress(httpx2.TransportError),
            # The service is on this machine, to which no proxy leads.
            httpx2.Client(timeout=None, trust_env=False) as http,
            http.stream("GET", f"{url}/v1/alerts/events") as events,
        ):
            connected.set()
            for line in events.iter_lines():
                if line.startswith("data: "):
                    alert = json.loads(line.removeprefix("data: "))
                    arrivals.put(("event", alert["camera"], time.monotonic()))

    threading.Thread(target=follow, daemon=True).start()
    connected.wait(PATIENCE_SECONDS)


@contextmanager
def _receive_messages(arrivals: Arrivals) -> Iterator[str]:
    """Yield the address of a receiver of a webhook's messages."""

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            message = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            arrivals.put(("webhook", message["data"]["camera"], time.monotonic()))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Receiver) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@contextmanager
def _enroll_again_and_again(url: str, crops: Sequence[bytes]) -> Iterator[None]:
    """Enroll each crop again and again as a new file, by a client of its own."""
    stop = threading.Event()

    def enroll(crop: bytes) -> None:
        with Client(url, gallery="busy") as client:
            while not stop.is_set():
                # Bytes behind the end of an image do not change its pixels.
                client.enroll([crop + os.urandom(8)])

    with ThreadPoolExecutor(ENROLLING_CLIENTS) as threads:
        enrolling = [threads.submit(enroll, crop) for crop in crops]
        try:
            yield
        finally:
            stop.set()
    # Without this load the figures would be those of an idle service.
    for client in enrolling:
        client.result()
