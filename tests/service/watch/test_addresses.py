"""The addresses to which webhooks may lead, as `GMN_WEBHOOK_PRIVATE` lists them."""

import ipaddress
import socket
from contextlib import closing

import httpx2
import pytest

from model.problems import InputProblem
from service.errors import InvalidField
from service.settings import read_settings
from service.watch.addresses import PermittedAddresses

OWN_PORT = 8000


def refusal(setting, url, *addresses):
    """Return why a URL whose host has these addresses is refused, or None."""
    entries = read_settings(webhook_private=setting).webhook_private
    permitted = PermittedAddresses.read(entries, OWN_PORT)
    parsed = httpx2.URL(url)
    try:
        for address in addresses or (parsed.host,):
            permitted.require(parsed, ipaddress.ip_address(address))
    except InvalidField as error:
        return error.detail
    return None


@pytest.mark.parametrize(
    ("setting", "url", "addresses"),
    [
        ("192.168.1.5", "http://192.168.1.5:8123/x", ()),
        ("192.168.1.0/24, 10.0.0.0/8", "http://10.3.4.5:8123/x", ()),
        ("192.168.1.0/24", "http://homeassistant.local:8123/x", ("192.168.1.5",)),
        ("192.168.1.0/24", "http://[::ffff:192.168.1.5]:8123/x", ()),
        ("fd12:3456::/32", "http://[fd12:3456::5]:8123/x", ()),
        ("homeassistant.local", "http://HomeAssistant.local:8123/x", ("192.168.1.5",)),
        ("HomeAssistant.local.", "http://homeassistant.local:8123/x", ("192.168.1.5", "fd00::5")),
        ("xn--kse-qla.example", "http://käse.example/x", ("10.0.0.1",)),
        ("homeassistant", "http://homeassistant:8123/x", ("127.0.1.1",)),
        ("100.64.0.0/10", "http://100.101.102.103:8123/x", ()),
        ("2003:e5::/32", "http://[2003:e5::1]:8123/x", ()),
        ("true", "https://10.1.2.3/x", ()),
        ("192.168.1.0/24", "https://1.1.1.1/x", ()),
    ],
)
def test_a_listed_receiver_is_permitted_also_by_http(setting, url, addresses):
    assert refusal(setting, url, *addresses) is None


@pytest.mark.parametrize(
    ("setting", "url", "addresses"),
    [
        ("192.168.1.0/24", "http://192.168.2.5:8123/x", ()),
        ("192.168.1.0/24", "https://homeassistant.local/x", ("192.168.1.5", "192.168.2.5")),
        ("homeassistant.local", "https://other.local/x", ("192.168.1.5",)),
        ("homeassistant.local", "https://x.homeassistant.local/x", ("192.168.1.5",)),
        ("192.168.1.0/24", "https://desk.example/x", ("127.0.0.1",)),
    ],
)
def test_a_private_address_that_is_not_listed_is_refused_with_the_setting_and_what_it_needs(
    setting, url, addresses
):
    why = refusal(setting, url, *addresses)
    assert f"with {httpx2.URL(url).host} in GMN_WEBHOOK_PRIVATE" in why


@pytest.mark.parametrize(
    ("setting", "addresses"),
    [("homeassistant.local", ("93.184.215.14",)), ("192.168.1.0/24", ("1.1.1.1",))],
)
def test_no_public_address_gets_a_message_by_http(setting, addresses):
    assert "alerts go by https" in refusal(setting, "http://homeassistant.local/x", *addresses)


def test_true_permits_no_http_and_says_what_to_put_in_its_place():
    why = refusal("true", "http://192.168.1.5:8123/x")
    assert "put 192.168.1.5 there in place of true" in why


@pytest.mark.parametrize("setting", ["true", "0.0.0.0/0, ::/0", "metadata.example"])
@pytest.mark.parametrize(
    "address",
    [
        "169.254.169.254",
        "169.254.1.1",
        "::ffff:169.254.169.254",
        "64:ff9b::a9fe:a9fe",
        "64:ff9b:1::a9fe:a9fe",
        "2002:a9fe:a9fe::",
        "fe80::1",
        "100.100.100.200",
        "168.63.129.16",
        "64:ff9b::6464:64c8",
        "fd00:ec2::254",
        "0.0.0.0",
        "::",
        "224.0.0.1",
        "ff02::1",
    ],
)
def test_no_setting_lets_a_message_go_to_a_link_local_address_or_a_service_of_the_cloud(
    setting, address
):
    for scheme in ("http", "https"):
        assert "no message goes to" in refusal(setting, f"{scheme}://metadata.example/x", address)


def own_address():
    """Return an address of this machine that is none of loopback, or skip the test."""
    with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("this machine is in no network")
        return probe.getsockname()[0]


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.9.9.9", "[::1]", None])
def test_no_setting_lets_a_message_go_to_the_service_itself(host):
    address = own_address() if host is None else host.strip("[]").replace("localhost", "::1")
    for setting in ("true", "0.0.0.0/0, ::/0", "localhost"):
        url = f"http://{host or address}:{OWN_PORT}/v1/galleries"
        assert "is this service itself" in refusal(setting, url, address)
    assert refusal("0.0.0.0/0, ::/0", f"http://{host or address}:8123/x", address) is None


@pytest.mark.parametrize(
    "value",
    [
        "http://192.168.1.5",
        "192.168.1.5:8123",
        "192.168.1.300",
        "192.168.1",
        "192.168.1.5/24",
        "*.local",
        "true, 192.168.1.5",
        "a;b",
        "käse.example",
        "[fd00::1]",
    ],
)
def test_what_is_no_host_or_network_prevents_the_start(value):
    with pytest.raises(InputProblem, match=r"GMN_WEBHOOK_PRIVATE: .* no host or network"):
        read_settings(webhook_private=value)


@pytest.mark.parametrize(
    ("value", "entries"),
    [("false", ()), ("", ()), ("0", ()), ("TRUE", ("true",)), ("1", ("true",))],
)
def test_the_values_of_a_flag_are_still_read(value, entries, monkeypatch):
    monkeypatch.setenv("GMN_WEBHOOK_PRIVATE", value)
    assert read_settings().webhook_private == entries
