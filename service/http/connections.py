"""Connections within bounds: how many, and how slowly one may send its headers or take answers."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import sys
from typing import ClassVar

import h11
from uvicorn.protocols.http.h11_impl import STATUS_PHRASES, H11Protocol

from service.http.problems import MEDIA_TYPE, problem
from service.settings import Settings

log = logging.getLogger(__name__)
LEAST_TAKEN_BYTES = 48 * 1024
# `tcpi_bytes_acked` of `struct tcp_info`, linux/tcp.h, since Linux 4.1.
BYTES_ACKED = slice(120, 128)


class BoundedConnection(H11Protocol):
    """Uvicorn's HTTP/1.1, which by itself waits for ever; see `bounded_connections`.

    The time runs while the next request's headers are awaited, and while the rest of a body is
    that nobody wants any more because its answer has been sent. Another runs while the client does
    not take what is ready for it.
    """

    header_timeout_s: ClassVar[float]
    send_timeout_s: ClassVar[float]
    max_connections: ClassVar[int]
    _running_out: asyncio.TimerHandle | None = None
    _untaken: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """One more; beyond the limit it is told so and closed."""
        super().connection_made(transport)
        if len(self.connections) > self.max_connections:
            self._answer_and_close(
                503,
                "too_many_connections",
                f"there are {self.max_connections} connections already; come again in 1 s, or "
                "raise GMN_MAX_CONNECTIONS",
            )
        self._watch()

    def data_received(self, data: bytes) -> None:
        """What has come; whatever cannot be read as HTTP ends the connection."""
        if self.transport.is_closing():
            return
        if not self.transport.get_write_buffer_size():
            self._all_taken()
        try:
            super().data_received(data)
        except (h11.ProtocolError, ValueError) as error:
            # A length of thousands of digits, or a broken body after its answer has begun.
            log.warning("a connection was closed: %s", type(error).__name__)
            self.send_400_response("")
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone."""
        self._stop_watching()
        self._all_taken()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """64 KiB wait to be taken, and the answer's rest with them."""
        super().pause_writing()
        self._until_taken()

    def resume_writing(self) -> None:
        """Most of them were taken."""
        self._all_taken()
        super().resume_writing()

    def on_response_complete(self) -> None:
        """An answer has been sent; the next request may come."""
        super().on_response_complete()
        self._until_taken()
        self._watch()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002
        """Says that this was no HTTP, in the service's words, unless an answer is on its way."""
        self._answer_and_close(
            400,
            "bad_request",
            "what was sent is no request of HTTP/1.1, or its headers are over 64 KiB; send it as "
            "a common HTTP client does",
        )

    def _watch(self) -> None:
        answered = self.cycle is None or self.cycle.response_complete
        awaited = self.conn.their_state is h11.IDLE or (
            answered and self.conn.their_state is h11.SEND_BODY
        )
        if not awaited or self.transport.is_closing():
            self._stop_watching()
        elif self._running_out is None:
            self._running_out = self.loop.call_later(self.header_timeout_s, self._close_late)

    def _stop_watching(self) -> None:
        if self._running_out is not None:
            self._running_out.cancel()
            self._running_out = None

    def _until_taken(self) -> None:
        if self._untaken is None and self.transport.get_write_buffer_size():
            taken = acknowledged_bytes(self.transport)
            self._untaken = self.loop.call_later(self.send_timeout_s, self._judge, taken)

    def _all_taken(self) -> None:
        if self._untaken is not None:
            self._untaken.cancel()
            self._untaken = None

    def _judge(self, before: int) -> None:
        self._untaken = None
        taken = acknowledged_bytes(self.transport) - before
        if taken >= LEAST_TAKEN_BYTES:
            self._until_taken()
        elif left := self.transport.get_write_buffer_size():
            log.warning(
                "a connection was dropped: its client took %d bytes within GMN_SEND_TIMEOUT_S=%g, "
                "and %d are left",
                taken,
                self.send_timeout_s,
                left,
            )
            # To close it would wait for the client.
            self.transport.abort()

    def _close_late(self) -> None:
        if self.conn.their_state is h11.IDLE and self.conn.trailing_data[0]:
            self._answer_and_close(
                408,
                "headers_too_slow",
                f"the request's headers did not arrive within {self.header_timeout_s:g} s; send "
                "it again, or raise GMN_HEADER_TIMEOUT_S",
            )
        else:
            self.transport.close()

    def _answer_and_close(self, status: int, code: str, detail: str) -> None:
        answering = self.cycle is not None and not self.cycle.response_complete
        if not answering or not self.cycle.response_started:
            document = problem(code, detail, status).model_dump(mode="json", exclude_none=True)
            body = json.dumps(document).encode()
            head = [
                f"HTTP/1.1 {status} {STATUS_PHRASES[status].decode()}",
                f"Content-Type: {MEDIA_TYPE}",
                f"Content-Length: {len(body)}",
                *(["Retry-After: 1"] if status == 503 else []),
                "Connection: close",
            ]
            self.transport.write("\r\n".join([*head, "", ""]).encode() + body)
            self._until_taken()
        self.transport.close()


def acknowledged_bytes(transport: asyncio.BaseTransport) -> int:
    """How much the client's machine has taken so far; 0 where the system does not tell.

    What a transport still holds tells less: megabytes that it is rid of may wait in the kernel.
    """
    connection, name = transport.get_extra_info("socket"), getattr(socket, "TCP_INFO", None)
    if connection is None or name is None:
        return 0
    try:
        told = connection.getsockopt(socket.IPPROTO_TCP, name, BYTES_ACKED.stop)
    except OSError:
        return 0
    return int.from_bytes(told[BYTES_ACKED], sys.byteorder)


def bounded_connections(settings: Settings) -> type[BoundedConnection]:
    """What Uvicorn shall make of every connection."""

    class Bounded(BoundedConnection):
        header_timeout_s = settings.header_timeout_s
        send_timeout_s = settings.send_timeout_s
        max_connections = settings.max_connections

    return Bounded
