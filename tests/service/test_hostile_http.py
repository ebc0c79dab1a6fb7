"""Bytes that are no proper HTTP, or too much or too little of it, over sockets of our own."""

import contextlib
import json
import socket
import time
from http.client import HTTPResponse
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import pytest

from service.api_keys import create_key
from service.commands.processes import ServiceConfig
from service.http.limits import LINGERING_SECONDS
from service.settings import Settings
from tests.outside import bearer
from tests.service.conftest import START, log_entries
from tests.service.raw_http import (
    CHUNKED,
    CROPS,
    END,
    FORM,
    PART,
    SECONDS,
    ask,
    besieged,
    connect,
    held_mb,
    request,
    rest_of,
    statuses,
)
from tests.waiting import LONGEST_SECONDS, eventually

pytestmark = pytest.mark.promise("hostile-http")

# Fixtures, which tests know by their names.
__all__ = ["ask", "besieged", "connect"]


def post(*headers, body=b""):
    """Return a request to enroll a form, with further headers."""
    return request(b"POST", CROPS.encode(), FORM[:-2], *headers, body=body)


def length(text):
    return post(b"Content-Length: " + text)


def chunks(body, encoding=b"chunked"):
    return post(b"Transfer-Encoding: " + encoding, body=body)


@pytest.mark.parametrize("announced", [b"Content-Length: 3000000", CHUNKED])
def test_a_body_that_dribbles_in_is_408_in_time(connect, announced):
    connection = connect()
    connection.sendall(post(announced))
    begun = PART[:-2]
    is_chunked = announced == CHUNKED
    connection.sendall(b"%x\r\n%s\r\n" % (len(begun), begun) if is_chunked else begun)
    connection.setblocking(False)
    answer = b""
    while not answer:
        with contextlib.suppress(BlockingIOError, BrokenPipeError, ConnectionResetError):
            connection.send(b"1\r\nx\r\n" if is_chunked else b"x")
        with contextlib.suppress(BlockingIOError):
            answer += connection.recv(65_536)
        time.sleep(0.05)
    connection.settimeout(20)
    answer += rest_of(connection)
    assert statuses(answer) == [408]
    assert b"GMN_MIN_BODY_RATE" in answer


@pytest.fixture
def connect_to_patient(start):
    """Return a function that connects to a service which waits for bodies longer than a test."""
    patient = start(body_timeout_s=3600, max_body_bytes=4_000_000)
    address = urlsplit(str(patient.http.base_url))
    with contextlib.ExitStack() as opened:
        place = (address.hostname, address.port)
        yield lambda: opened.enter_context(socket.create_connection(place, LONGEST_SECONDS))


def test_a_body_in_tiny_pieces_is_400_before_its_time_is_over(connect_to_patient):
    connection = connect_to_patient()
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        connection.sendall(chunks(b"1\r\nx\r\n" * 2000))
    assert statuses(rest_of(connection)) == [400]


def test_tiny_pieces_of_a_body_that_was_refused_end_its_connection(connect_to_patient):
    connection = connect_to_patient()
    connection.sendall(b"POST /nowhere HTTP/1.1\r\nHost: localhost\r\n" + CHUNKED + b"\r\n\r\n")
    assert b" 404 " in connection.recv(65_536)
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        connection.sendall(b"1\r\nx\r\n" * 2000)
        # It would wait for longer than its limit.
        rest_of(connection)


