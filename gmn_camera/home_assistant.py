"""`gmn camera mqtt`: alerts and cameras as entities of Home Assistant, by MQTT discovery."""

from __future__ import annotations

import hashlib
import json
import logging
import queue
import re
import threading
import time
from collections.abc import Iterable
from typing import Any

from gmn_camera.alerts import follow_alerts
from gmn_camera.broker import Broker, Inbox
from gmn_camera.service import Service
from gmn_client import Client
from gmn_client.errors import GmnError, KeyRefused
from gmn_client.models import Alert

log = logging.getLogger(__name__)
DEFAULT_TOPIC = "gmn"
ONLINE = "online"
OFFLINE = "offline"
CONNECTED = "ON"
DISCONNECTED = "OFF"
# Home Assistant shows a sensor with this state as unknown.
UNKNOWN = "None"
CAMERA_EVENTS = ("visit", "late", "silent", "heard")
LIST_EVENTS = ("disarmed", "promise_broken")
LISTS = "lists"
CAMERAS_EVERY_SECONDS = 30.0
PICTURE_WIDTH = 256
MOST_CAMERAS = 1000


class HomeAssistant:
    """Announces each camera as a device with three entities, and publishes their states.

    Attributes:
        topic: prefix of all topics that this program chooses.
        status_topic: topic of the availability: the program runs and the service answers.
        own_topics: topics to subscribe to, as an earlier or another run may have published there.
    """

    def __init__(
        self, mqtt: Any, service: Client, discovery: str, topic: str = DEFAULT_TOPIC
    ) -> None:
        """Begin without known cameras.

        Args:
            mqtt: client of the broker.
            service: client with a key that has the scope `query`.
            discovery: the topic below which Home Assistant looks for entities.
            topic: the topic below which this program publishes; bridges of several services need
                different ones.
        """
        self.topic = topic
        self.status_topic = f"{topic}/status"
        self.own_topics = (self.status_topic, f"{topic}/+/connected")
        # A topic may have letters that Home Assistant does not accept in ids.
        self._id = topic if topic == DEFAULT_TOPIC else slug_of(topic)
        self._mqtt = mqtt
        self._service = service
        self._discovery = discovery
        self._connected: dict[str, bool] = {}
        self._listed: set[str] = set()
        self._retained: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._service_answers = False
        self._cameras_at = float("-inf")

    def announce(self) -> None:
        """Publish the availability, and announce the watch lists and all known cameras."""
        self._publish_status()
        self._announce_lists()
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
        elif is_retained and payload == CONNECTED.encode():
            self._retained.put(topic)

    def leave(self) -> None:
        """Publish that the program ends."""
        self._service_answers = False
        self._publish_status()

    def publish_cameras(self) -> None:
        """Publish which cameras are connected to the service, at most every 30 seconds.

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
        state = CONNECTED if is_connected else DISCONNECTED
        self._publish(self._connected_topic(camera), state, retain=True)

    def _connected_topic(self, camera: str) -> str:
        return f"{self.topic}/{slug_of(camera)}/connected"

    def _publish_event(self, slug: str, alert: Alert) -> None:
        told = {
            "event_type": alert.kind,
            "alert_id": alert.alert_id,
            "list": alert.gallery,
            "identity": alert.identity,
            "camera": alert.camera,
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
        device = {
            "identifiers": [f"{self._id}_{LISTS}"],
            "name": "Watch lists",
            "manufacturer": "GMN",
        }
        self._announce(
            "event",
            LISTS,
            "alert",
            {"name": "News", "state_topic": f"{self.topic}/{LISTS}/alert", "device": device}
            | {"event_types": list(LIST_EVENTS)},
        )

    def _announce(self, component: str, slug: str, entity: str, config: dict[str, Any]) -> None:
        name = f"{self._id}_{slug}_{entity}"
        told = {**config, "unique_id": name, "availability_topic": self.status_topic}
        topic = f"{self._discovery}/{component}/{name}/config"
        self._publish(topic, json.dumps(told), retain=True)

    def _publish(self, topic: str, payload: str | bytes, *, retain: bool = False) -> None:
        self._mqtt.publish(topic, payload, qos=1, retain=retain)


def slug_of(camera: str) -> str:
    """Return a name of a camera for topics and ids; no two cameras have the same."""
    readable = re.sub(r"[^a-z0-9]+", "_", camera.lower()).strip("_")[:32]
    return f"{readable}_{hashlib.sha256(camera.encode()).hexdigest()[:8]}".lstrip("_")


def bridge_home_assistant(
    service: Service, client: Client, broker: Broker, discovery: str, topic: str = DEFAULT_TOPIC
) -> None:
    """Publish alerts and cameras until SIGTERM or SIGINT comes.

    Args:
        client: client of the service.
        discovery: the topic below which Home Assistant looks for entities.
        topic: the topic below which this program publishes.

    Raises:
        KeyRefused: the service refuses the key.
    """
    inbox: Inbox[Alert] = Inbox()
    stop = threading.Event()
    refused: list[KeyRefused] = []
    mqtt = broker.client("gmn-alerts")
    home = HomeAssistant(mqtt, client, discovery, topic)
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
        home.note_message(message.topic, message.payload, is_retained=message.retain)

    def follow() -> None:
        try:
            follow_alerts(service, client, inbox.put, stop)
        except KeyRefused as error:
            refused.append(error)

    def check() -> None:
        if refused:
            raise refused[0]
        home.publish_cameras()

    mqtt.on_connect = announce
    mqtt.on_message = note
    broker.start(mqtt)
    threading.Thread(target=follow, daemon=True).start()
    try:
        inbox.handle_until_stopped(home.publish_alert, check)
    finally:
        stop.set()
        home.leave()
        mqtt.disconnect()
        mqtt.loop_stop()
