"""Addresses of brokers and of metrics, and messages that wait for the main thread."""

import signal
import urllib.request

import pytest

from gmn_camera.broker import Inbox, read_broker, read_topic
from gmn_camera.figures import Figures, serve_metrics
from gmn_client import InvalidInput
from gmn_client.errors import KeyRefused
from gmn_client.models import Problem
from tests.outside import free_port


@pytest.mark.parametrize(
    ("address", "host", "port"),
    [
        ("mqtt.example", "mqtt.example", 1883),
        ("mqtt.example:1884", "mqtt.example", 1884),
        ("192.0.2.7:1884", "192.0.2.7", 1884),
        ("[::1]:1884", "::1", 1884),
        ("[2001:db8::7]", "2001:db8::7", 1883),
        ("2001:db8::7", "2001:db8::7", 1883),
        ("::1", "::1", 1883),
        ("[fe80::1%eth0]:1884", "fe80::1%eth0", 1884),
        ("[::ffff:192.0.2.7]:1884", "::ffff:192.0.2.7", 1884),
    ],
)
def test_a_broker_is_named_by_name_or_address(address, host, port):
    broker = read_broker(address, None, None, tls=False)
    assert (broker.host, broker.port) == (host, port)


def test_an_encrypted_broker_has_another_port():
    assert read_broker("[::1]", None, None, tls=True).port == 8883


def test_messages_name_an_ipv6_broker_with_brackets():
    assert read_broker("::1", None, None, tls=False).address == "[::1]:1883"


@pytest.mark.parametrize(
    "address",
    [
        *("", ":", ":1883", "host:", "host:0", "host:65536", "host:99999999999999999999"),
        *("[::1", "::1]", "[::1]1884", "[::1]:", "[mqtt.example]:1883", "1:2:3", "[::1]:x", "[]:1"),
        *("mqtt://host:1883", "host name:1883", "user@host:1883", "[::1]:1883:1884", "host:-1"),
        "host:\N{FULLWIDTH DIGIT ONE}",
    ],
)
def test_what_is_no_address_of_a_broker_is_refused(address):
    with pytest.raises(InvalidInput, match=r"--broker: .* is no address .* mqtt.example:1883"):
        read_broker(address, None, None, tls=False)


@pytest.mark.parametrize("host", ["", ":", "127.0.0.1:", "[::1]:", "localhost:"])
def test_metrics_are_served_at_a_port_of_a_host(host):
    port = free_port()
    end = serve_metrics(f"{host}{port}", lambda: {"gate": Figures(frames=7)})
    try:
        reached = host if host.startswith(("[", "localhost")) else "127.0.0.1:"
        with urllib.request.urlopen(f"http://{reached}{port}/metrics", timeout=30) as answer:
            assert b'gmn_camera_frames_total{camera="gate"} 7.0' in answer.read()
    finally:
        end()


@pytest.mark.parametrize(
    "address", ["", "x", "::1", "[::1]", "host", "host:", "65536", "1:65536", "[::1:9100", "-1"]
)
def test_what_is_no_port_of_metrics_is_refused(address):
    with pytest.raises(InvalidInput, match=r"--metrics: .* is no port .* HOST:PORT"):
        serve_metrics(address, dict)


@pytest.mark.parametrize("topic", ["", "/", "a/+", "#", "a\x00b", "a\nb", "x" * 201])
def test_what_is_no_topic_is_refused(topic):
    with pytest.raises(InvalidInput, match=r"--topic: .* is no topic"):
        read_topic("--topic", topic)


def test_a_topic_may_have_levels():
    assert read_topic("--topic", "site/north/") == "site/north"


def test_each_client_of_a_broker_has_an_id_of_its_own():
    broker = read_broker("mqtt.example", None, None, tls=False)
    ids = {broker.client("gmn-alerts")._client_id for _ in range(20)}
    assert len(ids) == 20
    # A broker must take up to 23 bytes.
    assert all(len(client_id) <= 23 for client_id in ids)


@pytest.fixture
def inbox():
    """Yield an inbox; the signals have their former handlers afterwards."""
    former = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield Inbox()
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def test_a_message_that_fails_does_not_end_the_next_ones(inbox, caplog):
    handled = []

    def handle(item):
        handled.append(item)
        if item == "odd":
            raise IndexError("no such thing")
        if item == "last":
            signal.raise_signal(signal.SIGTERM)

    def fail():
        raise ValueError("beside")

    for item in ("odd", "even", "odd", "last"):
        inbox.put(item)
    inbox.handle_until_stopped(handle, fail)
    assert handled == ["odd", "even", "odd", "last"]
    assert "no such thing" in caplog.text
    assert "beside" in caplog.text


def test_a_refused_key_ends_the_program(inbox):
    def refuse():
        raise KeyRefused(Problem(status=401, detail="the key has expired"))

    with pytest.raises(KeyRefused):
        inbox.handle_until_stopped(lambda _: None, refuse)
