"""`gmn camera mqtt`: alerts, cameras and lists as entities of Home Assistant, by MQTT discovery."""

from __future__ import annotations

import hashlib
import json
import logging
import queue
import re
import threading
import time
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from gmn_camera.alerts import follow_alerts
from gmn_camera.broker import Broker, Inbox
from gmn_camera.service import Service
from gmn_client import Client
from gmn_client.errors import GmnError, InvalidInput, KeyRefused, RequestRefused
from gmn_client.models import Alert, Watch

log = logging.getLogger(__name__)
DEFAULT_TOPIC = "gmn"
ONLINE = "online"
OFFLINE = "offline"
ON = "ON"
OFF = "OFF"
# Home Assistant shows a sensor with this state as unknown.
UNKNOWN = "None"
CAMERA_EVENTS = ("visit", "late", "silent", "heard")
LIST_EVENTS = ("disarmed", "promise_broken")
LISTS = "lists"
CAMERAS_EVERY_SECONDS = 30.0
PICTURE_WIDTH = 256
MOST_CAMERAS = 1000
MOST_SWITCHES = 100
PAUSE_REASON = "switched in Home Assistant"


class SwitchCommand(NamedTuple):
    """A command to the switch of a watch list: `ON` resumes the list, `OFF` pauses it."""

    gallery: str
    payload: bytes


