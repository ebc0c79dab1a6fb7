"""What surrounds every request: its id, the log line, the metrics, the limits. Pure ASGI.

Starlette's BaseHTTPMiddleware would hide a client's departure from everything below it.
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import time
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.errors import answer_problem, problem

log = logging.getLogger("service.requests")
ACCEPTABLE_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
CLIENT_LEFT = 499
# What a client writes is no label: a stream of invented methods would fill the memory.
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class RequestContext:
    """Gives a request its id, turns what nobody caught into a 500, logs and counts it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One connection, as ASGI has it; what is no request passes through."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if scope["method"] == "HEAD":
            # Answered as GET is; the server leaves the body out, which it judges by its own scope.
            scope = {**scope, "method": "GET"}
        asked_id = Headers(scope=scope).get("x-request-id", "")
        request_id = asked_id if ACCEPTABLE_ID.fullmatch(asked_id) else secrets.token_hex(8)
        scope.setdefault("state", {})["request_id"] = request_id
        began = time.perf_counter()
        status = CLIENT_LEFT

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-ID"] = request_id
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except Exception:
            log.exception("request %s failed", request_id)
            if status == CLIENT_LEFT:
                document = problem(
                    "internal_error",
                    "the service failed at this request; its log tells why under this request_id",
                    500,
                )
                response = answer_problem(Request(scope), document)
                await response(scope, receive, send_with_id)
        finally:
            _record(scope, request_id, status, time.perf_counter() - began)


def _record(scope: Scope, request_id: str, status: int, seconds: float) -> None:
    route: Any = scope.get("route")
    path = getattr(route, "path", "unrouted")
    log.info(
        "%s %s %d",
        scope["method"],
        scope["path"],
        status,
        extra={"request_id": request_id, "status": status, "ms": round(seconds * 1e3, 2)},
    )
    metrics = getattr(scope["app"].state, "metrics", None)
    if metrics is not None:
        method = scope["method"] if scope["method"] in METHODS else "other"
        metrics.requests.labels(method, path, str(status)).inc()
        metrics.request_seconds.labels(method, path).observe(seconds)


class BodyLimit:
    """Answers 413 to a body over the limit: before reading it where its length is announced."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._detail = (
            f"the request's body is over the limit of {max_bytes:,} bytes; send fewer images in "
            "one request, or raise GMN_MAX_BODY_BYTES"
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One connection, as ASGI has it; what is no request passes through."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        announced = Headers(scope=scope).get("content-length", "")
        if announced.isdecimal() and int(announced) > self._max_bytes:
            await self._refuse(scope, receive, send)
            return
        read = 0

        async def counted() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > self._max_bytes:
                raise HTTPException(413, self._detail)
            return message

        await self._app(scope, counted, send)

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_and_discard(message: Message) -> None:
            if message["type"] != "http.response.body":
                await send(message)
                return
            # A connection that is closed on unread data is reset, and the client may lose the
            # answer: so it is sent first, and the rest of a body of moderate size is let pass by.
            await send({**message, "more_body": True})
            discarded = 0
            while discarded <= self._max_bytes:
                part = await receive()
                discarded += len(part.get("body", b""))
                if not part.get("more_body", False):
                    break
            await send({"type": "http.response.body", "body": b""})

        document = problem("body_too_large", self._detail, 413)
        response = answer_problem(Request(scope), document, {"Connection": "close"})
        await response(scope, receive, send_and_discard)


class CancelWhenGone:
    """Cancels a request whose client has left, so that what is queued for it costs nothing."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One connection, as ASGI has it; what is no request passes through."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body_read = asyncio.Event()
        gone = asyncio.Event()

        async def receive_until_gone() -> Message:
            if body_read.is_set():
                await gone.wait()
                return {"type": "http.disconnect"}
            message = await receive()
            if message["type"] == "http.disconnect":
                gone.set()
            if not message.get("more_body", False):
                body_read.set()
            return message

        async def watch() -> None:
            await body_read.wait()
            while (await receive())["type"] != "http.disconnect":
                pass
            gone.set()

        answering = asyncio.ensure_future(self._app(scope, receive_until_gone, send))
        watching = asyncio.ensure_future(watch())
        try:
            await asyncio.wait({answering, watching}, return_when=asyncio.FIRST_COMPLETED)
            if not answering.done():
                answering.cancel()
            await answering
        except asyncio.CancelledError:
            if not gone.is_set():
                raise
        finally:
            answering.cancel()
            watching.cancel()
