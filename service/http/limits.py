"""Limits of connections and of request bodies.

Of connections: how many are answered, and how long one may stay silent. Of bodies: the size of one,
the bytes in memory of all, a minimum rate, a whole form.
"""

from __future__ import annotations

import asyncio
import resource
import time
from collections import Counter
from collections.abc import AsyncGenerator

from starlette.datastructures import FormData, Headers
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request
from starlette.types import Message
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from service.errors import InvalidField
from service.ops.data_directory import MEBIBYTE, require_free_disk
from service.settings import Settings

# Limits of a form whose one file goes to the disk as it arrives, but for its first MiB.
ARCHIVE_PARTS = {"max_files": 1, "max_fields": 8, "max_part_size": 16 * 1024}
ARCHIVE_MEMORY_BYTES = MEBIBYTE + ARCHIVE_PARTS["max_fields"] * ARCHIVE_PARTS["max_part_size"]
# Bytes of all texts of a form, which are checked on the event loop: 200 images may bring metadata.
MAX_FORM_TEXT_BYTES = 4 * MEBIBYTE
# Files that are not connections, and connections accepted in one turn of the event loop.
OTHER_FILES = 100
# A refusal is better than silence, and costs memory.
REFUSED_PER_SERVED = 3
# Key in the state of a connection that exceeds the limit.
CROWDED = "crowded"


