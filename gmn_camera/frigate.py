"""`gmn camera frigate`: sends people whom Frigate finds to the service, and names them there."""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, ValidationError

from gmn_camera.broker import Broker, Inbox
from gmn_camera.frigate_api import (
    PERSON,
    CameraName,
    EventId,
    FrigateApi,
    FrigateFailed,
    FrigateRefused,
    FrigateTime,
    describe_fault,
)
from gmn_client import Client
from gmn_client.errors import GmnError, KeyRefused
from gmn_client.uploads import PlacedBox
from gmn_client.zones import MAX_ZONE_NAME

log = logging.getLogger(__name__)
# Frigate may announce a better snapshot of a person many times a second.
ASK_EVERY_SECONDS = 2.0
# Frigate says in this header which frame a snapshot is.
FRAME_TIME = "X-Frame-Time"
SAME_FRAME_SECONDS = 0.01
# Limit of the events in memory: some never end, as after a restart of Frigate.
MOST_EVENTS = 1000
MOST_MESSAGE_BYTES = 1024 * 1024
LONGEST_LABEL = 100

Edge = Annotated[float, Field(ge=-100_000, le=100_000, allow_inf_nan=False)]


class FrigateSnapshot(BaseModel):
    """The best picture of an event so far.

    Attributes:
        frame_time: time of capture in seconds since 1970.
        box: left, top, right and bottom of the person in pixels.
    """

    frame_time: FrigateTime
    box: tuple[Edge, Edge, Edge, Edge]


class FrigateObject(BaseModel):
    """The object of an event, as Frigate describes it.

    Attributes:
        current_zones: names of the zones in which it is.
    """

    id: EventId
    camera: CameraName
    label: str
    false_positive: bool | None = False
    current_zones: list[str] = []
    snapshot: FrigateSnapshot | None = None

    @property
    def zone(self) -> str | None:
        return self.current_zones[0][:MAX_ZONE_NAME] if self.current_zones else None


class FrigateEvent(BaseModel):
    """A message of the topic `frigate/events`."""

    type: Literal["new", "update", "end"]
    after: FrigateObject


@dataclass
class KnownEvent:
    """An event of Frigate that has not ended.

    Attributes:
        frame_time: time of capture of the newest snapshot that was sent, in seconds since 1970.
        asked_at: time of its request by `time.monotonic`.
        probability: probability of the match whose name Frigate shows; 0 without a name.
    """

    frame_time: float = 0.0
    asked_at: float = float("-inf")
    probability: float = 0.0


