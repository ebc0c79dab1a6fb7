"""What is published for Home Assistant."""

import itertools
import json
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest

from gmn_camera import home_assistant
from gmn_camera.home_assistant import HomeAssistant, SwitchCommand, slug_of
from gmn_client.errors import ServiceUnreachable
from tests.camera.drawn_alerts import alert


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

    def states(self, topic):
        """Return what was published on a topic, without repetitions."""
        return [state for state, _ in itertools.groupby(self.topics.get(topic, ()))]


class StandInService:
    """A service with cameras that are silent or not."""

    def __init__(self):
        self.silent = {}
        self.error = None
        self.paused = {}
        self.may_pause = True

    def watch(self, gallery):
        if self.error is not None:
            raise self.error
        if gallery not in self.paused:
            return SimpleNamespace(state="disarmed", paused_at=None)
        paused_at = datetime.now(UTC) if self.paused[gallery] else None
        return SimpleNamespace(state="armed", paused_at=paused_at)

    def pause_watch(self, gallery, *, paused, reason):
        assert reason
        if not self.may_pause:
            raise ServiceUnreachable("the key may not")
        self.paused[gallery] = paused
        return self.watch(gallery)

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
def home(broker, service, monkeypatch):
    # Every call asks the service.
    monkeypatch.setattr(home_assistant, "CAMERAS_EVERY_SECONDS", 0.0)
    return HomeAssistant(broker, service, "homeassistant")


def config(broker, component, slug, entity):
    """Return what Home Assistant reads about an entity."""
    return json.loads(broker.last(f"homeassistant/{component}/gmn_{slug}_{entity}/config"))


DOOR = slug_of("Front door")


def test_a_camera_is_a_device_with_an_event_an_image_and_connectivity(home, broker, service):
    service.silent = {"Front door": False}
    home.publish_states()
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
    seen = {"image_url": "/v1/alerts/a1/image", "probability": 0.9, "zone": "step"}
    home.publish_alert(alert(**seen, trial=True))
    told = json.loads(broker.last(config(broker, "event", DOOR, "alert")["state_topic"]))
    assert told["event_type"] == "visit"
    assert (told["identity"], told["camera"], told["zone"]) == ("Ann", "Front door", "step")
    assert told["trial"] is True
    topic = config(broker, "image", DOOR, "image")["image_topic"]
    assert broker.last(topic) == b"picture of a1"


def test_a_broker_keeps_no_picture_and_no_alert(home, broker):
    home.publish_alert(alert(image_url="/v1/alerts/a1/image"))
    kept = {topic.rpartition("/")[2] for topic in broker.retained}
    assert kept == {"config", "connected", "status"}


def test_a_camera_that_falls_silent_is_disconnected_until_it_is_heard(home, broker):
    topic = f"gmn/{DOOR}/connected"
    home.publish_alert(alert("silent", identity=None, detail="not heard for five minutes"))
    assert broker.last(topic) == "OFF"
    assert json.loads(broker.last(f"gmn/{DOOR}/alert"))["event_type"] == "silent"
    home.publish_alert(alert("heard", identity=None))
    assert broker.last(topic) == "ON"


def test_a_camera_that_the_service_no_longer_lists_is_disconnected(home, broker, service):
    topic = f"gmn/{DOOR}/connected"
    service.silent = {"Front door": False, "Yard": False}
    home.publish_states()
    service.silent = {"Yard": False}
    home.publish_states()
    assert broker.states(topic) == ["ON", "OFF"]
    assert broker.states(f"gmn/{slug_of('Yard')}/connected") == ["ON"]
    service.silent = {"Front door": False}
    home.publish_states()
    assert broker.states(topic) == ["ON", "OFF", "ON"]


def test_cameras_that_come_and_go_leave_room_for_others(home, broker, service, monkeypatch):
    monkeypatch.setattr(home_assistant, "MOST_CAMERAS", 2)
    for number in range(5):
        service.silent = {f"Camera {number}": False}
        home.publish_states()
    assert broker.states(f"gmn/{slug_of('Camera 4')}/connected") == ["ON"]


def test_a_camera_that_only_alerts_told_of_stays_connected(home, broker, service):
    home.publish_alert(alert())
    home.publish_states()
    assert broker.states(f"gmn/{DOOR}/connected") == ["ON"]


def test_what_the_broker_keeps_of_a_camera_that_is_gone_becomes_unknown(home, broker, service):
    gone = "gmn/gone_12345678/connected"
    service.error = ServiceUnreachable("away")
    for topic in (gone, f"gmn/{DOOR}/connected"):
        home.note_message(topic, b"ON", is_retained=True)
    home.note_message("gmn/new_12345678/connected", b"ON", is_retained=False)
    home.note_message("gmn/off_12345678/connected", b"OFF", is_retained=True)
    home.publish_states()
    assert gone not in broker.topics
    service.error = None
    service.silent = {"Front door": False}
    home.publish_states()
    assert [topic for topic, told in broker.topics.items() if told == ["None"]] == [gone]
    assert broker.states(f"gmn/{DOOR}/connected") == ["ON"]


