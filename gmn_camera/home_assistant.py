"""`gmn camera mqtt`: alerts and cameras as entities of Home Assistant, by MQTT discovery."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import threading
import time
from typing import Any

from gmn_camera.alerts import follow_alerts
from gmn_camera.broker import Broker, Inbox
from gmn_camera.service import Service
from gmn_client import Client
from gmn_client.errors import GmnError, KeyRefused
from gmn_client.models import Alert

log = logging.getLogger(__name__)
BASE = "gmn"
STATUS_TOPIC = f"{BASE}/status"
ONLINE = "online"
OFFLINE = "offline"
CAMERA_EVENTS = ("visit", "late", "silent", "heard")
LIST_EVENTS = ("disarmed", "promise_broken")
LISTS = "lists"
CAMERAS_EVERY_SECONDS = 30.0
PICTURE_WIDTH = 256
MOST_CAMERAS = 1000


class HomeAssistant:
    """Announces cameras as devices with three entities, and publishes what happens there."""

    def __init__(self, mqtt: Any, service: Client, discovery: str) -> None:
        """Remember both sides.

        Args:
            mqtt: client of the broker.
            service: with a key that has the scope `query`.
            discovery: the topic below which Home Assistant looks for entities.
        """
        self._mqtt = mqtt
        self._service = service
        self._discovery = discovery
        self._connected: dict[str, bool] = {}
        self._cameras_at = float("-inf")

    def announce(self) -> None:
        """Publish that the program runs, and every entity so far."""
        self._publish(STATUS_TOPIC, ONLINE, retain=True)
        self._announce_lists()
        for camera, is_connected in list(self._connected.items()):
            self._announce_camera(camera)
            self._publish_connected(camera, is_connected)

    def publish_cameras(self) -> None:
        """Publish which cameras the service hears, every 30 seconds.

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
                    # Two keys may use one name.
                    heard[camera.camera] = heard.get(camera.camera, False) or not camera.silent
        except KeyRefused:
            raise
        except GmnError as error:
            log.warning("%s", error)
            return
        for name, is_connected in heard.items():
            self._note_camera(name, is_connected)

    def publish_alert(self, alert: Alert) -> None:
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
                self._publish(f"{BASE}/{slug}/image", picture)
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
        state = "ON" if is_connected else "OFF"
        self._publish(f"{BASE}/{slug_of(camera)}/connected", state, retain=True)

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
        self._publish(f"{BASE}/{slug}/alert", json.dumps(told))

    def _announce_camera(self, camera: str) -> None:
        slug = slug_of(camera)
        device = {"identifiers": [f"{BASE}_{slug}"], "name": camera, "manufacturer": "GMN"}
        self._announce(
            "event",
            slug,
            "alert",
            {"name": "Alert", "state_topic": f"{BASE}/{slug}/alert", "device": device}
            | {"event_types": list(CAMERA_EVENTS)},
        )
        self._announce(
            "image",
            slug,
            "image",
            {"name": "Last alert", "image_topic": f"{BASE}/{slug}/image", "device": device}
            | {"content_type": "image/jpeg"},
        )
        self._announce(
            "binary_sensor",
            slug,
            "connected",
            {"name": "Connected", "state_topic": f"{BASE}/{slug}/connected", "device": device}
            | {"device_class": "connectivity"},
        )

    def _announce_lists(self) -> None:
        device = {"identifiers": [f"{BASE}_{LISTS}"], "name": "Watch lists", "manufacturer": "GMN"}
        self._announce(
            "event",
            LISTS,
            "alert",
            {"name": "News", "state_topic": f"{BASE}/{LISTS}/alert", "device": device}
            | {"event_types": list(LIST_EVENTS)},
        )

    def _announce(self, component: str, slug: str, entity: str, config: dict[str, Any]) -> None:
        name = f"{BASE}_{slug}_{entity}"
        told = {**config, "unique_id": name, "availability_topic": STATUS_TOPIC}
        topic = f"{self._discovery}/{component}/{name}/config"
        self._publish(topic, json.dumps(told), retain=True)

    def _publish(self, topic: str, payload: str | bytes, *, retain: bool = False) -> None:
        self._mqtt.publish(topic, payload, qos=1, retain=retain)


def slug_of(camera: str) -> str:
    """Return a name for topics and ids; different cameras have different ones."""
    readable = re.sub(r"[^a-z0-9]+", "_", camera.lower()).strip("_")[:32]
    return f"{readable}_{hashlib.sha256(camera.encode()).hexdigest()[:8]}".lstrip("_")


def bridge_home_assistant(service: Service, client: Client, broker: Broker, discovery: str) -> None:
    """Publish alerts and cameras until SIGTERM or SIGINT comes.

    Args:
        client: of the service.
        discovery: the topic below which Home Assistant looks for entities.

    Raises:
        KeyRefused: the service refuses the key.
    """
    inbox: Inbox[Alert] = Inbox()
    stop = threading.Event()
    refused: list[KeyRefused] = []
    mqtt = broker.client("gmn-alerts")
    # Home Assistant then shows the entities as unavailable.
    mqtt.will_set(STATUS_TOPIC, OFFLINE, qos=1, retain=True)
    home = HomeAssistant(mqtt, client, discovery)

    def announce(_client: Any, _data: Any, _flags: Any, reason: Any, _more: Any) -> None:
        if reason.is_failure:
            log.warning("the broker refuses the connection: %s", reason)
            return
        log.info("the broker is connected")
        home.announce()

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
    broker.start(mqtt)
    threading.Thread(target=follow, daemon=True).start()
    try:
        inbox.handle_until_stopped(home.publish_alert, check)
    finally:
        stop.set()
        mqtt.publish(STATUS_TOPIC, OFFLINE, qos=1, retain=True)
        mqtt.disconnect()
        mqtt.loop_stop()
