"""Limits of connections, of request bodies and of answers.

Connections are limited in number and in idle time, and event streams in number per key. Bodies are
limited in size and by a minimum rate, and must be complete. Bodies and answers are limited in the
memory that all of them take.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from socket import IPPROTO_TCP, TCP_USER_TIMEOUT
from tempfile import gettempdir
from typing import Any, TypeVar, cast

import h11
from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from service.errors import InvalidField, StorageFailed, TooManyRequests, machine_error
from service.http.forms import Form
from service.http.multipart import (
    MOST_FIELDS,
    ArchiveForm,
    read_form,
    read_url_encoded,
    require_short_text,
    skip_preamble,
    takes_long,
)
from service.ops.data_directory import MEBIBYTE, require_free_disk
from service.runtime import Call

MULTIPART = b"multipart/form-data"
FORMS = (MULTIPART, b"application/x-www-form-urlencoded")
# Limits of a form whose only file is written to disk while it arrives, except for its first MiB.
ARCHIVE_PARTS = {"max_files": 1, "max_fields": 8, "max_part_size": 16 * 1024}
ARCHIVE_MEMORY_BYTES = MEBIBYTE + ARCHIVE_PARTS["max_fields"] * ARCHIVE_PARTS["max_part_size"]
# Reserve for files other than connections, and for connections accepted in one turn of the loop.
OTHER_FILES = 100
# Further connections get a refusal rather than silence, at the cost of some memory.
REFUSED_PER_SERVED = 3
# Maximum number of event streams and uploads of archives per key and process.
MOST_STREAMS = 8
# Proxies close a connection after about a minute without data.
KEEP_ALIVE_SECONDS = 15.0
# A piece of a body costs the event loop 10 µs, even if it has one byte. A body may come in this
# number of pieces, and one more for each `LEAST_PIECE_BYTES`.
MOST_PIECES = 1000
LEAST_PIECE_BYTES = 64
# Limit on the request line with the headers, and on the header Content-Type.
MOST_HEAD_BYTES = 65_536
MOST_TYPE_CHARACTERS = 1024
# Smaller answers do not count towards the memory limit.
SMALL_ANSWER_BYTES = 256 * 1024
# A client that reads nothing of its answer for this long is considered gone.
SEND_SECONDS = 60.0
# After an answer that did not wait for the body, the rest of it is read and dropped up to these
# limits.
LINGERING_SECONDS = 2.0
MOST_LINGERING_BYTES = 16 * MEBIBYTE
# Keys in the state of a connection: one that is set beyond the limit, and the address at the other
# end, which behind a proxy is not that of the client.
CROWDED = "crowded"
PEER = "peer"
# Status in the log of a request whose client did not wait for the answer.
CLIENT_LEFT = 499
Handler = Callable[[Request], Coroutine[Any, Any, Response]]
Parsed = TypeVar("Parsed")


async def hold_stream(request: Request) -> AsyncIterator[None]:
    """Count an event stream or an upload of a key until it ends; a dependency of a stream's route.

    Raises:
        TooManyRequests: the key holds `MOST_STREAMS` already.
    """
    call: Call = request.state.call
    streams = call.runtime.streams
    key_id = call.caller.key_id
    if streams[key_id] >= MOST_STREAMS:
        raise TooManyRequests(
            key_id,
            f"hold {MOST_STREAMS} event streams and uploads of this process",
            "end one of them",
            retry_after_s=1,
        )
    streams[key_id] += 1
    try:
        yield
    finally:
        streams -= Counter([key_id])


class FormRequest(Request):
    """A request whose form is received within limits; data must arrive every `body_timeout_s`.

    Its bytes in memory count from arrival until release, towards a limit for all callers and one
    for each. A caller may hold half of the total, or a single body of maximum size if that is more.
    """

    def __init__(self, request: Request, call: Call, form: type[Form]) -> None:
        """Start receiving; raises 415, and 413 or 429 if the announced length is too large."""
        super().__init__(request.scope, self._receive_in_time)
        self._source = request.receive
        self._call = call
        self._settings = call.runtime.settings
        self._never_empty = form.never_empty
        self._single_fields = form.single_fields()
        self._file_fields = form.file_fields()
        _require_no_encoding(request)
        content_type = request.headers.get("content-type", "")
        # Parsing takes a microsecond for each parameter, so a long header is cut off first.
        kind, parameters = parse_options_header(content_type[:MOST_TYPE_CHARACTERS])
        # Starlette would decode text in another encoding as UTF-8 or Latin-1.
        in_utf_8 = parameters.get(b"charset", b"utf-8").lower() == b"utf-8"
        if content_type and not (
            kind in FORMS and in_utf_8 and len(content_type) <= MOST_TYPE_CHARACTERS
        ):
            raise HTTPException(
                415,
                f"the body is {content_type[:80]!r}; send multipart/form-data in UTF-8, images as "
                "files",
            )
        self._kind = kind
        # A file written to disk while it arrives is not held in memory.
        self._to_disk = form.to_disk and kind == MULTIPART
        self._boundary = parameters.get(b"boundary", b"")
        self._waited = 0.0
        self._received = 0
        self._separators = 0
        self._takes_long = False
        self._held = 0
        self._whole = asyncio.Event()
        self._require_room(int(request.headers.get("content-length", 0)))

    def _require_room(self, size: int) -> int:
        """Return the bytes that a body of this size adds to memory; raises 413 and 429."""
        max_bytes = self._settings.max_body_bytes
        in_memory = size
        subject = "request's body"
        remedy = "fewer images in one request, or raise GMN_MAX_BODY_BYTES"
        if self._to_disk:
            in_memory = min(size, max_bytes, ARCHIVE_MEMORY_BYTES)
            max_bytes = self._settings.max_import_bytes
            subject = "archive"
            remedy = "several, or raise GMN_MAX_IMPORT_BYTES"
        if size > max_bytes:
            raise HTTPException(
                413, f"the {subject} is over the limit of {max_bytes:,} bytes; send {remedy}"
            )
        more = in_memory - self._held
        _require_memory(self._call, more, "this body")
        return more

    async def _receive_in_time(self) -> Message:
        """Return the next piece of the body; raises 408, 413, 429 and 507."""
        if self._whole.is_set():
            return await self._source()
        # Count only the time spent waiting, not the time in which the service handles the data.
        timeout_s = self._settings.body_timeout_s
        rate = self._settings.min_body_rate
        remaining_s = timeout_s + self._received / rate - self._waited
        began = time.monotonic()
        try:
            async with asyncio.timeout(max(0.0, min(timeout_s, remaining_s))):
                message = await self._source()
        except TimeoutError as error:
            detail = (
                f"nothing more of the request's body arrived for {timeout_s:g} s, or less than "
                f"{rate:,} bytes a second; send it again, or set GMN_BODY_TIMEOUT_S and "
                "GMN_MIN_BODY_RATE"
            )
            raise HTTPException(408, detail, {"Connection": "close"}) from error
        self._waited += time.monotonic() - began
        if not message.get("more_body", False):
            self._whole.set()
            self.state.received = time.perf_counter()
        before = self._received
        self._received += len(message.get("body", b""))
        more = self._require_room(self._received)
        if self._kind != MULTIPART:
            require_short_text("body", self._received)
            # Empty fields count here alone.
            self._separators += message.get("body", b"").count(b"&")
            if self._separators > MOST_FIELDS:
                raise InvalidField(f"body: has more than {MOST_FIELDS:,} fields; send fewer")
        if self._to_disk and before // MEBIBYTE < self._received // MEBIBYTE:
            # The folder for uploads may be on the disk that has space reserved for deletions.
            require_free_disk(self._settings)
        self._call.runtime.held_bytes[self._call.caller.key_id] += more
        self._held += more
        return message

    async def answered_by(self, answer: Handler) -> Response:
        """Answer the request, unless its client leaves first, and release its bytes.

        Raises:
            TooManyRequests: it would be one upload too many of its key.
        """
        working = cast("asyncio.Task[Response]", asyncio.current_task())
        async with contextlib.AsyncExitStack() as upload:
            if self._to_disk:
                hold = contextlib.asynccontextmanager(hold_stream)
                await upload.enter_async_context(hold(self))
            leaving = asyncio.create_task(self._cancel_when_left(working))
            try:
                return await answer(self)
            except asyncio.CancelledError:
                if not leaving.done():
                    raise
                working.uncancel()
                return Response(status_code=CLIENT_LEFT)
            finally:
                leaving.cancel()
                release(self._call, self._held)

    async def _cancel_when_left(self, working: asyncio.Task[Response]) -> None:
        await self._whole.wait()
        while (await self._source())["type"] != "http.disconnect":
            pass
        working.cancel()

    async def form(self, **_: Any) -> FormData:  # type: ignore[override]
        """Return the fields that were sent.

        Raises:
            InvalidField: too many images, boxes or vectors, an empty filter, or a repeated field.
        """
        # The base class closes this form.
        self._form = form = await self._receive_form()
        counts = Counter(name for name, _ in form.multi_items())
        for name, count in counts.items():
            # Without a list of values, all but the last would be lost.
            if count > 1 and name in self._single_fields:
                raise InvalidField(f"{name}: was sent several times; send it once")
        most = self._settings.max_images_per_request
        # Each box of a frame counts as an image.
        for name in ("images", "boxes", "vector"):
            if counts[name] > most:
                raise InvalidField(
                    f"{name}: {counts[name]} were sent, a request may have {most}; send several "
                    "requests, or raise GMN_MAX_IMAGES_PER_REQUEST"
                )
        if self._call.caller.rate_images:
            await self._call.runtime.keys.require_rate(
                self._call.caller, max(counts["images"], counts["boxes"])
            )
        # `/docs` sends all fields of a form, the omitted ones empty. In other requests an empty
        # field is probably a mistake, such as an unset variable.
        if not self._never_empty <= form.keys():
            for name, value in form.multi_items():
                if value == "" and name in self._never_empty:
                    raise InvalidField(f"{name}: is empty; send a value, or leave the field out")
        return form

    async def _receive_form(self) -> FormData:
        try:
            async with contextlib.aclosing(self.stream()) as pieces:
                if self._to_disk:
                    return await self._receive_archive(pieces)
                body = bytearray()
                async for piece in pieces:
                    body += piece
            if self._kind == MULTIPART:
                self._takes_long = takes_long(body, self._boundary)
                return await self.parse(read_form, body, self._boundary, self._file_fields)
            # Without a Content-Type nothing was sent that could be read.
            fields = body if self._kind else bytearray()
            self._takes_long = takes_long(fields, b"&")
            return await self.parse(read_url_encoded, fields)
        except MultiPartException as error:
            raise HTTPException(400, error.message) from error
        except OSError as error:
            if failure := machine_error(error):
                raise failure from error
            raise StorageFailed(
                f"the body could not be written to {gettempdir()} ({error.strerror}); nothing "
                "was stored, free space there, or set TMPDIR, and send it again"
            ) from error

    async def _receive_archive(self, pieces: AsyncGenerator[bytes, None]) -> FormData:
        async with contextlib.aclosing(skip_preamble(pieces, self._boundary)) as stream:
            parser = ArchiveForm(self.headers, stream, **ARCHIVE_PARTS)
            parser.file_fields = self._file_fields
            return await parser.parse()

    async def parse(self, parser: Callable[..., Parsed], /, *arguments: Any) -> Parsed:
        """Return what a parser reads from the body, in a thread if the form takes long.

        Callers take turns on these threads, so that the long forms of one do not delay others.
        """
        if self._takes_long:
            return await self._call.runtime.pools.forms.run(parser, *arguments)
        return parser(*arguments)


def hold_answer(request: Request, size: int) -> None:
    """Count an answer towards the limit on bytes in memory until it is sent.

    Small answers do not count, because each connection has at most one.

    Args:
        size: bytes of the answer, or a lower estimate that a later call replaces.

    Raises:
        HTTPException: it would exceed the limit of all callers or of this one.
    """
    more = size - getattr(request.state, "answer_bytes", 0)
    if size > SMALL_ANSWER_BYTES and more > 0:
        call: Call = request.state.call
        _require_memory(call, more, "this answer")
        call.runtime.held_bytes[call.caller.key_id] += more
        request.state.answer_bytes = size


def _require_memory(call: Call, more: int, what: str) -> None:
    settings = call.runtime.settings
    held = call.runtime.held_bytes
    most_held = settings.max_queued_bytes
    most_of_caller = max(settings.max_body_bytes, most_held // 2)
    if held.total() + more > most_held or held[call.caller.key_id] + more > most_of_caller:
        raise HTTPException(
            429,
            f"{what} and those being received or sent would exceed {most_held:,} bytes, or "
            f"{most_of_caller:,} of one caller; send the request again in 1 s, or raise "
            "GMN_MAX_QUEUED_BYTES",
            {"Retry-After": "1"},
        )


def release(call: Call, size: int) -> None:
    # Subtraction drops callers that hold nothing.
    call.runtime.held_bytes -= Counter({call.caller.key_id: size})


def _require_no_encoding(request: Request) -> None:
    """Raise 415 if a body is compressed, as the limits are for uncompressed bytes."""
    sent = ", ".join(request.headers.getlist("content-encoding")).lower()
    encodings = {encoding.strip() for encoding in sent.split(",")} - {"", "identity"}
    if encodings:
        named = ", ".join(sorted(encodings))[:80]
        raise HTTPException(
            415,
            f"the body has the Content-Encoding {named!r}, which this service does not decode; "
            "send it uncompressed, without that header",
        )


class BodyInPieces(h11.Connection):
    """Parses requests, and refuses a body in too many small pieces."""

    _pieces_left = 0.0

    def next_event(self) -> Any:
        event = super().next_event()
        if isinstance(event, h11.Request):
            self._pieces_left = MOST_PIECES
        elif isinstance(event, h11.Data):
            self._pieces_left += len(event.data) / LEAST_PIECE_BYTES - 1
            if self._pieces_left < 0:
                raise h11.RemoteProtocolError("the body comes in too many small pieces")
        return event


class LingeringTransport:
    """A transport that reads on for a moment after an answer that did not wait for the body.

    If the socket was closed at once, the rest of the body would be answered by a reset, for which
    proxies and clients drop the answer (RFC 9112, section 9.6).
    """

    def __init__(
        self, transport: asyncio.Transport, has_answered_early: Callable[[], bool]
    ) -> None:
        self._transport = transport
        self._has_answered_early = has_answered_early
        self._bytes_left = MOST_LINGERING_BYTES
        self.is_lingering = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def close(self) -> None:
        if self.is_lingering or self._transport.is_closing() or not self._has_answered_early():
            self._transport.close()
            return
        self.is_lingering = True
        try:
            self._transport.write_eof()
        except OSError:
            # The client has reset the connection.
            self._transport.close()
        else:
            loop = asyncio.get_running_loop()
            loop.call_later(LINGERING_SECONDS, self._transport.close)

    def drop(self, data: bytes) -> None:
        self._bytes_left -= len(data)
        if self._bytes_left < 0:
            self._transport.close()


# The methods of the class count as one function with it.
def bounded_connections(  # noqa: C901
    limit: int, silent_seconds: float
) -> type[asyncio.Protocol]:
    """Return a server protocol that keeps clients from exhausting the process's file descriptors.

    Args:
        limit: connections that are served. Requests on further ones are answered 503, and beyond
            that connections are closed at once.
        silent_seconds: time after which a connection is closed whose first or next request has not
            come as a whole. Between two requests a connection may be idle for longer.
    """
    # Raise the soft limit to the hard limit of the process.
    _, files = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    most_open = (1 + REFUSED_PER_SERVED) * limit
    if files != resource.RLIM_INFINITY:
        most_open = min(most_open, files - OTHER_FILES)

    class BoundedConnection(H11Protocol):
        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            self._lingering = LingeringTransport(transport, self._has_answered_early)
            super().connection_made(cast("asyncio.Transport", self._lingering))
            # Otherwise a client that reads nothing would keep its connection for ever.
            own_socket = transport.get_extra_info("socket")
            own_socket.setsockopt(IPPROTO_TCP, TCP_USER_TIMEOUT, int(SEND_SECONDS * 1000))
            self.conn = BodyInPieces(h11.SERVER, MOST_HEAD_BYTES)
            host, *_ = transport.get_extra_info("peername") or ("",)
            self.app_state = {**self.app_state, PEER: host}
            self._closing: asyncio.TimerHandle | None = None
            self._await_request()
            if len(self.connections) > most_open:
                transport.abort()
            elif len(self.connections) > limit:
                self.app_state = {**self.app_state, CROWDED: True}

        def connection_lost(self, error: Exception | None) -> None:
            self._await_nothing()
            super().connection_lost(error)

        def _has_answered_early(self) -> bool:
            is_answered = self.cycle is not None and self.cycle.response_complete
            return is_answered and self.conn.their_state is h11.SEND_BODY

        def data_received(self, data: bytes) -> None:
            if self._lingering.is_lingering:
                self._lingering.drop(data)
                return
            if self._closing is None:
                self._await_request()
            super().data_received(data)

        def on_response_complete(self) -> None:
            self._await_nothing()
            # The next request may have begun to arrive behind the body of this one.
            if self.conn.trailing_data[0]:
                self._await_request()
            super().on_response_complete()

        def send_400_response(self, msg: str) -> None:
            if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
                super().send_400_response(msg)
            else:
                self.transport.abort()

        def _await_nothing(self) -> None:
            if self._closing is not None:
                self._closing.cancel()
                self._closing = None

        def _await_request(self) -> None:
            self._closing = self.loop.call_later(silent_seconds, self._close_after, self.cycle)

        def _close_after(self, last: RequestResponseCycle | None) -> None:
            if self.cycle is last:
                self.transport.close()

    return BoundedConnection
