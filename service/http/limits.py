"""Limits of request bodies: size of one, bytes in memory of all, a minimum rate, a whole form."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

from starlette.datastructures import FormData, Headers
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request
from starlette.types import Message

from service.ops.data_directory import MEBIBYTE, require_free_disk
from service.settings import Settings

RETRY_AFTER = {"Retry-After": "1"}
ARCHIVE_FIELDS = 8
ARCHIVE_FIELD_BYTES = 16 * 1024
ARCHIVE_MEMORY_BYTES = MEBIBYTE + ARCHIVE_FIELDS * ARCHIVE_FIELD_BYTES


@dataclass(frozen=True)
class Rule:
    """The limits of one kind of body.

    Attributes:
        max_bytes: of the body.
        max_memory_bytes: as many of its bytes are in memory at most.
        detail: of the problem that answers a larger body.
        parts: limits of its form's parts, as `Request.form` takes them.
        on_disk: whether a file's bytes but the first MiB go to the disk as they arrive.
    """

    max_bytes: int
    max_memory_bytes: int
    detail: str
    parts: dict[str, int] = field(default_factory=dict)
    on_disk: bool = False


class BodyLimits:
    """The limits of all bodies, and the bytes of them in memory; lives on the event loop.

    Bytes count from their arrival until the answer begins, for all callers together and for each:
    one caller holds half of them at most, or one whole body if that is more.

    Attributes:
        form: the limits of a form that is kept in memory.
        archive: the limits of a form with one file, which goes to the disk as it arrives.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.timeout_s = settings.body_timeout_s
        self.min_rate = settings.min_body_rate
        size, archive = settings.max_body_bytes, settings.max_import_bytes
        self._max_bytes = settings.max_queued_bytes
        self._max_bytes_of_caller = max(size, self._max_bytes // 2)
        self._held: Counter[str] = Counter()
        self.form = Rule(
            size,
            size,
            f"the request's body is over the limit of {size:,} bytes; send fewer images in one "
            "request, or raise GMN_MAX_BODY_BYTES",
        )
        self.archive = Rule(
            archive,
            min(ARCHIVE_MEMORY_BYTES, size),
            f"the archive is over the limit of {archive:,} bytes; send several, or raise "
            "GMN_MAX_IMPORT_BYTES",
            {"max_files": 1, "max_fields": ARCHIVE_FIELDS, "max_part_size": ARCHIVE_FIELD_BYTES},
            on_disk=True,
        )

    def require_room(self, caller: str, more: int) -> None:
        """Raises 429 where so many bytes more of a caller's may not be in memory."""
        total, own = self._held.total() + more, self._held[caller] + more
        if total > self._max_bytes or own > self._max_bytes_of_caller:
            raise HTTPException(
                429,
                f"this body and those being received would exceed {self._max_bytes:,} bytes, or "
                f"{self._max_bytes_of_caller:,} of one caller; send it again in 1 s, or raise "
                "GMN_MAX_QUEUED_BYTES",
                RETRY_AFTER,
            )

    def hold(self, caller: str, more: int) -> None:
        """Counts bytes that have arrived, fewer where `more` is negative; may raise 429."""
        if more > 0:
            self.require_room(caller, more)
        self._held[caller] += more
        if not self._held[caller]:
            del self._held[caller]


class Body:
    """One body, received within its limits: some of it every `timeout_s`, later at a minimum rate.

    Attributes:
        whole: set once all of the body has arrived, or the client has disconnected.
    """

    def __init__(self, request: Request, limits: BodyLimits, rule: Rule, caller: str) -> None:
        """Begins to receive; 413 and 429 are raised where the announced length suffices for it."""
        self._receive = request.receive
        self._limits = limits
        self._rule = rule
        self._caller = caller
        self._waited = 0.0
        self._received = 0
        self._held = 0
        self.whole = asyncio.Event()
        length = request.headers.get("content-length", "")
        announced = int(length) if length.isdecimal() else 0
        if announced > rule.max_bytes:
            raise HTTPException(413, rule.detail)
        limits.require_room(caller, min(announced, rule.max_memory_bytes))

    async def receive(self) -> Message:
        """The next piece; 408, 413, 429 and 507 are raised where the body is awaited."""
        if self.whole.is_set():
            return await self._receive()
        # Only waiting counts, not the time in which the service works on what has arrived.
        timeout_s = self._limits.timeout_s
        left = timeout_s + self._received / self._limits.min_rate - self._waited
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            async with asyncio.timeout(max(0.0, min(timeout_s, left))):
                message = await self._receive()
        except TimeoutError as error:
            detail = (
                f"nothing more of the request's body arrived for {timeout_s:g} s, or less than "
                f"{self._limits.min_rate:,} bytes a second; send it again, or set "
                "GMN_BODY_TIMEOUT_S and GMN_MIN_BODY_RATE"
            )
            raise HTTPException(408, detail, {"Connection": "close"}) from error
        self._waited += loop.time() - began
        if not message.get("more_body", False):
            self.whole.set()
        before, self._received = self._received, self._received + len(message.get("body", b""))
        if self._received > self._rule.max_bytes:
            raise HTTPException(413, self._rule.detail)
        if self._rule.on_disk and before // MEBIBYTE < self._received // MEBIBYTE:
            # The folder for uploads may be on the disk whose rest is kept for deletions.
            require_free_disk(self._limits.settings)
        more = min(self._received, self._rule.max_memory_bytes) - self._held
        self._limits.hold(self._caller, more)
        self._held += more
        return message

    def release(self) -> None:
        """Its bytes are in memory no more."""
        self._limits.hold(self._caller, -self._held)
        self._held = 0


class WholeForm(MultiPartParser):
    """Parses a multipart form that has arrived whole and is in UTF-8.

    The framework alone drops what was cut off, reads other text as Latin-1, and writes to the disk
    what counts as memory.
    """

    _ended = False

    def __init__(self, headers: Headers, stream: AsyncGenerator[bytes], rule: Rule) -> None:
        super().__init__(headers, stream, **rule.parts)
        self.spool_max_size = MEBIBYTE if rule.on_disk else rule.max_bytes

    def on_end(self) -> None:
        """The last boundary."""
        self._ended = True

    def on_part_end(self) -> None:
        """One part; raises `MultiPartException` for text that is not UTF-8."""
        part = self._current_part
        try:
            if part.file is None:
                part.data.decode()
        except UnicodeDecodeError as error:
            raise MultiPartException(f"{part.field_name[:40]}: is not UTF-8") from error
        super().on_part_end()

    async def parse(self) -> FormData:
        """The form; raises `MultiPartException` for one that is damaged or not whole."""
        form = await super().parse()
        if not self._ended:
            await form.close()
            raise MultiPartException("The last boundary is missing.")
        return form
