"""An alert on a locked phone, as docs/watch.md sets it up, with stand-ins of the two programs."""

import json
import re
import socket
from pathlib import Path
from urllib.parse import parse_qs, urlsplit
from uuid import uuid4

import jinja2
import pytest
import yaml

from tests.service.watch_places import arm_new, create_webhook, receiving
from tests.waiting import eventually

PAGE = (Path(__file__).parents[2] / "docs" / "watch.md").read_text(encoding="utf-8")
NAME = "0000"


def example(name):
    """Return the text between the marks of an example on the page."""
    found = re.search(rf"<!-- {name} -->\n```\w+\n(.*?)```\n<!-- /{name} -->", PAGE, re.DOTALL)
    return found[1].strip()


def setting_of_home_assistant():
    (name, _, value) = example("home-assistant-setting").partition("=")
    return {name.removeprefix("GMN_").lower(): value}


@pytest.fixture(autouse=True)
def home_assistant_in_the_network(monkeypatch):
    """Let the name on the page stand for this machine, where the stand-in is."""
    real = socket.getaddrinfo

    def look_up(host, *rest, **more):
        return real("127.0.0.1" if host == "homeassistant.example" else host, *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)


@pytest.fixture(scope="module")
def watching(open_service, data_dir):
    return open_service(data_dir, **setting_of_home_assistant())


@pytest.fixture
def receiver(watching):
    with receiving(watching) as opened:
        yield opened


@pytest.fixture
def wanted(watching, drawn_crops):
    return arm_new(watching, f"wanted-{uuid4().hex[:8]}", drawn_crops)


def received(receiver):
    """Return the requests about visits; the test of a webhook has no gallery."""
    return [got for got in receiver.received if json.loads(got.body)["type"] == "watch.visit"]


def shown_by_ntfy(got):
    """Return title and message as ntfy fills in the fields of the body."""
    asked = {name: values[0] for name, values in parse_qs(urlsplit(got.path).query).items()}
    assert asked["tpl"] == "1"
    body = json.loads(got.body)

    def value_of(path):
        value = body
        for name in path.split("."):
            value = value[name]
        return value

    def fill(template):
        conditional = r"{{if \.([\w.]+)}}(.*?){{end}}"
        chosen = re.sub(conditional, lambda part: part[2] if value_of(part[1]) else "", template)
        return re.sub(r"{{\.([\w.]+)}}", lambda part: str(value_of(part[1])), chosen)

    return fill(asked["t"]), fill(asked["m"])


def shown_by_home_assistant(got):
    """Return title and message as Home Assistant renders its templates."""
    (automation,) = yaml.safe_load(example("home-assistant"))
    (trigger,) = automation["triggers"]
    assert trigger["allowed_methods"] == ["POST"]
    assert urlsplit(got.path).path == f"/api/webhook/{trigger['webhook_id']}"
    (action,) = automation["actions"]
    values = {"trigger": {"json": json.loads(got.body)}}
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, autoescape=False)
    return tuple(
        " ".join(environment.from_string(action["data"][name]).render(values).split())
        for name in ("title", "message")
    )


def ntfy_address(receiver):
    parsed = urlsplit(example("ntfy"))
    return urlsplit(receiver.url)._replace(path=parsed.path, query=parsed.query).geturl()


def home_assistant_address(receiver):
    (automation,) = yaml.safe_load(example("home-assistant"))
    (address,) = re.findall(r"The address of the webhook is `(\S+:8123/\S+/)` and the id", PAGE)
    port = urlsplit(receiver.url).port
    return address.replace(":8123", f":{port}") + automation["triggers"][0]["webhook_id"]


@pytest.mark.parametrize(
    ("address", "shown", "title"),
    [
        (ntfy_address, shown_by_ntfy, "{}"),
        (home_assistant_address, shown_by_home_assistant, "Watch list {}"),
    ],
)
def test_a_locked_phone_shows_list_camera_and_zone_and_neither_picture_nor_name(
    watching, wanted, receiver, people, address, shown, title
):
    create_webhook(watching.http, address(receiver), gallery=wanted)
    people.pass_by(wanted, camera="back door", zone="step")
    people.pass_by(wanted, camera="yard")
    eventually(lambda: len(received(receiver)) == 2)
    texts = {shown(got) for got in received(receiver)}
    assert texts == {
        (title.format(wanted), "visit at back door, zone step"),
        (title.format(wanted), "visit at yard"),
    }
    assert all(json.loads(got.body)["data"]["identity"] == NAME for got in received(receiver))
    assert not any(secret in str(texts) for secret in (NAME, "image", "http"))


@pytest.mark.parametrize(
    ("address", "shown"),
    [(ntfy_address, shown_by_ntfy), (home_assistant_address, shown_by_home_assistant)],
)
def test_a_message_about_a_list_has_no_camera(watching, wanted, receiver, people, address, shown):
    create_webhook(watching.http, address(receiver), gallery=wanted)
    people.end_time_of(wanted)
    eventually(lambda: receiver.received)
    (got, *_) = receiver.received
    _, message = shown(got)
    assert message.strip() == "disarmed"
