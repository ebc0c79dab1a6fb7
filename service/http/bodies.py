"""Limits of request bodies: size of one, bytes in memory of all, and a minimum rate. Pure ASGI."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gmn_client.models import Problem
from service.errors import QueueFull
from service.http.problems import answer_problem, problem
from service.runtime import Runtime

RETRY_AFTER = {"Retry-After": "1"}
CLOSE = {"Connection": "close"}
IMPORTS = re.compile("/v1/galleries/[^/]+/imports")
# These requests use the device, and are refused while its queue is full.
EMBEDDED = re.compile("/v1/(galleries/[^/]+/(crops|queries)|pairs|embeddings)")
# Of a form, the framework keeps text and a file's first MiB in memory, and the rest on the disk.
IMPORT_FIELDS = 8
IMPORT_FIELD_BYTES = 16 * 1024
IMPORT_MEMORY_BYTES = 1024 * 1024 + IMPORT_FIELDS * IMPORT_FIELD_BYTES


class ByteBudget:
    """Bytes of bodies in memory, of all callers together and of each; lives on the event loop."""

    def __init__(self, max_bytes: int, max_bytes_of_caller: int) -> None:
        self._max_bytes = max_bytes
        self._max_bytes_of_caller = max_bytes_of_caller
        self._held: Counter[str] = Counter()
        self.detail = (
            f"this body and those being received would exceed {max_bytes:,} bytes, or "
            f"{max_bytes_of_caller:,} of one caller; send it again in 1 s, or raise "
            "GMN_MAX_QUEUED_BYTES"
        )

    def has_room(self, caller: str, more: int) -> bool:
        """Whether so many bytes more may be held."""
        return (
            self._held.total() + more <= self._max_bytes
            and self._held[caller] + more <= self._max_bytes_of_caller
        )

    def acquire(self, caller: str, more: int) -> None:
        """Holds bytes of a body that have arrived; raises 429 where there is no room for them."""
        if not self.has_room(caller, more):
            raise HTTPException(429, self.detail, RETRY_AFTER)
        self._held[caller] += more

    def release(self, caller: str, held: int) -> None:
        """Holds less."""
        self._held[caller] -= held
        if not self._held[caller]:
            del self._held[caller]


@dataclass(frozen=True)
class Rule:
    """What one body may be.

    Attributes:
        max_bytes: of the body.
        max_memory_bytes: as many of its bytes are in memory at most.
        detail: of the problem that answers a larger body.
    """

    max_bytes: int
    max_memory_bytes: int
    detail: str


class BodyLimit:
    """Answers 413, 429 or 408: before reading the body wherever its announced length suffices.

    Bytes count as held from their arrival until the answer begins. While the queue of images is
    full a body is not parsed: refusing has to be quick when there is most of it to do.
    """

    def __init__(
        self,
        app: ASGIApp,
        max_bytes: int,
        max_queued_bytes: int,
        timeout_s: float,
        min_rate: int,
        max_import_bytes: int,
    ) -> None:
        """Limits the bodies of an application.

        Args:
            app: what to call.
            max_bytes: of one body.
            max_queued_bytes: of all bodies in memory at once; half of it, or one whole body if that
                is more, of those of one caller.
            timeout_s: how long a body may take until more of it arrives.
            min_rate: bytes a second; a body that is slower may take `timeout_s` in all.
            max_import_bytes: of a body that is written to the disk as it arrives.
        """
        self._app = app
        self._budget = ByteBudget(max_queued_bytes, max(max_bytes, max_queued_bytes // 2))
        self._pace = (timeout_s, min_rate)
        self._form = Rule(
            max_bytes,
            max_bytes,
            f"the request's body is over the limit of {max_bytes:,} bytes; send fewer images in "
            "one request, or raise GMN_MAX_BODY_BYTES",
        )
        self._import = Rule(
            max_import_bytes,
            min(IMPORT_MEMORY_BYTES, max_bytes),
            f"the archive is over the limit of {max_import_bytes:,} bytes; send several, or raise "
            "GMN_MAX_IMPORT_BYTES",
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One connection, as ASGI has it; what is no request passes through."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        rule = self._import if IMPORTS.fullmatch(scope["path"]) else self._form
        text = Headers(scope=scope).get("content-length", "")
        announced = int(text) if text.isdecimal() else 0
        caller = getattr(scope.get("state", {}).get("caller"), "name", "")
        body = _Body(receive, rule, partial(self._budget.acquire, caller), self._pace)
        if announced > rule.max_bytes:
            document = problem("body_too_large", rule.detail, 413)
            await self._refuse(document, CLOSE, scope, receive, send)
        elif not self._budget.has_room(caller, min(announced, rule.max_memory_bytes)):
            document = problem("queue_full", self._budget.detail)
            await self._refuse(document, CLOSE | RETRY_AFTER, scope, receive, send)
        else:

            def release() -> None:
                self._budget.release(caller, body.held)
                body.held = 0

            async def release_and_send(message: Message) -> None:
                # A long answer has no more use for the body.
                if message["type"] == "http.response.start":
                    release()
                await send(message)

            try:
                with _request_slot(scope):
                    await self._app(scope, body.receive, release_and_send)
            except QueueFull as full:
                document = problem(full.code, full.detail)
                await self._refuse(document, RETRY_AFTER, scope, receive, send)
            finally:
                release()

    async def _refuse(
        self,
        document: Problem,
        headers: dict[str, str],
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        async def send_and_discard(message: Message) -> None:
            if message["type"] != "http.response.body":
                await send(message)
                return
            # A connection that is closed on unread data is reset, and the client may lose the
            # answer: so it is sent first, and the rest of a body of moderate size is discarded.
            await send({**message, "more_body": True})
            rest = _Body(receive, self._form, lambda _: None, self._pace)
            with contextlib.suppress(HTTPException):
                while (await rest.receive()).get("more_body", False):
                    pass
            await send({"type": "http.response.body", "body": b""})

        response = answer_problem(Request(scope), document, headers)
        await response(scope, receive, send_and_discard)


class _Body:
    """One body, received within its limits: some of it every `timeout_s`, later at a minimum rate.

    Only time spent waiting counts, not that in which the service works on what has arrived.
    """

    def __init__(
        self, receive: Receive, rule: Rule, acquire: Callable[[int], None], pace: tuple[float, int]
    ) -> None:
        self._receive = receive
        self._rule = rule
        self._acquire = acquire
        self._timeout_s, self._min_rate = pace
        self._waited = 0.0
        self._received = 0
        self._whole = False
        self.held = 0

    async def receive(self) -> Message:
        """The next piece; 413, 429 and 408 are raised where the body is awaited."""
        if self._whole:
            return await self._receive()
        left = self._timeout_s + self._received / self._min_rate - self._waited
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            async with asyncio.timeout(max(0.0, min(self._timeout_s, left))):
                message = await self._receive()
        except TimeoutError as error:
            raise HTTPException(408, self._too_slow(), CLOSE) from error
        self._waited += loop.time() - began
        self._whole = not message.get("more_body", False)
        before, limit = self._received, self._rule.max_memory_bytes
        self._received += len(message.get("body", b""))
        if self._received > self._rule.max_bytes:
            raise HTTPException(413, self._rule.detail)
        more = min(self._received, limit) - min(before, limit)
        self._acquire(more)
        self.held += more
        return message

    def _too_slow(self) -> str:
        return (
            f"nothing more of the request's body arrived for {self._timeout_s:g} s, or less than "
            f"{self._min_rate:,} bytes a second; send it again, or set GMN_BODY_TIMEOUT_S and "
            "GMN_MIN_BODY_RATE"
        )


def _request_slot(scope: Scope) -> AbstractContextManager[None]:
    if scope["method"] != "POST" or not EMBEDDED.fullmatch(scope["path"]):
        return contextlib.nullcontext()
    runtime: Runtime = scope["app"].state.runtime
    return runtime.admission.door()


class OneLength:
    """Rejects a request with both Content-Length and Transfer-Encoding (request smuggling)."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One connection, as ASGI has it; what is no request passes through."""
        if scope["type"] == "http":
            headers = Headers(scope=scope)
            if "content-length" in headers and "transfer-encoding" in headers:
                document = problem(
                    "bad_request",
                    "the body's length is told as Content-Length and as Transfer-Encoding; send "
                    "one of the two",
                    400,
                )
                response = answer_problem(Request(scope), document, CLOSE)
                await response(scope, receive, send)
                return
        await self._app(scope, receive, send)
