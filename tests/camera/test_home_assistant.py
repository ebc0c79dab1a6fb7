"""What is published for Home Assistant."""

import json
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest

from gmn_camera.home_assistant import HomeAssistant, slug_of
from gmn_client.errors import ServiceUnreachable
from gmn_client.models import Alert

MOMENT = datetime(2026, 3, 1, 12, tzinfo=UTC)


def alert(kind="visit", camera="Front door", **more):
    nothing = dict.fromkeys(
        ("detail", "track", "score", "threshold", "probability", "cohesion", "calibration_version")
    )
    nothing |= dict.fromkeys(("reviewed_by", "reviewed_at", "follows", "image_url"))
    return Alert.model_validate(
        {
            **nothing,
            "alert_id": "a1",
            "number": 1,
            "kind": kind,
            "gallery": "wanted",
            "identity": "Ann",
            "camera": camera,
            "first_seen": MOMENT,
            "last_seen": MOMENT,
            "captured_at": MOMENT,
            "crops": 1,
            "state": "open",
            "created_at": MOMENT,
            "reference_url": None,
            **more,
        }
    )


class StandInBroker:
    """Remembers what was published: payloads by topic, and which are retained."""

    def __init__(self):
        self.topics = {}
        self.retained = set()

    def publish(self, topic, payload, qos, retain):
        assert qos == 1
        self.topics.setdefault(topic, []).append(payload)
        if retain:
            self.retained.add(topic)

    def last(self, topic):
        return self.topics[topic][-1]


class StandInService:
    """A service with cameras that are silent or not."""

    def __init__(self):
        self.silent = {}
        self.error = None

    def cameras(self):
        if self.error is not None:
            raise self.error
        return [
            SimpleNamespace(camera=camera, silent=silent) for camera, silent in self.silent.items()
        ]

    def alert_image(self, alert_id, *, width):
        assert width <= 256
        if self.error is not None:
            raise self.error
        return f"picture of {alert_id}".encode()


@pytest.fixture
def broker():
    return StandInBroker()


@pytest.fixture
def service():
    return StandInService()


@pytest.fixture
def home(broker, service):
    return HomeAssistant(broker, service, "homeassistant")


def config(broker, component, slug, entity):
    """Return what Home Assistant reads about an entity."""
    return json.loads(broker.last(f"homeassistant/{component}/gmn_{slug}_{entity}/config"))


DOOR = slug_of("Front door")


def test_a_camera_is_a_device_with_an_event_an_image_and_connectivity(home, broker, service):
    service.silent = {"Front door": False}
    home.publish_cameras()
    event = config(broker, "event", DOOR, "alert")
    image = config(broker, "image", DOOR, "image")
    connected = config(broker, "binary_sensor", DOOR, "connected")
    assert event["event_types"] == ["visit", "late", "silent", "heard"]
    assert image["content_type"] == "image/jpeg"
    assert connected["device_class"] == "connectivity"
    assert broker.last(connected["state_topic"]) == "ON"
    assert event["device"] == image["device"] == connected["device"]
    assert event["device"]["name"] == "Front door"
    assert {entity["availability_topic"] for entity in (event, image, connected)} == {"gmn/status"}
    assert len({entity["unique_id"] for entity in (event, image, connected)}) == 3


def test_an_alert_is_an_event_with_its_picture(home, broker):
    home.publish_alert(alert(image_url="/v1/alerts/a1/image", probability=0.9, trial=True))
    told = json.loads(broker.last(config(broker, "event", DOOR, "alert")["state_topic"]))
    assert told["event_type"] == "visit"
    assert (told["identity"], told["camera"], told["trial"]) == ("Ann", "Front door", True)
    topic = config(broker, "image", DOOR, "image")["image_topic"]
    assert broker.last(topic) == b"picture of a1"


def test_a_broker_keeps_no_picture_and_no_alert(home, broker):
    home.publish_alert(alert(image_url="/v1/alerts/a1/image"))
    kept = {topic.rpartition("/")[2] for topic in broker.retained}
    assert kept == {"config", "connected"}


def test_a_camera_that_falls_silent_is_disconnected_until_it_is_heard(home, broker):
    topic = f"gmn/{DOOR}/connected"
    home.publish_alert(alert("silent", identity=None, detail="not heard for five minutes"))
    assert broker.last(topic) == "OFF"
    assert json.loads(broker.last(f"gmn/{DOOR}/alert"))["event_type"] == "silent"
    home.publish_alert(alert("heard", identity=None))
    assert broker.last(topic) == "ON"


def test_news_about_a_list_are_events_of_all_lists(home, broker):
    home.announce()
    home.publish_alert(alert("disarmed", camera=None, identity=None, detail="it expired"))
    entity = config(broker, "event", "lists", "alert")
    assert entity["event_types"] == ["disarmed", "promise_broken"]
    assert json.loads(broker.last(entity["state_topic"]))["detail"] == "it expired"


def test_a_picture_that_cannot_be_read_does_not_hold_the_alert_back(home, broker, service):
    service.error = ServiceUnreachable("away")
    home.publish_alert(alert(image_url="/v1/alerts/a1/image"))
    assert json.loads(broker.last(f"gmn/{DOOR}/alert"))["identity"] == "Ann"


def test_after_a_new_connection_everything_is_announced_again(home, broker, service):
    service.silent = {"Front door": True}
    home.publish_cameras()
    broker.topics.clear()
    home.announce()
    assert broker.last("gmn/status") == "online"
    assert config(broker, "event", DOOR, "alert")
    assert broker.last(f"gmn/{DOOR}/connected") == "OFF"


def test_names_of_cameras_make_different_topics_without_special_letters():
    names = ["Front door", "front door", "front/door", "front+door", "#", "Türe", "Tür"]
    slugs = [slug_of(name) for name in names]
    assert len(set(slugs)) == len(names)
    assert all(slug.replace("_", "").isalnum() and slug.isascii() for slug in slugs)