def test_while_the_service_is_away_all_entities_are_unavailable(home, broker, service):
    home.announce()
    assert broker.states("gmn/status") == ["offline"]
    home.publish_states()
    service.error = ServiceUnreachable("away")
    for _ in range(3):
        home.publish_states()
    assert broker.states("gmn/status") == ["offline", "online", "offline"]
    home.announce()
    assert broker.last("gmn/status") == "offline"
    service.error = None
    home.publish_states()
    assert broker.last("gmn/status") == "online"


def test_another_program_that_ends_does_not_make_the_entities_unavailable(home, broker):
    home.note_message("gmn/status", b"offline", is_retained=True)
    assert broker.topics == {}
    home.publish_states()
    home.note_message("gmn/status", b"offline", is_retained=False)
    assert broker.topics["gmn/status"] == ["online", "online"]
    home.note_message("gmn/status", b"online", is_retained=False)
    home.leave()
    home.note_message("gmn/status", b"offline", is_retained=False)
    assert broker.topics["gmn/status"] == ["online", "online", "offline"]


def test_a_broker_that_is_away_is_not_told_the_same_again_and_again(home, broker, service):
    service.silent = {"Front door": False}
    for _ in range(50):
        home.publish_states()
    assert all(len(told) == 1 for told in broker.topics.values())


def test_an_alert_comes_after_the_entities_are_available(home, broker, service):
    home.announce()
    home.publish_alert(alert())
    assert broker.last("gmn/status") == "online"
    assert list(broker.topics).index("gmn/status") < list(broker.topics).index(f"gmn/{DOOR}/alert")


def test_bridges_with_different_topics_share_none(service, broker):
    home = HomeAssistant(broker, service, "homeassistant", "site/north")
    service.silent = {"Front door": False}
    home.announce()
    home.publish_states()
    home.publish_alert(alert(image_url="/v1/alerts/a1/image"))
    own_id = slug_of("site/north")
    others = [topic for topic in broker.topics if not topic.startswith("homeassistant/")]
    assert others
    assert all(topic.startswith("site/north/") for topic in others)
    told = json.loads(broker.last(f"homeassistant/binary_sensor/{own_id}_{DOOR}_connected/config"))
    assert told["availability_topic"] == "site/north/status"
    assert told["state_topic"] == f"site/north/{DOOR}/connected"
    assert told["device"]["identifiers"] == [f"{own_id}_{DOOR}"]
    assert own_id != slug_of("site north")


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
    home.publish_states()
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


SHOP = slug_of("shop")


@pytest.fixture
def switched(broker, service, monkeypatch):
    monkeypatch.setattr(home_assistant, "CAMERAS_EVERY_SECONDS", 0.0)
    service.paused = {"shop": False}
    home = HomeAssistant(broker, service, "homeassistant", switches=["shop"])
    home.announce()
    home.publish_states()
    return home


def test_a_list_has_a_switch_that_is_on_while_it_is_compared(switched, broker, service):
    told = config(broker, "switch", SHOP, "watch")
    assert told["name"] == "shop"
    assert told["device"]["name"] == "Watch lists"
    assert told["command_topic"] in switched.own_topics
    states = told["state_topic"]
    for command, is_paused in ((b"OFF", True), (b"ON", False)):
        switched.handle(switched.read_command(told["command_topic"], command))
        assert service.paused == {"shop": is_paused}
        assert broker.last(states) == command.decode()
    # Another administrator pauses it.
    service.paused = {"shop": True}
    switched.publish_states()
    assert broker.last(states) == "OFF"
    service.paused = {}
    switched.publish_states()
    assert broker.last(states) == "None"


def test_a_switch_that_the_service_refuses_shows_the_true_state(switched, broker, service):
    service.may_pause = False
    switched.handle(SwitchCommand("shop", b"OFF"))
    assert service.paused == {"shop": False}
    assert broker.topics[f"gmn/{SHOP}/watch"] == ["ON", "ON"]


def test_a_message_that_is_no_command_switches_nothing(switched, service):
    assert switched.read_command("gmn/status", b"OFF") is None
    switched.handle(SwitchCommand("shop", b"pause"))
    assert service.paused == {"shop": False}


def test_no_list_has_a_switch_unless_it_is_named(home, broker, service):
    service.paused = {"shop": False}
    home.announce()
    home.publish_states()
    assert not any("/switch/" in topic for topic in broker.topics)