class HomeAssistant:
    """Announces each camera as a device with three entities, and publishes their states.

    Watch lists that are named have a switch each, which pauses them.

    Attributes:
        topic: prefix of all topics that this program chooses.
        status_topic: topic of the availability: the program runs and the service answers.
        own_topics: topics to subscribe to, as an earlier or another run may have published there.
    """

    def __init__(
        self,
        mqtt: Any,
        service: Client,
        discovery: str,
        topic: str = DEFAULT_TOPIC,
        switches: Sequence[str] = (),
    ) -> None:
        """Begin without known cameras.

        Args:
            mqtt: client of the broker.
            service: client with a key that has the scope `query`.
            discovery: the topic below which Home Assistant looks for entities.
            topic: the topic below which this program publishes; bridges of several services need
                different ones.
            switches: watch lists that have a switch; the key then needs the scope `admin`.
        """
        self.topic = topic
        self.status_topic = f"{topic}/status"
        self._switches = {f"{topic}/{slug_of(gallery)}/watch/set": gallery for gallery in switches}
        self.own_topics = (self.status_topic, f"{topic}/+/connected", *self._switches)
        # A topic may have letters that Home Assistant does not accept in ids.
        self._id = topic if topic == DEFAULT_TOPIC else slug_of(topic)
        self._mqtt = mqtt
        self._service = service
        self._discovery = discovery
        self._connected: dict[str, bool] = {}
        self._switched: dict[str, str] = {}
        self._listed: set[str] = set()
        self._retained: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._service_answers = False
        self._cameras_at = float("-inf")

    def announce(self) -> None:
        """Publish the availability, and announce the watch lists and all known cameras."""
        self._publish_status()
        self._announce_lists()
        for gallery in self._switches.values():
            self._announce_switch(gallery)
        for gallery, state in list(self._switched.items()):
            self._publish(self._watch_topic(gallery), state, retain=True)
        for camera, is_connected in list(self._connected.items()):
            self._announce_camera(camera)
            self._publish_connected(camera, is_connected)

    def note_message(self, topic: str, payload: bytes, *, is_retained: bool) -> None:
        """Handle a message of one of `own_topics`.

        Args:
            is_retained: whether the broker had kept the message, maybe from an earlier run.
        """
        if topic == self.status_topic:
            # Another program with the same topic publishes this at its end.
            if payload == OFFLINE.encode() and self._service_answers:
                self._publish_status()
        elif is_retained and payload == ON.encode():
            self._retained.put(topic)

    def read_command(self, topic: str, payload: bytes) -> SwitchCommand | None:
        """Return the command of a message, if it is one for a switch."""
        gallery = self._switches.get(topic)
        return None if gallery is None else SwitchCommand(gallery, payload)

    def handle(self, item: Alert | SwitchCommand) -> None:
        if isinstance(item, SwitchCommand):
            self.switch(item)
        else:
            self.publish_alert(item)

    def switch(self, command: SwitchCommand) -> None:
        """Pause or resume a watch list, and publish its state."""
        gallery, payload = command
        if payload not in (ON.encode(), OFF.encode()):
            log.warning("the switch of %s: %r is neither ON nor OFF", gallery, payload[:40])
            return
        is_paused = payload == OFF.encode()
        # Home Assistant shows what it has asked for until it is told otherwise.
        self._switched.pop(gallery, None)
        try:
            watch = self._service.pause_watch(gallery, paused=is_paused, reason=PAUSE_REASON)
        except GmnError as error:
            log.warning("the switch of %s: %s", gallery, error)
            self._publish_switches()
        else:
            self._note_switch(gallery, _state_of(watch))

    def leave(self) -> None:
        """Publish that the program ends."""
        self._service_answers = False
        self._publish_status()

    def publish_states(self) -> None:
        """Publish the states of cameras and switches, at most every 30 seconds.

        While the service does not answer, all entities are unavailable.

        Raises:
            KeyRefused: the service refuses the key.
        """
        if time.monotonic() - self._cameras_at < CAMERAS_EVERY_SECONDS:
            return
        self._cameras_at = time.monotonic()
        heard: dict[str, bool] = {}
        try:
            for camera in self._service.cameras():
                if camera.camera is not None:
                    # Cameras of two API keys may have the same name.
                    heard[camera.camera] = heard.get(camera.camera, False) or not camera.silent
        except KeyRefused:
            raise
        except GmnError as error:
            log.warning("%s", error)
            self._note_service(False)
        else:
            self._note_service(True)
            self._disconnect(self._listed - heard.keys())
            self._listed = set(heard)
            for name, is_connected in heard.items():
                self._note_camera(name, is_connected)
            self._publish_unknown()
            self._publish_switches()

    def _disconnect(self, cameras: Iterable[str]) -> None:
        """Publish that cameras are disconnected, as the service no longer lists them."""
        for camera in cameras:
            if self._connected.pop(camera, False):
                self._publish_connected(camera, False)

    def _publish_unknown(self) -> None:
        """Publish the state "unknown" of cameras that only retained messages are about."""
        known = {self._connected_topic(camera) for camera in self._connected}
        while not self._retained.empty():
            topic = self._retained.get()
            if topic not in known:
                self._publish(topic, UNKNOWN, retain=True)

    def _note_service(self, answers: bool) -> None:
        if answers is not self._service_answers:
            self._service_answers = answers
            self._publish_status()

    def _publish_status(self) -> None:
        state = ONLINE if self._service_answers else OFFLINE
        self._publish(self.status_topic, state, retain=True)

    def publish_alert(self, alert: Alert) -> None:
        """Publish an alert with its picture."""
        # Home Assistant ignores events of an unavailable entity.
        self._note_service(True)
        if alert.camera is None:
            self._publish_event(LISTS, alert)
            return
        if alert.kind in ("silent", "heard"):
            self._note_camera(alert.camera, alert.kind == "heard")
        else:
            self._note_camera(alert.camera, self._connected.get(alert.camera, True))
        slug = slug_of(alert.camera)
        if alert.image_url is not None:
            try:
                picture = self._service.alert_image(alert.alert_id, width=PICTURE_WIDTH)
            except GmnError as error:
                log.warning("the picture of alert %s: %s", alert.alert_id, error)
            else:
                # A broker would keep a retained picture of a person for ever.
                self._publish(f"{self.topic}/{slug}/image", picture)
        self._publish_event(slug, alert)

    def _note_camera(self, camera: str, is_connected: bool) -> None:
        former = self._connected.get(camera)
        if former is None:
            if len(self._connected) >= MOST_CAMERAS:
                return
            self._announce_camera(camera)
        self._connected[camera] = is_connected
        if former is not is_connected:
            self._publish_connected(camera, is_connected)

    def _publish_connected(self, camera: str, is_connected: bool) -> None:
        state = ON if is_connected else OFF
        self._publish(self._connected_topic(camera), state, retain=True)

    def _connected_topic(self, camera: str) -> str:
        return f"{self.topic}/{slug_of(camera)}/connected"

    def _publish_switches(self) -> None:
        for gallery in self._switches.values():
            try:
                state = _state_of(self._service.watch(gallery))
            except GmnError as error:
                log.warning("the switch of %s: %s", gallery, error)
                state = UNKNOWN
            self._note_switch(gallery, state)

    def _note_switch(self, gallery: str, state: str) -> None:
        if self._switched.get(gallery) != state:
            self._switched[gallery] = state
            self._publish(self._watch_topic(gallery), state, retain=True)

    def _watch_topic(self, gallery: str) -> str:
        return f"{self.topic}/{slug_of(gallery)}/watch"

    def _publish_event(self, slug: str, alert: Alert) -> None:
        told = {
            "event_type": alert.kind,
            "alert_id": alert.alert_id,
            "list": alert.gallery,
            "identity": alert.identity,
            "camera": alert.camera,
            "zone": alert.zone,
            "captured_at": None if alert.captured_at is None else alert.captured_at.isoformat(),
            "probability": alert.probability,
            "trial": alert.trial,
            "detail": alert.detail,
        }
        self._publish(f"{self.topic}/{slug}/alert", json.dumps(told))

    def _announce_camera(self, camera: str) -> None:
        slug = slug_of(camera)
        device = {"identifiers": [f"{self._id}_{slug}"], "name": camera, "manufacturer": "GMN"}
        self._announce(
            "event",
            slug,
            "alert",
            {"name": "Alert", "state_topic": f"{self.topic}/{slug}/alert", "device": device}
            | {"event_types": list(CAMERA_EVENTS)},
        )
        self._announce(
            "image",
            slug,
            "image",
            {"name": "Last alert", "image_topic": f"{self.topic}/{slug}/image", "device": device}
            | {"content_type": "image/jpeg"},
        )
        self._announce(
            "binary_sensor",
            slug,
            "connected",
            {"name": "Connected", "state_topic": self._connected_topic(camera), "device": device}
            | {"device_class": "connectivity"},
        )

    def _announce_lists(self) -> None:
        self._announce(
            "event",
            LISTS,
            "alert",
            {"name": "News", "state_topic": f"{self.topic}/{LISTS}/alert"}
            | {"event_types": list(LIST_EVENTS), "device": self._lists_device()},
        )

    def _announce_switch(self, gallery: str) -> None:
        topic = self._watch_topic(gallery)
        self._announce(
            "switch",
            slug_of(gallery),
            "watch",
            {"name": gallery, "state_topic": topic, "command_topic": f"{topic}/set"}
            | {"device": self._lists_device()},
        )

    def _lists_device(self) -> dict[str, Any]:
        return {
            "identifiers": [f"{self._id}_{LISTS}"],
            "name": "Watch lists",
            "manufacturer": "GMN",
        }

    def _announce(self, component: str, slug: str, entity: str, config: dict[str, Any]) -> None:
        name = f"{self._id}_{slug}_{entity}"
        told = {**config, "unique_id": name, "availability_topic": self.status_topic}
        topic = f"{self._discovery}/{component}/{name}/config"
        self._publish(topic, json.dumps(told), retain=True)

    def _publish(self, topic: str, payload: str | bytes, *, retain: bool = False) -> None:
        self._mqtt.publish(topic, payload, qos=1, retain=retain)


