"""`gmn camera frigate`: Frigate's people become sightings, and get names in Frigate."""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import httpx2
from pydantic import BaseModel, ValidationError

from gmn_camera.broker import Broker, Inbox
from gmn_client import Client
from gmn_client.errors import GmnError, KeyRefused

log = logging.getLogger(__name__)
PERSON = "person"
# Frigate finds a better snapshot of a person many times a second.
ASK_EVERY_SECONDS = 2.0
# Frigate says in this header which frame a snapshot is.
FRAME_TIME = "X-Frame-Time"
SAME_FRAME_SECONDS = 0.01
# Events that never ended, as after a restart of Frigate.
MOST_EVENTS = 1000
MOST_MESSAGE_BYTES = 1024 * 1024
LONGEST_LABEL = 100
LONGEST_TRACK = 64
TIMEOUT_SECONDS = 10.0


class FrigateSnapshot(BaseModel):
    """The best picture of an event so far.

    Attributes:
        frame_time: time of capture in seconds since 1970.
        box: left, top, right and bottom of the person in pixels.
    """

    frame_time: float
    box: tuple[float, float, float, float]


class FrigateObject(BaseModel):
    """The object of an event, as Frigate describes it."""

    id: str
    camera: str
    label: str
    false_positive: bool | None = False
    snapshot: FrigateSnapshot | None = None


class FrigateEvent(BaseModel):
    """A message of the topic `frigate/events`."""

    type: Literal["new", "update", "end"]
    after: FrigateObject


@dataclass
class KnownEvent:
    """An event that goes on.

    Attributes:
        frame_time: of the newest snapshot that was sent.
        asked_at: when, by `time.monotonic`.
        probability: of the name that Frigate shows; 0 for none.
    """

    frame_time: float = 0.0
    asked_at: float = float("-inf")
    probability: float = 0.0


class FrigateBridge:
    """Sends the people of Frigate's events to the service, and names them in Frigate."""

    def __init__(self, service: Client, frigate: httpx2.Client, min_height: int) -> None:
        """Remember both sides.

        Args:
            service: with a key that has the scopes `sight` and `query`.
            frigate: with the address of Frigate.
            min_height: pixels; lower people are not sent.
        """
        self._service = service
        self._frigate = frigate
        self._min_height = min_height
        self._events: OrderedDict[str, KnownEvent] = OrderedDict()

    def handle(self, payload: bytes) -> None:
        """Handle a message; one that fails is logged, and the next ones go on.

        Raises:
            KeyRefused: the service refuses the key.
        """
        if len(payload) > MOST_MESSAGE_BYTES:
            log.warning("a message of %d bytes is left out", len(payload))
            return
        try:
            event = FrigateEvent.model_validate_json(payload)
        except ValidationError as error:
            log.warning("a message is no event of Frigate: %s", error.errors()[0]["msg"])
            return
        found = event.after
        if found.label != PERSON or found.false_positive or found.snapshot is None:
            return
        known = self._events.setdefault(found.id, KnownEvent())
        if len(self._events) > MOST_EVENTS:
            self._events.popitem(last=False)
        try:
            self._look(event, found.snapshot, known)
        except KeyRefused:
            raise
        except (httpx2.HTTPError, GmnError) as error:
            log.warning("%s of %s: %s", found.id, found.camera, error)
        if event.type == "end":
            self._events.pop(found.id, None)

    def _look(self, event: FrigateEvent, snapshot: FrigateSnapshot, known: KnownEvent) -> None:
        is_due = time.monotonic() - known.asked_at > ASK_EVERY_SECONDS or event.type == "end"
        left, top, right, bottom = (max(0, int(edge)) for edge in snapshot.box)
        is_tall = bottom - top >= self._min_height
        if snapshot.frame_time <= known.frame_time or not is_due or not is_tall:
            return
        picture = self._read_picture(event.after.id, snapshot.frame_time)
        if picture is None:
            return
        known.frame_time = snapshot.frame_time
        known.asked_at = time.monotonic()
        sighted = self._service.sight_frame(
            picture,
            [
                {
                    "x": left,
                    "y": top,
                    "width": right - left,
                    "height": bottom - top,
                    "track": event.after.id[:LONGEST_TRACK],
                }
            ],
            camera=event.after.camera,
            captured_at=datetime.fromtimestamp(snapshot.frame_time, UTC),
            wait=True,
        )
        matches = sighted.results[0].matches if sighted.results[0].problem is None else None
        best = max(matches or (), key=lambda match: match.probability, default=None)
        if best is not None and best.probability > known.probability:
            self._name(event.after.id, best.identity, best.probability)
            known.probability = best.probability

    def _read_picture(self, event_id: str, frame_time: float) -> bytes | None:
        """Return the whole frame of a snapshot; None if Frigate has another one by now."""
        shown = {"bbox": 0, "crop": 0, "timestamp": 0, "quality": 95}
        answer = self._frigate.get(f"/api/events/{event_id}/snapshot.jpg", params=shown)
        if answer.status_code == httpx2.codes.NOT_FOUND:
            return None
        answer.raise_for_status()
        of_frame = answer.headers.get(FRAME_TIME)
        if of_frame is not None and abs(float(of_frame) - frame_time) > SAME_FRAME_SECONDS:
            return None
        return bytes(answer.content)

    def _name(self, event_id: str, identity: str, probability: float) -> None:
        label = {"subLabel": identity[:LONGEST_LABEL], "subLabelScore": round(probability, 3)}
        answer = self._frigate.post(f"/api/events/{event_id}/sub_label", json=label)
        answer.raise_for_status()


def bridge_frigate(
    service: Client, frigate_url: str, broker: Broker, prefix: str, min_height: int
) -> None:
    """Follow Frigate's events until SIGTERM or SIGINT comes.

    Args:
        service: with a key that has the scopes `sight` and `query`.
        frigate_url: address of Frigate's HTTP API.
        broker: gets Frigate's messages.
        prefix: `topic_prefix` in Frigate's configuration.
        min_height: pixels; lower people are not sent.

    Raises:
        KeyRefused: the service refuses the key.
    """
    inbox: Inbox[bytes] = Inbox()
    client = broker.client("gmn-frigate")

    def subscribe(_client: Any, _data: Any, _flags: Any, reason: Any, _more: Any) -> None:
        if reason.is_failure:
            log.warning("the broker refuses the connection: %s", reason)
            return
        log.info("the broker is connected")
        client.subscribe(f"{prefix}/events", qos=1)

    client.on_connect = subscribe
    client.on_message = lambda _client, _data, message: inbox.put(message.payload)
    with httpx2.Client(base_url=frigate_url, timeout=TIMEOUT_SECONDS) as frigate:
        bridge = FrigateBridge(service, frigate, min_height)
        broker.start(client)
        try:
            inbox.handle_until_stopped(bridge.handle)
        finally:
            client.disconnect()
            client.loop_stop()
