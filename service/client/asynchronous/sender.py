"""Sends calls, again where that helps, and reads long answers part by part."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx

from service.client.answers import Page
from service.client.calls import Call
from service.client.problems import problem_of, unreachable
from service.client.transport import (
    DEFAULT_GALLERY,
    DEFAULT_URL,
    Attempts,
    Retries,
    answer,
    arguments,
    headers,
)

AnswerType = TypeVar("AnswerType")
Item = TypeVar("Item")


class AsyncSender:
    """What every group of calls builds upon; see `Client` for its arguments."""

    def __init__(
        self,
        url: str = DEFAULT_URL,
        api_key: str | None = None,
        *,
        gallery: str = DEFAULT_GALLERY,
        timeout: float = 60.0,
        retries: Retries | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.url = url.rstrip("/")
        self.gallery_name = gallery
        self._timeout = timeout
        self._retries = retries or Retries()
        self._answered = False
        try:
            self._http = httpx.AsyncClient(
                base_url=self.url, headers=headers(api_key), timeout=timeout, transport=transport
            )
        except httpx.InvalidURL as error:
            raise unreachable(url, error) from error

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connections."""
        await self._http.aclose()

    async def _send(self, call: Call[AnswerType], retries: Retries | None = None) -> AnswerType:
        attempts = Attempts(self.url, call, retries or self._retries, self._answered)
        while True:
            try:
                with arguments(call, self._timeout) as request:
                    response = await self._http.request(**request)
            except (httpx.TransportError, httpx.InvalidURL) as error:
                await asyncio.sleep(attempts.after_error(error))
                continue
            self._answered = True
            wait = attempts.after_answer(response)
            if wait is None:
                return answer(self.url, call, response)
            await asyncio.sleep(wait)

    async def _pages(self, turn: Callable[[str | None], Call[Page[Item]]]) -> AsyncIterator[Item]:
        cursor = None
        while True:
            page = await self._send(turn(cursor))
            for item in page.results:
                yield item
            cursor = page.next_cursor
            if cursor is None:
                return

    @asynccontextmanager
    async def _stream(
        self, call: Call[Any], silence: float | None = None
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """The bytes of an answer as they come; `silence` bounds the seconds between two parts."""
        timeout = httpx.Timeout(self._timeout, read=silence or self._timeout)
        try:
            async with self._http.stream(call.method, call.path, timeout=timeout) as response:
                if response.status_code >= 300:
                    await response.aread()
                    raise problem_of(response)
                yield response.aiter_bytes()
        except (httpx.TransportError, httpx.InvalidURL) as error:
            raise unreachable(self.url, error) from error