def _state_of(watch: Watch) -> str:
    if watch.state != "armed":
        return UNKNOWN
    return ON if watch.paused_at is None else OFF


def slug_of(name: str) -> str:
    """Return a text for topics and ids that stands for a camera or list; no two have the same."""
    readable = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")[:32]
    return f"{readable}_{hashlib.sha256(name.encode()).hexdigest()[:8]}".lstrip("_")


def require_lists(client: Client, switches: Sequence[str]) -> None:
    """Require that the watch lists with a switch exist, if the service answers.

    Raises:
        InvalidInput: one of them does not, or there are too many.
        KeyRefused: the service refuses the key.
    """
    if len(switches) > MOST_SWITCHES:
        raise InvalidInput(f"--switch: {MOST_SWITCHES} lists may have a switch; name fewer")
    for gallery in switches:
        try:
            client.watch(gallery)
        except KeyRefused:
            raise
        except RequestRefused as error:
            raise InvalidInput(f"--switch: {error}") from error
        except GmnError as error:
            log.warning("%s", error)
            return


def bridge_home_assistant(
    service: Service,
    client: Client,
    broker: Broker,
    discovery: str,
    topic: str = DEFAULT_TOPIC,
    switches: Sequence[str] = (),
) -> None:
    """Publish alerts and cameras until SIGTERM or SIGINT comes.

    Args:
        client: client of the service.
        discovery: the topic below which Home Assistant looks for entities.
        topic: the topic below which this program publishes.
        switches: watch lists that have a switch.

    Raises:
        InvalidInput: there is no such list.
        KeyRefused: the service refuses the key.
    """
    require_lists(client, switches)
    inbox: Inbox[Alert | SwitchCommand] = Inbox()
    stop = threading.Event()
    refused: list[KeyRefused] = []
    mqtt = broker.client("gmn-alerts")
    home = HomeAssistant(mqtt, client, discovery, topic, switches)
    # The broker publishes this if the program breaks off, and Home Assistant shows the entities as
    # unavailable.
    mqtt.will_set(home.status_topic, OFFLINE, qos=1, retain=True)

    def announce(_client: Any, _data: Any, _flags: Any, reason: Any, _more: Any) -> None:
        if reason.is_failure:
            log.warning("the broker refuses the connection: %s", reason)
            return
        log.info("the broker is connected")
        mqtt.subscribe([(topic, 1) for topic in home.own_topics])
        home.announce()

    def note(_client: Any, _data: Any, message: Any) -> None:
        command = home.read_command(message.topic, message.payload)
        if command is None:
            home.note_message(message.topic, message.payload, is_retained=message.retain)
        # A command that the broker keeps is of an earlier time.
        elif not message.retain:
            inbox.put(command)

    def follow() -> None:
        try:
            follow_alerts(service, client, inbox.put, stop)
        except KeyRefused as error:
            refused.append(error)

    def check() -> None:
        if refused:
            raise refused[0]
        home.publish_states()

    mqtt.on_connect = announce
    mqtt.on_message = note
    broker.start(mqtt)
    threading.Thread(target=follow, daemon=True).start()
    try:
        inbox.handle_until_stopped(home.handle, check)
    finally:
        stop.set()
        home.leave()
        mqtt.disconnect()
        mqtt.loop_stop()
