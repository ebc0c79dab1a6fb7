"""What a body may cost: its size, all bodies' together, and the time it takes. Pure ASGI."""

from __future__ import annotations

import asyncio
import re

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.errors import answer_problem, problem

RETRY_AFTER = {"Retry-After": "1"}
CLOSE = {"Connection": "close"}
SPOOLED = re.compile("/v1/galleries/[^/]+/imports")


class BodyLimit:
    """Answers 413, 429 or 408: before reading the body wherever its announced length tells enough.

    A body counts as held from its announcement until its request is answered.
    """

    def __init__(
        self,
        app: ASGIApp,
        max_bytes: int,
        max_queued_bytes: int,
        timeout_s: float,
        max_spooled_bytes: int,
    ) -> None:
        """Limits the bodies of an application.

        Args:
            app: what to call.
            max_bytes: of one body.
            max_queued_bytes: of all bodies that are held at once.
            timeout_s: how long a body may take until more of it arrives.
            max_spooled_bytes: of a body that goes to the disk as it arrives, and is not held.
        """
        self._app = app
        self._max_bytes = max_bytes
        self._max_queued_bytes = max_queued_bytes
        self._timeout_s = timeout_s
        self._max_spooled_bytes = max_spooled_bytes
        self._held = 0
        self._too_large = (
            f"the request's body is over the limit of {max_bytes:,} bytes; send fewer images in "
            "one request, or raise GMN_MAX_BODY_BYTES"
        )
        self._archive_too_large = (
            f"the archive is over the limit of {max_spooled_bytes:,} bytes; send several, or raise "
            "GMN_MAX_IMPORT_BYTES"
        )
        self._too_many = (
            f"this body and those being received would exceed {max_queued_bytes:,} bytes; send it "
            "again in 1 s, or raise GMN_MAX_QUEUED_BYTES"
        )
        self._too_slow = (
            f"nothing more of the request's body arrived for {timeout_s:g} s; send it again, or "
            "raise GMN_BODY_TIMEOUT_S"
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One connection, as ASGI has it; what is no request passes through."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        text = Headers(scope=scope).get("content-length", "")
        announced = int(text) if text.isdecimal() else 0
        # An import's archive goes to a file as it arrives: it holds no memory.
        spooled = SPOOLED.fullmatch(scope["path"]) is not None
        limit = self._max_spooled_bytes if spooled else self._max_bytes
        too_large = self._archive_too_large if spooled else self._too_large
        if announced > limit:
            await self._refuse("body_too_large", too_large, 413, scope, receive, send)
            return
        if not spooled and self._held + announced > self._max_queued_bytes:
            await self._refuse("queue_full", self._too_many, 429, scope, receive, send)
            return
        held = 0 if spooled else announced
        self._held += held
        read = 0
        whole = False

        async def limited() -> Message:
            nonlocal held, read, whole
            if whole:
                return await receive()
            message = await self._more(receive)
            whole = not message.get("more_body", False)
            read += len(message.get("body", b""))
            if read > limit:
                raise HTTPException(413, too_large)
            if spooled:
                return message
            # Only a body whose length was not announced grows beyond what is held for it.
            grown = max(0, read - held)
            if self._held + grown > self._max_queued_bytes:
                raise HTTPException(429, self._too_many, RETRY_AFTER)
            self._held += grown
            held += grown
            return message

        try:
            await self._app(scope, limited, send)
        finally:
            self._held -= held

    async def _more(self, receive: Receive) -> Message:
        try:
            async with asyncio.timeout(self._timeout_s):
                return await receive()
        except TimeoutError as error:
            raise HTTPException(408, self._too_slow, CLOSE) from error

    async def _refuse(
        self, code: str, detail: str, status: int, scope: Scope, receive: Receive, send: Send
    ) -> None:
        async def send_and_discard(message: Message) -> None:
            if message["type"] != "http.response.body":
                await send(message)
                return
            # A connection that is closed on unread data is reset, and the client may lose the
            # answer: so it is sent first, and the rest of a body of moderate size is let pass by.
            await send({**message, "more_body": True})
            discarded = 0
            while discarded <= self._max_bytes:
                try:
                    part = await self._more(receive)
                except HTTPException:
                    break
                discarded += len(part.get("body", b""))
                if not part.get("more_body", False):
                    break
            await send({"type": "http.response.body", "body": b""})

        headers = CLOSE | (RETRY_AFTER if status == 429 else {})
        response = answer_problem(Request(scope), problem(code, detail, status), headers)
        await response(scope, receive, send_and_discard)
