"""Follows new alerts by the service's server-sent events."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator

import httpx2
from pydantic import ValidationError

from gmn_camera.service import Service
from gmn_client import Client
from gmn_client.errors import GmnError, KeyRefused, checked, unreachable
from gmn_client.models import Alert

log = logging.getLogger(__name__)
LONGEST_WAIT = 10.0
# The service sends a comment at shorter intervals.
SILENT_SECONDS = 60.0
CONNECT_SECONDS = 10.0
# News that is no new alert: the key was revoked, or an alert has changed.
NO_ALERTS = ("gone", "updated")
MOST_LINE_BYTES = 1024 * 1024


def follow_alerts(
    service: Service, client: Client, take: Callable[[Alert], None], stop: threading.Event
) -> None:
    """Call `take` with each new alert, in order and without a gap, until `stop` is set.

    Args:
        client: client of the service.
        take: called with each alert that is raised from now on.

    Raises:
        KeyRefused: the service refuses the key.
    """
    last: int | None = None
    wait = 1.0
    while not stop.is_set():
        try:
            if last is None:
                newest = next(iter(client.alerts()), None)
                last = newest.number if newest is not None else 0
            for alert in _read_events(service, last):
                take(alert)
                last = alert.number
                wait = 1.0
                if stop.is_set():
                    return
        except KeyRefused:
            raise
        except httpx2.ReadTimeout:
            reason = f"{service.url}: the stream of alerts is silent for {SILENT_SECONDS:g} s"
            log.warning("%s; the alerts are asked for again", reason)
        except httpx2.TransportError as error:
            log.warning("%s; the alerts are asked for again", unreachable(service.url, error))
        except GmnError as error:
            log.warning("%s; the alerts are asked for again", error)
        except Exception:
            # Another program may answer at this address until the service is back.
            log.exception("the alerts cannot be followed; they are asked for again")
        stop.wait(wait)
        wait = min(2 * wait, LONGEST_WAIT)


def _read_events(service: Service, after: int) -> Iterator[Alert]:
    """Yield the alerts after a number, until the connection ends."""
    headers = {"Last-Event-ID": str(after)}
    if service.api_key is not None:
        headers["Authorization"] = f"Bearer {service.api_key}"
    timeout = httpx2.Timeout(CONNECT_SECONDS, read=SILENT_SECONDS)
    url = f"{service.url.rstrip('/')}/v1/alerts/events"
    with httpx2.stream("GET", url, headers=headers, timeout=timeout) as response:
        if not response.is_success:
            response.read()
            checked(response)
        event = ""
        for line in _read_lines(response):
            name, _, value = line.partition(": ")
            if name == "event":
                event = value
            elif name == "data" and event not in NO_ALERTS:
                try:
                    yield Alert.model_validate_json(value)
                except ValidationError as error:
                    # A newer service may have alerts of kinds that this program does not know.
                    log.warning("an alert cannot be read: %s", error.errors()[0]["msg"])


def _read_lines(response: httpx2.Response) -> Iterator[str]:
    """Yield the lines of a stream.

    Raises:
        httpx2.ReadError: a line is longer than a megabyte.
    """
    rest = b""
    for part in response.iter_bytes():
        *lines, rest = (rest + part).split(b"\n")
        for line in lines:
            yield line.decode(errors="replace").removesuffix("\r")
        if len(rest) > MOST_LINE_BYTES:
            raise httpx2.ReadError(f"a line has more than {MOST_LINE_BYTES:,} bytes")
