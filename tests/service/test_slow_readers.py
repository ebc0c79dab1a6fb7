"""Clients that take their answers slowly, or not at all."""

from __future__ import annotations

import time

from tests.service.raw_http import SECONDS, besieged, connect, rest_of, statuses
from tests.waiting import eventually

__all__ = ["besieged", "connect"]

# Thirty megabytes of answers: far more than the kernel takes for a client that does not read.
ASKED = 200
LAST = b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
DOCUMENTS = b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n" * ASKED + LAST
DROPPED = "bytes within GMN_SEND_TIMEOUT_S=2, and "


def test_who_takes_nothing_is_dropped_in_time(besieged, connect):
    connection = connect()
    connection.sendall(DOCUMENTS)
    eventually(lambda: DROPPED in besieged.log.read_text(), 10 * SECONDS)
    answered = statuses(rest_of(connection))
    assert set(answered) == {200}
    assert len(answered) < ASKED


def test_who_takes_it_slowly_has_all_of_it(besieged, connect):
    before = besieged.log.read_text().count(DROPPED)
    connection = connect()
    connection.sendall(DOCUMENTS)
    began, answer = time.monotonic(), b""
    while time.monotonic() - began < 3 * SECONDS:
        answer += connection.recv(65_536)
        time.sleep(0.1)
    answer += rest_of(connection)
    assert statuses(answer) == [200] * (ASKED + 1)
    assert besieged.log.read_text().count(DROPPED) == before


def test_those_who_take_nothing_do_not_keep_others_out(besieged, connect):
    idle = [connect() for _ in range(55)]
    for connection in idle:
        connection.sendall(DOCUMENTS)
    eventually(lambda: besieged.log.read_text().count(DROPPED) >= len(idle), 20 * SECONDS)
    assert besieged.http.get("/livez").status_code == 200
