"""What surrounds every request: its id, the log line, the metrics, its end. Pure ASGI.

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
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.http.problems import answer_problem, problem

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
    method = scope["method"] if scope["method"] in METHODS else "other"
    # The route and not the address, as addresses hold identities.
    log.info(
        "%s %s %d",
        method,
        path,
        status,
        extra={
            "request_id": request_id,
            "caller": getattr(scope["state"].get("caller"), "name", None),
            "status": status,
            "ms": round(seconds * 1e3, 2),
        },
    )
    metrics = getattr(scope["app"].state, "metrics", None)
    if metrics is not None:
        metrics.requests.labels(method, path, str(status)).inc()
        metrics.request_seconds.labels(method, path).observe(seconds)


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
