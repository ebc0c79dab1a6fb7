"""Which proxy the client uses, and what it says of one that cannot be used."""

from __future__ import annotations

import asyncio
import os
from http.server import BaseHTTPRequestHandler

import pytest

from gmn_client import AsyncClient, Client, GmnError, Retries, ServiceFailed, ServiceUnreachable
from tests.forked import run_gmn
from tests.service.client.http_servers import LocalServer, running

FAR = "http://reid.example:8000"
UNUSED = "http://127.0.0.1:9"
ONCE = Retries(attempts=1)


class NotingProxy(LocalServer):
    """A proxy that answers each request with `status`, and notes its target in `asked`."""

    def __init__(self, status):
        super().__init__(_Handler)
        self.status = status
        self.asked = []


class _Handler(BaseHTTPRequestHandler):
    server: NotingProxy

    def do_GET(self):
        self.server.asked.append(self.path)
        self.send_response(self.server.status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_CONNECT = do_POST = do_GET  # noqa: N815

    def log_message(self, *_):
        """Nothing on standard error."""


def proxy_that_answers(status):
    return running(NotingProxy(status))


@pytest.fixture
def proxy():
    with proxy_that_answers(200) as answering:
        yield answering


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """Return a function that sets variables; none of this machine's own is left."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    return monkeypatch.setenv


def is_reached(url, kind):
    """Return whether anything answers `ready` with 200, as the noting proxy does."""
    if kind is Client:
        with Client(url) as client:
            return client.ready()

    async def ask():
        async with AsyncClient(url) as client:
            return await client.ready()

    return asyncio.run(ask())


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize("variable", ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"])
def test_another_machine_is_reached_through_the_proxy_of_the_environment(
    proxy, environment, variable, kind
):
    environment(variable, proxy.url)
    assert is_reached(FAR, kind)
    assert proxy.asked == [f"{FAR}/readyz"]


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "127.8.9.10", "127.1", "0x7f.1", "2130706433", "0x7f000001", "0.0.0.0"),
        *("[::1]", "[0:0:0:0:0:0:0:1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::]"),
        *("localhost", "LocalHost", "localhost.", "reid.localhost", "ip6-localhost"),
    ],
)
def test_this_machine_is_reached_through_no_proxy_however_it_is_written(proxy, environment, host):
    environment("http_proxy", proxy.url)
    environment("ALL_PROXY", proxy.url)
    assert not is_reached(f"http://{host}:9", Client)
    assert not is_reached(f"http://{host}:9", AsyncClient)
    assert not proxy.asked


@pytest.mark.parametrize(
    "value", ["socks5://127.0.0.1:9", "socks://x", "http://[::1", "proxy:port"]
)
def test_a_proxy_that_cannot_be_used_does_not_matter_to_this_machine(environment, value):
    environment("all_proxy", value)
    assert not is_reached(UNUSED, Client)
    assert not is_reached(UNUSED, AsyncClient)


@pytest.mark.parametrize(
    ("listed", "url"),
    [
        ("*", FAR),
        ("a.example, *", FAR),
        ("reid.example", FAR),
        ("REID.Example", FAR),
        ("reid.example.", FAR),
        ("reid.example:8000", FAR),
        ("http://reid.example", FAR),
        ("example", FAR),
        (".example", FAR),
        ("*.example", FAR),
        ("reid.example:80", "http://reid.example"),
        ("bücher.example", "http://bücher.example"),
        ("xn--bcher-kva.example", "http://bücher.example"),
        ("192.0.2.7", "http://192.0.2.7:8000"),
        ("192.0.2.7:8000", "http://192.0.2.7:8000"),
        ("192.0.2.0/24", "http://192.0.2.7:8000"),
        ("192.0.2.0/255.255.255.0", "http://192.0.2.7:8000"),
        ("192.0.2.0/24", "http://[::ffff:192.0.2.7]:8000"),
        ("192.0.2.7", "http://3221225991:8000"),
        ("2001:db8::7", "http://[2001:db8::7]:8000"),
        ("2001:DB8:0::7", "http://[2001:db8::7]:8000"),
        ("[2001:db8::7]", "http://[2001:db8::7]:8000"),
        ("[2001:db8::7]:8000", "http://[2001:db8::7]:8000"),
        ("2001:db8::/32", "http://[2001:db8::7]:8000"),
        ("[2001:db8::]/32", "http://[2001:db8::7]:8000"),
        ("[2001:db8::/32]", "http://[2001:db8::7]:8000"),
        ("localhost,[::1],10.0.0.0/8,192.0.2.7", "http://192.0.2.7:8000"),
    ],
)
@pytest.mark.parametrize("variable", ["no_proxy", "NO_PROXY"])
def test_what_no_proxy_lists_is_not_reached_through_a_proxy(environment, variable, listed, url):
    # A proxy that cannot be used would be an error, and the address itself is not looked up.
    environment("all_proxy", "none://")
    environment(variable, listed)
    Client(url)
    AsyncClient(url)


@pytest.mark.parametrize(
    ("listed", "url"),
    [
        ("", FAR),
        ("localhost,127.0.0.1,[::1]", FAR),
        ("reid.example:80", FAR),
        ("https://reid.example", FAR),
        ("id.example", FAR),
        (".reid.example", FAR),
        ("192.0.2.7:80", "http://192.0.2.7:8000"),
        ("192.0.3.0/24", "http://192.0.2.7:8000"),
        ("2.7", "http://192.0.2.7:8000"),
        ("fe80::/10", "http://192.0.2.7:8000"),
        ("::/0", "http://192.0.2.7:8000"),
        ("2001:db9::/32", "http://[2001:db8::7]:8000"),
        ("[2001:db8::7]:80", "http://[2001:db8::7]:8000"),
        ("192.0.2.0/99,[::1,::/x,:,//,[]", "http://192.0.2.7:8000"),
    ],
)
def test_what_no_proxy_does_not_list_is(proxy, environment, listed, url):
    environment("http_proxy", proxy.url)
    environment("no_proxy", listed)
    assert is_reached(url, Client)
    assert len(proxy.asked) == 1


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("socks5://127.0.0.1:9", "pip install 'httpx2[socks]'"),
        ("socks5h://127.0.0.1:9", "pip install 'httpx2[socks]'"),
        ("socks://127.0.0.1:9", "its scheme is none of http, https, socks5, socks5h"),
        ("ftp://proxy.example", "its scheme is none of"),
        ("proxy.example:port", "Invalid port"),
        ("http://[::1", "Invalid port"),
        ("http://", "it names no host"),
        ("http://proxy.example:99999", "there is no port 99999"),
        ("http://a..b:3128", "Invalid host name"),
        ("http://proxy.example:3128\r", r"'http://proxy.example:3128\r'"),
    ],
)
@pytest.mark.parametrize("variable", ["http_proxy", "HTTP_PROXY", "ALL_PROXY"])
def test_a_proxy_that_cannot_be_used_is_named_with_its_variable(
    environment, monkeypatch, variable, value, reason
):
    # The package may be installed here.
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    environment(variable, value)
    for kind in (Client, AsyncClient):
        with pytest.raises(GmnError) as error:
            kind(FAR)
        assert str(error.value).startswith(f"{variable}: ")
        assert reason in str(error.value)
        assert "or name reid.example in NO_PROXY" in str(error.value)


@pytest.mark.parametrize(
    "value", ["http://ann:secret@proxy:port", "http://ann:sec/secret@x:1", "ftp://ann:secret@x"]
)
def test_the_password_of_a_proxy_is_not_shown(environment, value):
    environment("http_proxy", value)
    with pytest.raises(ServiceUnreachable, match="http_proxy: ") as error:
        Client(FAR)
    assert "sec" not in str(error.value)


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_a_proxy_that_refuses_the_connection_is_named(environment, scheme, kind):
    environment(f"{scheme.upper()}_PROXY", "http://ann:secret@127.0.0.1:9")

    def ask():
        call = kind(f"{scheme}://reid.example", retries=ONCE).model()
        if kind is AsyncClient:
            asyncio.run(call)

    with pytest.raises(ServiceUnreachable) as error:
        ask()
    assert f"the proxy http://127.0.0.1:9 of {scheme.upper()}_PROXY" in str(error.value)
    assert "secret" not in str(error.value)
    assert not is_reached(FAR, kind)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_that_asks_for_a_password_is_named(environment, scheme):
    environment(f"{scheme}_proxy", "http://wrong")
    with proxy_that_answers(407) as asking:
        environment(f"{scheme}_proxy", asking.url)
        with Client(f"{scheme}://reid.example", retries=ONCE) as client:
            with pytest.raises(ServiceUnreachable) as error:
                client.model()
            assert f"the proxy {asking.url} of {scheme}_proxy" in str(error.value)
            assert "407" in str(error.value)
            assert not client.ready()


def test_an_error_that_only_the_proxy_can_have_made_names_it(environment):
    with proxy_that_answers(503) as failing:
        environment("http_proxy", failing.url)
        with (
            Client(FAR, retries=ONCE) as client,
            pytest.raises(ServiceFailed, match=f"through the proxy {failing.url} of http_proxy"),
        ):
            client.model()


@pytest.mark.parametrize("url", ["http://a..b", f"http://{'x' * 64}.example"])
def test_a_host_that_no_name_server_can_be_asked_for_is_no_address(url):
    with pytest.raises(ServiceUnreachable, match="not an address"):
        Client(url)


@pytest.mark.parametrize("arguments", [["identities"], ["enroll", "a.png"], ["api", "model"]])
def test_every_command_names_the_variable_of_a_proxy_that_cannot_be_used(
    arguments, tmp_path, drawn_crops
):
    (tmp_path / "a.png").write_bytes(drawn_crops[0].png)
    environment = os.environ | {"all_proxy": "socks://127.0.0.1:9"}
    options = {"env": environment, "cwd": tmp_path}
    far = run_gmn(*arguments, "--url", FAR, **options)
    assert (far.returncode, far.stderr[:15]) == (2, "gmn: all_proxy:")
    near = run_gmn(*arguments, "--url", UNUSED, **options)
    assert near.stderr.startswith(f"gmn: {UNUSED}: no service answers there")