class FrigateBridge:
    """Sends the people of Frigate's events to the service, and names them in Frigate."""

    def __init__(self, service: Client, frigate: FrigateApi, min_height: int) -> None:
        """Create a bridge without known events.

        Args:
            service: client with a key that has the scopes `sight` and `query`.
            frigate: Frigate's HTTP API.
            min_height: pixels; lower people are not sent.
        """
        self._service = service
        self._frigate = frigate
        self._min_height = min_height
        self._events: OrderedDict[str, KnownEvent] = OrderedDict()
        self._has_told_of_clean_pictures = False

    def handle(self, payload: bytes) -> None:
        """Handle a message of the topic `frigate/events`, and log its errors.

        Raises:
            KeyRefused: the service refuses the key.
        """
        if len(payload) > MOST_MESSAGE_BYTES:
            log.warning("a message of more than %d bytes is left out", MOST_MESSAGE_BYTES)
            return
        try:
            event = FrigateEvent.model_validate_json(payload)
        except ValidationError as error:
            log.warning("a message is no event of Frigate: %s", describe_fault(error))
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
        except FrigateFailed as error:
            log.warning("%s of %s: Frigate fails (%s)", found.id, found.camera, error)
        except GmnError as error:
            log.warning("%s of %s: %s", found.id, found.camera, error)
        except Exception:
            # The broker may keep this message, and would send it again after each start.
            log.exception("%s of %s cannot be handled", found.id, found.camera)
        if event.type == "end":
            self._events.pop(found.id, None)

    def _look(self, event: FrigateEvent, snapshot: FrigateSnapshot, known: KnownEvent) -> None:
        is_due = time.monotonic() - known.asked_at > ASK_EVERY_SECONDS or event.type == "end"
        left, top, right, bottom = (max(0, int(edge)) for edge in snapshot.box)
        is_tall = bottom - top >= self._min_height
        if snapshot.frame_time <= known.frame_time or not is_due or not is_tall:
            return
        if event.type == "end":
            picture = self._read_clean_picture(event.after.id)
        else:
            picture = self._read_picture(event.after.id, snapshot.frame_time)
        if picture is None:
            return
        known.frame_time = snapshot.frame_time
        known.asked_at = time.monotonic()
        box = PlacedBox(
            x=left,
            y=top,
            width=right - left,
            height=bottom - top,
            track=event.after.id,
            zone=event.after.zone,
        )
        sighted = self._service.sight_frame(
            picture,
            [box],
            camera=event.after.camera,
            captured_at=datetime.fromtimestamp(snapshot.frame_time, UTC),
            wait=True,
        )
        if not sighted.results:
            log.warning("%s: the service answers without a result", event.after.id)
            return
        result = sighted.results[0]
        if result.problem is not None:
            reason = result.problem.detail or result.problem.title
            log.warning("%s of %s: %s", event.after.id, event.after.camera, reason)
            return
        best = max(result.matches or (), key=lambda match: match.probability, default=None)
        if best is not None and best.probability > known.probability:
            self._name(event.after.id, best.identity, best.probability)
            known.probability = best.probability

    def _read_picture(self, event_id: str, frame_time: float) -> bytes | None:
        """Return the whole frame of a running event; None if Frigate has another picture."""
        shown = {"bbox": 0, "crop": 0, "timestamp": 0, "quality": 95}
        answer = self._frigate.ask("GET", f"/api/events/{event_id}/snapshot.jpg", params=shown)
        if answer is None:
            return None
        # Frigate sends this header once the event has ended. Its stored picture may be cut despite
        # the parameters, and the message about the end follows.
        if "max-age" in answer.headers.get("Cache-Control", ""):
            return None
        of_frame = answer.headers.get(FRAME_TIME)
        if of_frame is not None and not _is_same_frame(of_frame, frame_time):
            return None
        return answer.content

    def _read_clean_picture(self, event_id: str) -> bytes | None:
        picture = self._frigate.read_clean_picture(event_id)
        if picture is None and not self._has_told_of_clean_pictures:
            self._has_told_of_clean_pictures = True
            log.warning(
                "Frigate keeps no clean picture of %s; the last pictures of such events are left "
                "out, set clean_copy: true below snapshots in Frigate's configuration",
                event_id,
            )
        return picture

    def _name(self, event_id: str, identity: str, probability: float) -> None:
        label = {"subLabel": identity[:LONGEST_LABEL], "subLabelScore": round(probability, 3)}
        if self._frigate.ask("POST", f"/api/events/{event_id}/sub_label", json=label) is None:
            log.warning("Frigate does not know the event %s, so it gets no name", event_id)


def _is_same_frame(of_frame: str, frame_time: float) -> bool:
    try:
        return abs(float(of_frame) - frame_time) <= SAME_FRAME_SECONDS
    except ValueError:
        return False


def bridge_frigate(
    service: Client, frigate: FrigateApi, broker: Broker, prefix: str, min_height: int
) -> None:
    """Follow Frigate's events until SIGTERM or SIGINT comes.

    Args:
        service: client with a key that has the scopes `sight` and `query`.
        frigate: Frigate's HTTP API.
        broker: broker to which Frigate publishes.
        prefix: `topic_prefix` in Frigate's configuration.
        min_height: pixels; lower people are not sent.

    Raises:
        FrigateRefused: Frigate wants another user.
        KeyRefused: the service refuses the key.
    """
    try:
        frigate.version()
    except FrigateRefused:
        raise
    except FrigateFailed as error:
        # Frigate may start later.
        log.warning("Frigate fails: %s", error)
    inbox: Inbox[bytes] = Inbox()
    client = broker.client("gmn-frigate")

    def subscribe(_client: Any, _data: Any, _flags: Any, reason: Any, _more: Any) -> None:
        if reason.is_failure:
            log.warning("the broker refuses the connection: %s", reason)
            return
        log.info("the broker is connected")
        client.subscribe(f"{prefix}/events", qos=1)

    client.on_connect = subscribe
    # One byte above the limit is enough to see that a message is too long.
    client.on_message = lambda _client, _data, message: inbox.put(
        message.payload[: MOST_MESSAGE_BYTES + 1]
    )
    bridge = FrigateBridge(service, frigate, min_height)
    broker.start(client)
    try:
        inbox.handle_until_stopped(bridge.handle)
    finally:
        client.disconnect()
        client.loop_stop()