def test_a_flood_of_idle_connections_is_503_and_over_when_they_are(besieged, connect):
    before = held_mb(besieged.process)
    idle = [connect() for _ in range(150)]
    refused = connect()
    refused.sendall(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    assert statuses(rest_of(refused)) == [503]
    # A supervisor that asks now must not end the process.
    assert besieged.http.get("/livez").status_code == 200
    for connection in idle:
        connection.close()
    eventually(lambda: besieged.http.get("/livez").status_code == 200)
    assert held_mb(besieged.process) - before < 50


@pytest.mark.slow
def test_silent_connections_take_no_files_from_those_that_are_served(start, tmp_path):
    key, text = create_key(scopes=["admin"])
    keys = tmp_path / "keys"
    kept = {"key_id": key.key_id, "secret_sha256": key.secret_sha256, "scopes": ["admin"]}
    keys.write_text(json.dumps(kept))
    limit = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256)); "
    served = start(program=limit + START, max_connections=100, body_timeout_s=4, api_keys_file=keys)
    served.http.headers.update(bearer(text))
    address = urlsplit(str(served.http.base_url))

    def connect():
        return opened.enter_context(
            socket.create_connection((address.hostname, address.port), timeout=20)
        )

    def ask():
        return served.http.get("/v1/galleries").status_code

    assert ask() == 200
    with contextlib.ExitStack() as opened:
        silent = [connect() for _ in range(130)]
        refused = connect()
        refused.sendall(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        answer = rest_of(refused)
        assert statuses(answer) == [503]
        assert b"retry-after: 1\r\n" in answer.lower()
        problem = json.loads(answer.rpartition(b"\r\n\r\n")[2])
        assert "GMN_MAX_CONNECTIONS" in problem["detail"]
        silent += [connect() for _ in range(300)]
        began = time.monotonic()
        while time.monotonic() - began < 3:
            assert ask() == 200
            time.sleep(0.2)
        assert len(list(Path(f"/proc/{served.process.pid}/fd").iterdir())) < 230
        # A silent connection is closed, also where its client stays.
        assert all(rest_of(connection) == b"" for connection in silent)
    fresh = httpx2.get(f"{served.http.base_url}/v1/galleries", headers=bearer(text))
    assert fresh.status_code == 200
    assert served.stop() == 0
    assert len(served.log.read_text()) < 50_000


def test_a_body_that_comes_without_end_after_its_refusal_is_cut_off(connect):
    connection = connect()
    connection.sendall(post(CHUNKED).replace(b"Connection: close\r\n", b""))
    piece = b"%x\r\n%s\r\n" % (65_536, bytes(65_536))
    # Without an end it would be sent until the test is ended.
    is_cut_off = False
    while not is_cut_off:
        try:
            connection.sendall(piece)
        except (BrokenPipeError, ConnectionResetError):
            is_cut_off = True
        time.sleep(0.01)


def test_a_connection_that_falls_silent_amid_its_second_request_is_closed(connect):
    connection = connect()
    connection.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert statuses(connection.recv(65_536)) == [200]
    connection.sendall(b"G")
    # It is closed, or reading would wait for longer than its limit.
    assert b"HTTP/1.1" not in rest_of(connection)


BROKEN = {
    "an answer": b"HTTP/1.1 200 OK\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
    "noise": bytes(range(256)) * 4,
    "no host": b"GET /livez HTTP/1.1\r\n\r\n",
    "two hosts": b"GET /livez HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    "a space before the colon": request(b"GET", b"/livez", b"X-A : b"),
    "a folded header": request(b"GET", b"/livez", b"X-A: b", b" c", b"\td"),
    "a bare line feed": b"GET /livez HTTP/1.1\nHost: a\nConnection: close\n\n",
    "NUL in a header": request(b"GET", b"/livez", b"X-A: b\0c"),
    "a header of 1 MB": request(b"GET", b"/livez", b"X-A: " + b"a" * 1_000_000),
    "50,000 headers": request(b"GET", b"/livez", *[b"X-A: b"] * 50_000),
    "a query of 1 MB": request(b"GET", b"/livez?a=" + b"a" * 1_000_000),
    "a query of 30,000 names": request(b"GET", b"/v1/galleries?" + b"&".join([b"a"] * 30_000)),
    "a length below nothing": length(b"-1"),
    "a length with a sign": length(b"+9"),
    "a length in hex": length(b"0x9"),
    "a length of 5,000 digits": length(b"9" * 5_000),
    "two lengths": post(b"Content-Length: 9", b"Content-Length: 8"),
    "two lengths in one": length(b"9, 8"),
    "a length and chunks": post(
        b"Content-Length: 4",
        CHUNKED,
        body=b"0\r\n\r\nGET /metrics HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    "chunks twice": chunks(b"0\r\n\r\n", b"chunked, chunked"),
    "chunks that are no chunks": chunks(b"0\r\n\r\n", b"xchunked"),
    "a chunk of -1": chunks(b"-1\r\nx\r\n"),
    "a chunk of 30 digits": chunks(b"f" * 30 + b"\r\n"),
    "a chunk's extension of 1 MB": chunks(b"1;" + b"a" * 1_000_000),
    "chunks that end wrongly": chunks(b"1\r\nxy\r\n0\r\n\r\n"),
}


# The answers to them; every other one is 400.
ANSWERS = {
    # Its first line is a request for another host, and what follows is none.
    "HTTP/2": [403, 400],
    "a folded header": [200],
    # Use an address of its own host, which is not this machine.
    "a bare line feed": [403],
    "a query of 30,000 names": [422],
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_no_proper_request_has_its_one_answer(besieged, ask, name):
    answer = ask(BROKEN[name])
    assert statuses(answer) == ANSWERS.get(name, [400])
    assert b"gmn_http" not in answer
    # The server itself answers bytes that are not HTTP; other errors are problem documents.
    if ANSWERS.get(name) != [200] and b"Invalid HTTP request received." not in answer:
        problem = json.loads(answer.rpartition(b"\r\n\r\n")[2])
        assert "; " in problem["detail"]


@pytest.mark.parametrize("path", [b"/v1/galleries", b"/metrics"])
def test_without_keys_a_proxy_that_speaks_http_1_0_is_nobodys(ask, path):
    assert statuses(ask(b"GET " + path + b" HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n")) == [401]


def test_requests_in_one_piece_are_answered_one_by_one(ask):
    first = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"
    assert statuses(ask(first * 20 + request(b"GET", b"/livez"))) == [200] * 21


def test_a_client_that_asks_first_is_told_to_go_on_or_not_to(connect):
    whole = PART + END
    expect = b"Expect: 100-continue"
    connection = connect()
    connection.sendall(post(b"Content-Length: %d" % len(whole), expect))
    assert connection.recv(65_536).startswith(b"HTTP/1.1 100 ")
    connection.sendall(whole)
    assert statuses(rest_of(connection)) == [422]
    connection = connect()
    connection.sendall(post(b"Content-Length: 99000000", expect))
    assert connection.recv(65_536).startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize(
    "part",
    [
        b'--b\r\nContent-Disposition: form-data; name="x%d"\r\n\r\n',
        b'--b\r\nContent-Disposition: form-data; name="archive"; filename="%d"\r\n\r\n',
    ],
    ids=["fields", "files"],
)
def test_a_form_of_an_import_holds_one_file_and_a_few_short_fields(besieged, connect, part):
    before = held_mb(besieged.process)
    connection = connect()
    imports = b"/v1/galleries/default/imports"
    connection.sendall(request(b"POST", imports, FORM[:-2], CHUNKED))
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        for number in range(150):
            piece = part % number + b"a" * 1_000_000 + b"\r\n"
            connection.sendall(b"%x\r\n%s\r\n" % (len(piece), piece))
        connection.sendall(b"0\r\n\r\n")
    assert statuses(rest_of(connection)) == [400]
    assert held_mb(besieged.process) - before < 40


UNREAD = request(b"POST", b"/v1/galleries/default/nothing", FORM[:-2], b"Content-Length: 500000")


def test_a_refusal_that_does_not_wait_for_the_body_is_read_by_who_goes_on_sending(connect):
    connection = connect()
    connection.sendall(UNREAD)
    # The service has answered, and ended its side of the connection.
    eventually(lambda: connection.recv(65_536, socket.MSG_PEEK).endswith(b"}"))
    for _ in range(5):
        connection.sendall(b"a" * 100_000)
        time.sleep(0.02)
    answer = rest_of(connection)
    assert statuses(answer) == [404]
    assert answer.endswith(b"}")


def test_a_refused_body_without_an_end_is_read_for_seconds_only(connect):
    connection = connect()
    connection.sendall(UNREAD)
    began = time.monotonic()
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        while time.monotonic() - began < LONGEST_SECONDS:
            connection.sendall(b"a")
            time.sleep(0.1)
    assert LINGERING_SECONDS - 0.5 < time.monotonic() - began < LONGEST_SECONDS


@pytest.fixture
def absolute(besieged, ask):
    """Return a function that asks for a target in absolute form; it returns the whole answer."""

    def send(authority, path, host="elsewhere", method=b"GET", scheme="http"):
        target = f"{scheme}://{authority}{path}".encode()
        lines = [method + b" " + target + b" HTTP/1.1", b"Host: " + host.encode()]
        return ask(b"\r\n".join([*lines, b"Connection: close", b"", b""]))

    return send


@pytest.mark.parametrize("scheme", ["http", "HTTP", "https"])
@pytest.mark.parametrize("authority", ["localhost", "127.0.0.1:8000", "[::1]:80"])
def test_a_target_in_absolute_form_is_taken_and_its_host_counts(absolute, scheme, authority):
    answer = absolute(authority, "/livez", scheme=scheme)
    assert statuses(answer) == [200]
    assert b"alive" in answer
    # Its host replaces the header, which could otherwise disguise the host of a page.
    assert statuses(absolute("evil.example", "/v1/galleries", host="localhost")) == [403]


def test_a_target_in_absolute_form_has_path_and_query_of_any_other(besieged, absolute):
    name = besieged.create("absolute")
    answer = absolute("localhost", f"/v1/galleries/{name}%2Fcrops?limit=1")
    assert statuses(answer) == [200]
    answer = absolute("localhost", f"/v1/galleries/{name}/crops?limit=five")
    assert statuses(answer) == [422]
    answer = absolute("localhost", f"/v1/galleries/{name}/crops/?limit=1")
    assert b"it is /v1/galleries/absolute/crops, and" in answer
    assert b"<!doctype html>" in absolute("localhost", "").lower()
    assert statuses(absolute("localhost", "/livez", method=b"HEAD")) == [200]


def test_a_proxy_of_httpx_may_be_the_service_itself(besieged):
    with httpx2.Client(proxy=str(besieged.http.base_url), trust_env=False) as client:
        answer = client.get("http://localhost/livez")
    assert answer.json() == {"status": "alive"}


def test_an_idle_connection_is_kept_for_longer_than_a_silent_one(connect):
    def ask_livez(connection):
        connection.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
        # Its head and its body may arrive apart.
        with HTTPResponse(connection) as answer:
            answer.begin()
            answer.read()
            return answer.status

    connection = connect()
    assert ask_livez(connection) == 200
    silent = connect()
    # Without a request, a connection is closed within this time.
    assert rest_of(silent) == b""
    time.sleep(2 * SECONDS)
    assert ask_livez(connection) == 200


def test_both_kinds_of_servers_keep_idle_connections_for_80_seconds():
    for processes in (1, 4):
        config = ServiceConfig(Settings(processes=processes))
        assert config.timeout_keep_alive == 80


MALFORMED = {
    "chunks that end wrongly": chunks(b"5\r\nAAAAAXX0\r\n\r\n"),
    "a chunk of no size": chunks(b"-1\r\n\r\n"),
    "an extension with a line feed": chunks(b"2;\nxx\r\n4b\r\n0\r\n\r\n"),
    "a chunk after a whole part": chunks(b"%x\r\n%s\r\nzz\r\n" % (len(PART), PART)),
    "tiny pieces": chunks(b"1\r\nx\r\n" * 2000),
    "a body that is cut off": post(b"Content-Length: 5000", body=PART),
    "no UTF-8 in the path": request(b"GET", b"/v1/galleries/%ff%fe%00"),
    "no UTF-8 in the query": request(b"GET", CROPS.encode() + b"?identity=%ff&limit=%ff"),
    "no UTF-8 in the headers": request(b"GET", CROPS.encode(), b"Authorization: Bearer \xff\xfe"),
    "an odd length": length(b"0" * 19),
    "an odd type": request(b"POST", CROPS.encode(), b"Content-Type: \xff;=;boundary=\xff"),
    "an odd disposition": post(
        b"Content-Length: 48", body=b'--b\r\nContent-Disposition: form-data; name="\xff'
    ),
    "an odd target": request(b"OPTIONS", b"*"),
    "an authority": request(b"CONNECT", b"localhost:22"),
    "a broken absolute target": request(b"GET", b"http://"),
    "an upgrade": request(b"GET", b"/livez", b"Connection: upgrade", b"Upgrade: websocket"),
    "an unknown method": request(b"GETT" * 500, b"/livez"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_no_malformed_request_makes_a_line_of_level_error(besieged, connect, name):
    before = len(besieged.log.read_text())
    connection = connect()
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        connection.sendall(MALFORMED[name])
        connection.shutdown(socket.SHUT_WR)
    rest_of(connection)
    connection.close()
    assert besieged.http.get("/livez").status_code == 200
    lines = [json.loads(line) for line in besieged.log.read_text()[before:].splitlines()]
    assert {line["level"] for line in lines} <= {"info", "warning"}
    assert not [line for line in lines if line["logger"].startswith("python_multipart")]


def test_an_answer_that_nobody_reads_makes_no_line_of_level_error(start):
    shorter = "from service.http import middleware; middleware.SEND_SECONDS = 1.0\n"
    served = start(program=shorter + START)
    address = urlsplit(str(served.http.base_url))
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect((address.hostname, address.port))
        script = b"/docs/assets/swagger-ui-bundle.js"
        # The kernel takes some of the answers for the client.
        connection.sendall(b"GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n" % script * 8)
        eventually(lambda: "could not be answered" in served.log.read_text())
        assert served.http.get("/livez").status_code == 200
    entries = log_entries(served.log.read_text())
    assert {entry["level"] for entry in entries} <= {"info", "warning"}