class BodyLimits:
    """The limits of all bodies, and the bytes of them in memory; lives on the event loop.

    Bytes count from their arrival until the answer begins, for all callers together and for each:
    one caller holds half of them at most, or one whole body if that is more.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._max_bytes_of_caller = max(settings.max_body_bytes, settings.max_queued_bytes // 2)
        self._held: Counter[str] = Counter()

    def require_room(self, caller: str, more: int) -> None:
        """Raise 429 where `more` bytes of a caller do not fit into memory."""
        most = self.settings.max_queued_bytes
        own = self._held[caller] + more
        if self._held.total() + more > most or own > self._max_bytes_of_caller:
            raise HTTPException(
                429,
                f"this body and those being received would exceed {most:,} bytes, or "
                f"{self._max_bytes_of_caller:,} of one caller; send it again in 1 s, or raise "
                "GMN_MAX_QUEUED_BYTES",
                {"Retry-After": "1"},
            )

    def hold(self, caller: str, more: int) -> None:
        """Count bytes that have arrived, or are released if `more` is negative; may raise 429."""
        if more > 0:
            self.require_room(caller, more)
        self._held[caller] += more
        # Forget callers that hold nothing.
        self._held = +self._held


class Body:
    """One body, received within its limits: some of it every `body_timeout_s`, later at a rate.

    Attributes:
        parts: limits of the parts of a form, as `Request.form` takes them.
        spool_bytes: a file of a form is in memory up to this size.
    """

    def __init__(self, request: Request, limits: BodyLimits, to_disk: bool, caller: str) -> None:
        """Begin to receive; 413 and 429 are raised where the announced length suffices for it.

        Args:
            to_disk: whether its one file goes to the disk as it arrives; else all is in memory.
        """
        self._receive = request.receive
        self._state = request.state
        self._limits = limits
        self._to_disk = to_disk
        self._caller = caller
        self._waited = 0.0
        self._received = self._held = 0
        self._whole = asyncio.Event()
        settings = limits.settings
        self._max_bytes = settings.max_import_bytes if to_disk else settings.max_body_bytes
        in_memory = ARCHIVE_MEMORY_BYTES if to_disk else self._max_bytes
        self._max_memory_bytes = min(in_memory, settings.max_body_bytes)
        self.parts = ARCHIVE_PARTS if to_disk else {}
        self.spool_bytes = MEBIBYTE if to_disk else self._max_bytes
        length = request.headers.get("content-length", "")
        announced = int(length) if length.isdecimal() else 0
        self._require_size(announced)
        limits.require_room(caller, min(announced, self._max_memory_bytes))

    def _require_size(self, size: int) -> None:
        if size > self._max_bytes:
            what = "request's body"
            remedy = "fewer images in one request, or raise GMN_MAX_BODY_BYTES"
            if self._to_disk:
                what = "archive"
                remedy = "several, or raise GMN_MAX_IMPORT_BYTES"
            detail = f"the {what} is over the limit of {self._max_bytes:,} bytes; send {remedy}"
            raise HTTPException(413, detail)

    async def receive(self) -> Message:
        """Return the next piece; 408, 413, 429 and 507 are raised where the body is awaited."""
        if self._whole.is_set():
            return await self._receive()
        # Only waiting counts, not the time in which the service works on the received bytes.
        settings = self._limits.settings
        timeout_s = settings.body_timeout_s
        rate = settings.min_body_rate
        left = timeout_s + self._received / rate - self._waited
        began = time.monotonic()
        try:
            async with asyncio.timeout(max(0.0, min(timeout_s, left))):
                message = await self._receive()
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
            self._state.received = time.perf_counter()
        before = self._received
        self._received = self._received + len(message.get("body", b""))
        self._require_size(self._received)
        if self._to_disk and before // MEBIBYTE < self._received // MEBIBYTE:
            # The folder for uploads may be on the disk whose rest is kept for deletions.
            require_free_disk(settings)
        more = min(self._received, self._max_memory_bytes) - self._held
        self._limits.hold(self._caller, more)
        self._held += more
        return message

    async def disconnected(self) -> None:
        await self._whole.wait()
        while (await self._receive())["type"] != "http.disconnect":
            pass

    def release(self) -> None:
        self._limits.hold(self._caller, -self._held)
        self._held = 0


def require_short_text(field: str, size: int) -> None:
    """Raise `InvalidField` where the texts of a form, up to a field, are too long together."""
    if size > MAX_FORM_TEXT_BYTES:
        raise InvalidField(
            f"{field[:40]}: with it the texts of this form have more than {MAX_FORM_TEXT_BYTES:,} "
            "bytes, which is the limit for all of them; send less text, or several requests"
        )


class WholeForm(MultiPartParser):
    """Parses a multipart form that has arrived whole and is in UTF-8.

    The framework alone drops a part that was cut off, reads other text as Latin-1, and writes
    files to the disk that count as memory.
    """

    _ended = False
    _text_bytes = 0

    def __init__(self, headers: Headers, stream: AsyncGenerator[bytes], body: Body) -> None:
        super().__init__(headers, stream, **body.parts)
        self.spool_max_size = body.spool_bytes

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        """Take a piece of a part; raises `InvalidField` for texts that are too long together."""
        if self._current_part.file is None:
            self._text_bytes += end - start
            require_short_text(self._current_part.field_name, self._text_bytes)
        super().on_part_data(data, start, end)

    def on_end(self) -> None:
        self._ended = True

    def on_part_end(self) -> None:
        """End a part; raises `MultiPartException` for text that is not UTF-8."""
        part = self._current_part
        try:
            if part.file is None:
                part.data.decode()
        except UnicodeDecodeError as error:
            raise MultiPartException(f"{part.field_name[:40]}: is not UTF-8") from error
        super().on_part_end()

    async def parse(self) -> FormData:
        """Return the form; raises `MultiPartException` for one that is damaged or not whole."""
        form = await super().parse()
        if not self._ended:
            await form.close()
            raise MultiPartException("The last boundary is missing.")
        return form


def bounded_connections(limit: int, silent_seconds: float) -> type[asyncio.Protocol]:
    """Return the protocol of a server whose clients cannot exhaust its files.

    Args:
        limit: connections that are answered. A request on a further one is 503, and still further
            ones are closed at once.
        silent_seconds: a connection without a whole request is closed after so long: a new one,
            and one whose last request was answered, while the rest of a body comes or the next.
    """
    # As many files as the process's supervisor allows.
    _, files = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    most_open = min((1 + REFUSED_PER_SERVED) * limit, files - OTHER_FILES)

    class BoundedConnection(H11Protocol):
        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._await_request()
            if len(self.connections) > most_open:
                transport.abort()
            elif len(self.connections) > limit:
                self.app_state = {**self.app_state, CROWDED: True}

        def connection_lost(self, error: Exception | None) -> None:
            self._closing.cancel()
            super().connection_lost(error)

        def on_response_complete(self) -> None:
            self._closing.cancel()
            # Must come first: the call below may begin the next request.
            self._await_request()
            super().on_response_complete()

        def _await_request(self) -> None:
            self._closing = self.loop.call_later(silent_seconds, self._close_after, self.cycle)

        def _close_after(self, last: RequestResponseCycle | None) -> None:
            if self.cycle is last:
                self.transport.close()

    return BoundedConnection
