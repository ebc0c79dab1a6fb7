"""What a body may cost: its size, all bodies' together, and the time it takes. Pure ASGI."""

from __future__ import annotations

import asyncio
import contextlib
import re
from contextlib import AbstractContextManager
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.errors import answer_problem, problem
from service.api.schemas.base import Problem
from service.problems import QueueFull
from service.runtime import Runtime

RETRY_AFTER = {"Retry-After": "1"}
CLOSE = {"Connection": "close"}
SPOOLED = re.compile("/v1/galleries/[^/]+/imports")
# What is asked there goes through the device, and is refused while nothing more may.
EMBEDDED = re.compile("/v1/(galleries/[^/]+/(crops|queries)|pairs|embeddings)")


class Held:
    """How many bytes of bodies are held at once, of all requests together."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self.detail = (
            f"this body and those being received would exceed {max_bytes:,} bytes; send it again "
            "in 1 s, or raise GMN_MAX_QUEUED_BYTES"
        )

    def take(self, more: int) -> bool:
        """Holds more; False, holding nothing more, where that would be too many."""
        if self._bytes + more > self._max_bytes:
            return False
        self._bytes += more
        return True

    def let_go(self, held: int) -> None:
        """Holds less."""
        self._bytes -= held


@dataclass(frozen=True)
class Rule:
    """What one body may be.

    Attributes:
        max_bytes: of the body.
        detail: what a larger one is told.
        held: whether it is held in memory, and counts among those that are.
    """

    max_bytes: int
    detail: str
    held: bool


class BodyLimit:
    """Answers 413, 429 or 408: before reading the body wherever its announced length tells enough.

    A body counts as held from its announcement until the answer to it begins. Where the queue of
    images is full it is not parsed either: refusing has to be quick when there is most of it to do.
    """

    def __init__(
        self,
        app: ASGIApp,
        max_bytes: int,
        max_queued_bytes: int,
        timeout_s: float,
        min_rate: int,
        max_spooled_bytes: int,
    ) -> None:
        """Limits the bodies of an application.

        Args:
            app: what to call.
            max_bytes: of one body.
            max_queued_bytes: of all bodies that are held at once.
            timeout_s: how long a body may take until more of it arrives.
            min_rate: bytes a second, without which a body may not be awaited for longer than that.
            max_spooled_bytes: of a body that goes to the disk as it arrives, and is not held.
        """
        self._app = app
        self._held = Held(max_queued_bytes)
        self._timeout_s = timeout_s
        self._min_rate = min_rate
        self._form = Rule(
            max_bytes,
            f"the request's body is over the limit of {max_bytes:,} bytes; send fewer images in "
            "one request, or raise GMN_MAX_BODY_BYTES",
            held=True,
        )
        self._archive = Rule(
            max_spooled_bytes,
            f"the archive is over the limit of {max_spooled_bytes:,} bytes; send several, or raise "
            "GMN_MAX_IMPORT_BYTES",
            held=False,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One connection, as ASGI has it; what is no request passes through."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        # An import's archive goes to a file as it arrives: it holds no memory.
        rule = self._archive if SPOOLED.fullmatch(scope["path"]) else self._form
        text = Headers(scope=scope).get("content-length", "")
        announced = int(text) if text.isdecimal() else 0
        if announced > rule.max_bytes:
            document = problem("body_too_large", rule.detail, 413)
            await self._refuse(document, CLOSE, scope, receive, send)
        elif rule.held and not self._held.take(announced):
            document = problem("queue_full", self._held.detail)
            await self._refuse(document, CLOSE | RETRY_AFTER, scope, receive, send)
        else:
            pace = _Pace(self._timeout_s, self._min_rate)
            body = _Body(rule, self._held, announced, pace)
            try:
                with _door(scope):
                    await self._app(scope, body.reading(receive), body.answering(send))
            except QueueFull as full:
                await self._refuse(
                    problem(full.code, full.detail), RETRY_AFTER, scope, receive, send
                )
            finally:
                body.let_go()

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
            # answer: so it is sent first, and the rest of a body of moderate size is let pass by.
            await send({**message, "more_body": True})
            discarded = 0
            pace = _Pace(self._timeout_s, self._min_rate)
            with contextlib.suppress(HTTPException):
                while discarded <= self._form.max_bytes:
                    part = await pace.keep(receive)
                    discarded += len(part.get("body", b""))
                    if not part.get("more_body", False):
                        break
            await send({"type": "http.response.body", "body": b""})

        response = answer_problem(Request(scope), document, headers)
        await response(scope, receive, send_and_discard)


class _Body:
    """One body on its way in."""

    def __init__(self, rule: Rule, held: Held, announced: int, pace: _Pace) -> None:
        self._rule = rule
        self._all_held = held
        self._pace = pace
        self._announced = announced
        self._held = announced if rule.held else 0
        self._read = 0
        self._whole = False

    def reading(self, receive: Receive) -> Receive:
        """Reads it within the limits; 413, 429 and 408 are raised where the body is awaited."""

        async def read() -> Message:
            if self._whole:
                return await receive()
            message = await self._pace.keep(receive)
            self._whole = not message.get("more_body", False)
            self._read += len(message.get("body", b""))
            if self._read > self._rule.max_bytes:
                raise HTTPException(413, self._rule.detail)
            if self._rule.held:
                self._grow()
            return message

        return read

    def answering(self, send: Send) -> Send:
        """Lets go of it when the answer begins: a long answer has no more use for it."""

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.let_go()
            await send(message)

        return answer

    def let_go(self) -> None:
        """No longer counts among those that are held."""
        self._all_held.let_go(self._held)
        self._held = 0

    def _grow(self) -> None:
        # Only a body whose length was not announced grows beyond what is held for it.
        more = max(0, self._read - max(self._held, self._announced))
        if not self._all_held.take(more):
            raise HTTPException(429, self._all_held.detail, RETRY_AFTER)
        self._held += more


def _door(scope: Scope) -> AbstractContextManager[None]:
    if scope["method"] != "POST" or not EMBEDDED.fullmatch(scope["path"]):
        return contextlib.nullcontext()
    runtime: Runtime = scope["app"].state.runtime
    return runtime.admission.door()


class _Pace:
    """How fast one body has to arrive: some of it again and again, and all of it at a rate.

    By the first alone a byte now and then would hold what was announced for ever. Only time that
    is spent waiting counts, not that in which the service itself is busy with what has come.
    """

    def __init__(self, timeout_s: float, min_rate: int) -> None:
        self._timeout_s = timeout_s
        self._min_rate = min_rate
        self._read = 0
        self._waited = 0.0

    async def keep(self, receive: Receive) -> Message:
        """The next piece; 408 is raised where it is too late."""
        left = self._timeout_s + self._read / self._min_rate - self._waited
        seconds = max(0.0, min(self._timeout_s, left))
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            async with asyncio.timeout(seconds):
                message = await receive()
        except TimeoutError as error:
            raise HTTPException(408, self._too_slow(), CLOSE) from error
        self._waited += loop.time() - began
        self._read += len(message.get("body", b""))
        return message

    def _too_slow(self) -> str:
        return (
            f"nothing more of the request's body arrived for {self._timeout_s:g} s, or less than "
            f"{self._min_rate:,} bytes a second; send it again, or set GMN_BODY_TIMEOUT_S and "
            "GMN_MIN_BODY_RATE"
        )


class OneLength:
    """Refuses a body whose length is told in two ways: of those before it each may choose."""

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
