"""Bytes that are no proper HTTP, or too much or too little of it, over sockets of our own."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.service.conftest import files

CROPS = "/v1/galleries/default/crops"
FORM = b"Content-Type: multipart/form-data; boundary=b\r\n"
PART = b'--b\r\nContent-Disposition: form-data; name="images"; filename="a"\r\n\r\nx\r\n'
END = b"--b--\r\n"
SECONDS = 2
CHUNKED = b"Transfer-Encoding: chunked"


@pytest.fixture(scope="module")
def besieged(start):
    running = start(
        header_timeout_s=SECONDS,
        body_timeout_s=SECONDS,
        max_body_bytes=4_000_000,
        max_connections=60,
    )
    yield running
    assert running.http.get("/livez").status_code == 200
    assert "raceback" not in running.log.read_text()
    assert "Fatal error" not in running.log.read_text()
    running.kill()


@pytest.fixture
def connect(besieged):
    """Opens a connection; every one is closed at the end."""
    address = urlsplit(str(besieged.http.base_url))
    with contextlib.ExitStack() as opened:

        def one() -> socket.socket:
            place = (address.hostname, address.port)
            return opened.enter_context(socket.create_connection(place, timeout=20))

        yield one


@pytest.fixture
def ask(connect):
    """Sends bytes and answers all that comes until the connection is closed."""

    def send(*parts: bytes) -> bytes:
        connection = connect()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for part in parts:
                connection.sendall(part)
        return rest_of(connection)

    return send


def rest_of(connection: socket.socket) -> bytes:
    answer = b""
    with contextlib.suppress(ConnectionResetError):
        while part := connection.recv(65_536):
            answer += part
    return answer


def request(method: bytes, path: bytes, *headers: bytes, body: bytes = b"") -> bytes:
    lines = [method + b" " + path + b" HTTP/1.1", b"Host: localhost", b"Connection: close"]
    return b"\r\n".join([*lines, *headers, b"", body])


def statuses(answer: bytes) -> list[int]:
    return [int(one) for one in re.findall(rb"HTTP/1\.1 (\d{3}) ", answer)]


def held_mb(process) -> int:
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) // 1024


def test_headers_that_dribble_in_are_408_in_time(connect):
    slow = connect()
    slow.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n")
    began = time.monotonic()
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        while time.monotonic() - began < 3 * SECONDS:
            slow.sendall(b"X")
            time.sleep(0.1)
    answer = rest_of(slow)
    assert statuses(answer) in ([408], [])  # what is sent on a closed connection may reset it
    assert time.monotonic() - began < 4 * SECONDS


def test_headers_that_stop_midway_are_told_which_setting_it_was(ask):
    began = time.monotonic()
    answer = ask(b"GET /livez HTTP/1.1\r\nHost: lo")
    assert SECONDS / 2 < time.monotonic() - began < 4 * SECONDS
    assert statuses(answer) == [408]
    assert b"GMN_HEADER_TIMEOUT_S" in answer
    assert b"application/problem+json" in answer


def test_the_second_request_of_a_connection_has_no_more_time_than_the_first(connect):
    connection = connect()
    connection.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert b"200 OK" in connection.recv(65_536)
    began = time.monotonic()
    connection.sendall(b"GET /liv")
    rest_of(connection)
    assert time.monotonic() - began < 3 * SECONDS


def test_a_connection_that_says_nothing_is_closed(ask):
    began = time.monotonic()
    assert ask(b"") == b""
    assert time.monotonic() - began < 3 * SECONDS


@pytest.mark.parametrize("length", [b"Content-Length: 3000000", b"Transfer-Encoding: chunked"])
def test_a_body_that_dribbles_in_is_408_in_time(connect, length):
    connection = connect()
    connection.sendall(request(b"POST", CROPS.encode(), FORM[:-2], length))
    begun = PART[:-2]
    connection.sendall(b"%x\r\n%s\r\n" % (len(begun), begun) if b"chunked" in length else begun)
    began = time.monotonic()
    connection.setblocking(False)
    answer = b""
    while time.monotonic() - began < 6 * SECONDS and not answer:
        with contextlib.suppress(BlockingIOError, BrokenPipeError, ConnectionResetError):
            connection.send(b"1\r\nx\r\n" if b"chunked" in length else b"x")
        with contextlib.suppress(BlockingIOError):
            answer += connection.recv(65_536)
        time.sleep(0.05)
    assert statuses(answer) == [408]
    assert b"GMN_MIN_BODY_RATE" in answer


def test_a_body_after_its_answer_does_not_hold_the_connection(connect):
    connection = connect()
    connection.sendall(
        b"POST /v1/nothing HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n"
    )
    began = time.monotonic()
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        while time.monotonic() - began < 5 * SECONDS:
            connection.sendall(b"x")
            time.sleep(0.1)
    assert time.monotonic() - began < 4 * SECONDS


def test_a_flood_of_idle_connections_is_503_and_over_when_they_are(besieged, connect):
    before = held_mb(besieged.process)
    idle = [connect() for _ in range(150)]
    refused = rest_of(idle[-1])
    assert statuses(refused) == [503]
    assert b"Retry-After: 1" in refused
    assert b"GMN_MAX_CONNECTIONS" in refused
    until = time.monotonic() + 5 * SECONDS
    while True:
        with contextlib.suppress(Exception):
            if besieged.http.get("/livez").status_code == 200:
                break
        assert time.monotonic() < until
        time.sleep(0.1)
    assert held_mb(besieged.process) - before < 50


BROKEN = {
    "an answer": b"HTTP/1.1 200 OK\r\n\r\n",
    "HTTP/0.9": b"GET /livez\r\n",
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
    "a length below nothing": request(b"POST", CROPS.encode(), FORM[:-2], b"Content-Length: -1"),
    "a length with a sign": request(b"POST", CROPS.encode(), FORM[:-2], b"Content-Length: +9"),
    "a length in hex": request(b"POST", CROPS.encode(), FORM[:-2], b"Content-Length: 0x9"),
    "a length of 5,000 digits": request(
        b"POST", CROPS.encode(), FORM[:-2], b"Content-Length: " + b"9" * 5_000
    ),
    "two lengths": request(
        b"POST", CROPS.encode(), FORM[:-2], b"Content-Length: 9", b"Content-Length: 8"
    ),
    "two lengths in one": request(b"POST", CROPS.encode(), FORM[:-2], b"Content-Length: 9, 8"),
    "a length and chunks": request(
        b"POST",
        CROPS.encode(),
        FORM[:-2],
        b"Content-Length: 4",
        b"Transfer-Encoding: chunked",
        body=b"0\r\n\r\nGET /metrics HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    "chunks twice": request(
        b"POST",
        CROPS.encode(),
        FORM[:-2],
        b"Transfer-Encoding: chunked, chunked",
        body=b"0\r\n\r\n",
    ),
    "chunks that are no chunks": request(
        b"POST", CROPS.encode(), FORM[:-2], b"Transfer-Encoding: xchunked", body=b"0\r\n\r\n"
    ),
    "a chunk of -1": request(
        b"POST", CROPS.encode(), FORM[:-2], b"Transfer-Encoding: chunked", body=b"-1\r\nx\r\n"
    ),
    "a chunk of 30 digits": request(
        b"POST", CROPS.encode(), FORM[:-2], b"Transfer-Encoding: chunked", body=b"f" * 30 + b"\r\n"
    ),
    "a chunk's extension of 1 MB": request(
        b"POST",
        CROPS.encode(),
        FORM[:-2],
        b"Transfer-Encoding: chunked",
        body=b"1;" + b"a" * 1_000_000,
    ),
    "chunks that end wrongly": request(
        b"POST",
        CROPS.encode(),
        FORM[:-2],
        b"Transfer-Encoding: chunked",
        body=b"1\r\nxy\r\n0\r\n\r\n",
    ),
}


@pytest.mark.parametrize("sent", BROKEN.values(), ids=BROKEN)
def test_what_is_no_proper_request_is_the_clients_error(besieged, ask, sent):
    answer = ask(sent)
    found = statuses(answer)
    # What may be a request of its own may be answered before what follows is not.
    assert len(found) <= 2
    assert all(status in (200, 400, 403, 404, 408, 413, 415, 422, 431, 501) for status in found)
    if found and found[-1] != 200:
        problem = json.loads(answer.rpartition(b"\r\n\r\n")[2])
        assert "; " in problem["detail"]


def test_a_length_that_is_told_twice_is_400_and_nothing_follows(ask):
    answer = ask(BROKEN["a length and chunks"])
    assert statuses(answer) == [400]
    assert b"Transfer-Encoding; send one of the two" in answer
    assert b"gmn_http" not in answer


def test_requests_in_one_piece_are_answered_one_by_one(ask):
    first = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"
    assert statuses(ask(first * 20 + request(b"GET", b"/livez"))) == [200] * 21


def test_a_client_that_asks_first_is_told_to_go_on_or_not_to(connect):
    whole = PART + END
    length = b"Content-Length: %d" % len(whole)
    connection = connect()
    connection.sendall(request(b"POST", CROPS.encode(), FORM[:-2], length, b"Expect: 100-continue"))
    assert connection.recv(65_536).startswith(b"HTTP/1.1 100 ")
    connection.sendall(whole)
    assert statuses(rest_of(connection)) == [422]
    too_long = b"Content-Length: 99000000"
    connection = connect()
    connection.sendall(
        request(b"POST", CROPS.encode(), FORM[:-2], too_long, b"Expect: 100-continue")
    )
    assert connection.recv(65_536).startswith(b"HTTP/1.1 413 ")


NAMED = b'--b\r\nContent-Disposition: form-data; name="'
MULTIPART = {
    "no boundary": (b"multipart/form-data", PART + END),
    "an empty boundary": (b"multipart/form-data; boundary=", PART + END),
    "a boundary of 50,000": (b"multipart/form-data; boundary=" + b"b" * 50_000, PART + END),
    "another boundary": (b"multipart/form-data; boundary=c", PART + END),
    "two boundaries": (b"multipart/form-data; boundary=b; boundary=c", PART + END),
    "a boundary in the data": (b"multipart/form-data; boundary=b", PART[:-3] + b"--b" + PART),
    "no end": (b"multipart/form-data; boundary=b", PART),
    "nothing": (b"multipart/form-data; boundary=b", b""),
    "10,000 files": (b"multipart/form-data; boundary=b", PART * 10_000 + END),
    "10,000 fields": (
        b"multipart/form-data; boundary=b",
        (NAMED + b'identity"\r\n\r\nx\r\n') * 10_000 + END,
    ),
    "a value of 3 MB": (
        b"multipart/form-data; boundary=b",
        NAMED + b'identity"\r\n\r\n' + b"x" * 3_000_000 + END,
    ),
    "a name of 3 MB": (
        b"multipart/form-data; boundary=b",
        b'--b\r\nContent-Disposition: form-data; name="'
        + b"x" * 3_000_000
        + b'"\r\n\r\nx\r\n'
        + END,
    ),
    "300,000 headers of a part": (
        b"multipart/form-data; boundary=b",
        b"--b\r\n"
        + b"X-A: b\r\n" * 300_000
        + b'Content-Disposition: form-data; name="identity"\r\n\r\nx',
    ),
    "an unknown charset": (b"multipart/form-data; boundary=b; charset=nobodys", PART + END),
    "fields by ampersands": (b"application/x-www-form-urlencoded", b"identity=a&" * 200_000),
    "a field of 3 MB": (b"application/x-www-form-urlencoded", b"identity=" + b"%00" * 1_000_000),
    "a compressed body": (
        b"multipart/form-data; boundary=b\r\nContent-Encoding: gzip",
        b"\x1f\x8b",
    ),
}


@pytest.mark.parametrize(("kind", "body"), MULTIPART.values(), ids=MULTIPART)
def test_a_broken_form_is_the_clients_error_soon(besieged, ask, kind, body):
    before, began = held_mb(besieged.process), time.monotonic()
    answer = ask(
        request(
            b"POST",
            CROPS.encode(),
            b"Content-Type: " + kind,
            b"Content-Length: %d" % len(body),
            body=body,
        )
    )
    assert statuses(answer)[-1] in (400, 413, 415, 422), answer[:300]
    assert b"; " in answer
    assert time.monotonic() - began < 10
    assert held_mb(besieged.process) - before < 100


TEXTS = ["\0", "a\0b", "\x1b[31m", "n" * 257, "\u202e", "..", ".", "\n"]
METADATA = {
    "depth 100,000": "[" * 100_000,
    "objects 5,000 deep": '{"a":' * 5_000 + "1" + "}" * 5_000,
    "33 levels": '{"a":' * 33 + "1" + "}" * 33,
    "17 kB": json.dumps({"a": "x" * 17_000}),
    "500 kB": json.dumps({"a": "x" * 500_000}),
    "1e999": '{"a": 1e999}',
    "NaN": '{"a": NaN}',
    "an integer of 5,000 digits": '{"a": %s}' % ("9" * 5_000),
    "half of a surrogate pair": '{"a": "\\ud800"}',
    "no object": "[1]",
    "a string": '"a"',
    "twice": '{"a": 1}{"a": 2}',
}


@pytest.mark.parametrize("field", ["identity", "camera", "external_id"])
@pytest.mark.parametrize("text", TEXTS)
def test_a_name_that_is_none_is_422_and_the_field_named(besieged, drawn_crops, field, text):
    answer = besieged.enroll("default", drawn_crops[0].png, **{field: text})
    assert answer.status_code == 422
    assert answer.json()["detail"].startswith(f"{field}: ")


@pytest.mark.parametrize("text", METADATA.values(), ids=METADATA)
def test_metadata_that_cannot_be_kept_is_422_and_its_limits_named(besieged, drawn_crops, text):
    answer = besieged.enroll("default", drawn_crops[0].png, metadata=text)
    assert answer.status_code == 422
    assert answer.json()["detail"].startswith("metadata: ")
    assert "16,384 bytes and 32 levels" in answer.json()["detail"]


@pytest.mark.parametrize("field", ["top_k", "rerank_depth", "min_version"])
@pytest.mark.parametrize(
    "number", ["1e999", "NaN", "-1", "9" * 5_000, "١٢", "0x10", "", "1.5", " "]
)
def test_a_number_that_is_none_is_422_and_the_field_named(besieged, drawn_crops, field, number):
    answer = besieged.query("default", drawn_crops[0].png, **{field: number})
    assert answer.status_code in ((200, 422) if number in ("", "١٢") else (422,))
    if answer.status_code == 422:
        assert field in answer.json()["detail"]
        assert len(answer.text) < 2_000


@pytest.mark.parametrize(
    "path",
    [
        "/v1/galleries/%00",
        "/v1/galleries/%ff%fe",
        "/v1/galleries/%ED%A0%80/crops",
        "/v1/galleries/default/crops/%00/image",
        "/v1/galleries/default/crops/..%2f..%2f..%2fetc%2fpasswd/image",
        "/v1/galleries/default/crops?identity=%ED%A0%80&camera=%00&external_id=%FF",
        "/v1/galleries/default/crops?cursor=" + "9" * 5_000,
        "/v1/galleries/default/crops?limit=" + "9" * 5_000,
        "/v1/galleries/default/identities?cursor=%00%ff",
        "/v1/galleries/default/identities/" + "n" * 20_000,
        "/v1/jobs/%00",
        "/v1/jobs?gallery=%00",
        "/v1/galleries/default/snapshots/..%2f..%2fx",
        "/v1/model?gallery_size=1e999",
        "/assets/..%2f..%2fsettings.py",
        "/assets/%2e%2e/%2e%2e/settings.py",
        "/docs/assets/%00",
        "//etc/passwd",
        "/" + "a/" * 10_000,
    ],
)
def test_an_odd_path_or_query_is_the_clients_error(besieged, path):
    for method in ("GET", "DELETE"):
        answer = besieged.http.request(method, path)
        assert answer.status_code in (200, 404, 405, 422), answer.text
        assert b"root:" not in answer.content
        assert b"class Settings" not in answer.content


@pytest.mark.parametrize(
    "key", ["", "a b", "n" * 10_000, "é".encode(), b"\xff", "k" * 256, "../..", "'; --"]
)
def test_an_odd_idempotency_key_is_taken_as_it_is_or_refused(besieged, drawn_crops, key):
    url, images = CROPS, files(drawn_crops[0].png)
    answer = besieged.http.post(url, files=images, headers={"Idempotency-Key": key})
    assert answer.status_code in (201, 422), answer.text
    if answer.status_code == 422:
        assert "idempotency-key: " in answer.json()["detail"]


@pytest.mark.parametrize(
    "asked", ["bytes=0-0", "bytes=-1", "bytes=5-1", "bytes=0-9999999999999", "x=1", "bytes=a-b"]
)
def test_a_range_of_an_image_is_a_part_or_the_whole(besieged, drawn_crops, asked):
    crop = besieged.enroll("default", drawn_crops[0].png).json()["results"][0]["crop_id"]
    many = ",".join([asked, *["bytes=0-1"] * 2_000])
    for ranges in (asked, many):
        url = f"{CROPS}/{crop}/image"
        answer = besieged.http.get(url, headers={"Range": ranges})
        assert answer.status_code in (200, 206, 416)
        assert len(answer.content) <= len(drawn_crops[0].png)
