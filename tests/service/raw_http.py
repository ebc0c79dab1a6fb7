"""Bytes of our own over sockets of our own, to a service with narrow limits."""

import contextlib
import re
import socket
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.waiting import LONGEST_SECONDS, eventually

CROPS = "/v1/galleries/default/crops"
FORM = b"Content-Type: multipart/form-data; boundary=b\r\n"
PART = b'--b\r\nContent-Disposition: form-data; name="images"; filename="a"\r\n\r\nx\r\n'
END = b"--b--\r\n"
SECONDS = 2
CHUNKED = b"Transfer-Encoding: chunked"


@pytest.fixture(scope="module")
def besieged(start):
    running = start(
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
    address = urlsplit(str(besieged.http.base_url))
    with contextlib.ExitStack() as opened:

        def one():
            place = (address.hostname, address.port)
            return opened.enter_context(socket.create_connection(place, LONGEST_SECONDS))

        yield one
    # The connections of this test must not count for the next one.
    eventually(lambda: besieged.http.get("/v1/galleries").status_code != 503)


@pytest.fixture
def ask(connect):
    def send(*parts):
        connection = connect()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for part in parts:
                connection.sendall(part)
        return rest_of(connection)

    return send


def rest_of(connection):
    answer = b""
    with contextlib.suppress(ConnectionResetError):
        while part := connection.recv(65_536):
            answer += part
    return answer


def request(method, path, *headers, body=b""):
    lines = [method + b" " + path + b" HTTP/1.1", b"Host: localhost", b"Connection: close"]
    return b"\r\n".join([*lines, *headers, b"", body])


def statuses(answer):
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", answer)]


def held_mb(process):
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) // 1024
