"""Figures of cameras, and the metrics that show them to Prometheus."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from gmn_camera.endpoints import read_endpoint
from gmn_client.errors import InvalidInput

COUNTERS = {
    "frames": "Frames that were looked at.",
    "people": "Boxes of people on them.",
    "tracks": "Tracks of people.",
    "crops": "Crops that were chosen.",
    "sent": "Crops that the service accepted.",
    "dropped": "Crops that were given up because too many waited.",
    "refused": "Crops that the service refused.",
    "reconnects": "Times that the stream was opened again.",
}


@dataclass
class Figures:
    """Figures of a camera since its process began.

    Attributes:
        frames, people, tracks, crops, sent, dropped, refused, reconnects: as in `COUNTERS`.
        waiting: crops that wait for the service.
        frame_at: time of the newest frame by `time.monotonic`, which all processes of a machine
            share; None before the first.
        lag: seconds from the capture of the newest answered crop to its answer; None before the
            first answer.
    """

    frames: int = 0
    people: int = 0
    tracks: int = 0
    crops: int = 0
    sent: int = 0
    dropped: int = 0
    refused: int = 0
    reconnects: int = 0
    waiting: int = 0
    frame_at: float | None = None
    lag: float | None = None


class FiguresCollector:
    """Shows the figures of all cameras when Prometheus asks for them."""

    def __init__(self, read: Callable[[], Mapping[str, Figures]]) -> None:
        """Create a collector.

        Args:
            read: returns the newest figures by camera.
        """
        self._read = read

    def collect(self) -> Iterator[Any]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        cameras = self._read()
        for name, text in COUNTERS.items():
            counter = CounterMetricFamily(f"gmn_camera_{name}", text, labels=["camera"])
            for camera, figures in cameras.items():
                counter.add_metric([camera], getattr(figures, name))
            yield counter
        now = time.monotonic()
        gauges: dict[str, tuple[str, dict[str, float | None]]] = {
            "waiting": (
                "Crops that wait for the service.",
                {camera: figures.waiting for camera, figures in cameras.items()},
            ),
            "frame_age_seconds": (
                "Seconds since the newest frame.",
                {
                    camera: None if figures.frame_at is None else now - figures.frame_at
                    for camera, figures in cameras.items()
                },
            ),
            "lag_seconds": (
                "Seconds from the capture of the newest answered crop to its answer.",
                {camera: figures.lag for camera, figures in cameras.items()},
            ),
        }
        for name, (text, values) in gauges.items():
            gauge = GaugeMetricFamily(f"gmn_camera_{name}", text, labels=["camera"])
            for camera, value in values.items():
                if value is not None:
                    gauge.add_metric([camera], value)
            yield gauge


def serve_metrics(address: str, read: Callable[[], Mapping[str, Figures]]) -> Callable[[], None]:
    """Serve the metrics over HTTP from a thread, and return a function that ends it.

    Args:
        address: a port of this machine, or HOST:PORT, with brackets around an IPv6 address.
        read: returns the newest figures by camera.

    Raises:
        InvalidInput: the address cannot be used.
    """
    from prometheus_client import CollectorRegistry, start_http_server

    is_port = address.isdecimal()
    try:
        host, port = read_endpoint(f":{address}" if is_port else address)
        if port is None:
            raise ValueError("the port is missing")
    except ValueError as error:
        raise InvalidInput(
            f"--metrics: {address!r} is no port ({error}); give one like 9100, or HOST:PORT, or "
            "[::1]:9100"
        ) from error
    registry = CollectorRegistry()
    registry.register(FiguresCollector(read))
    try:
        server, thread = start_http_server(port, host or "127.0.0.1", registry)
    except OSError as error:
        raise InvalidInput(
            f"--metrics: {address} cannot be listened on ({error.strerror}); give another one"
        ) from error

    def end() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    return end
