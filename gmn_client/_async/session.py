"""Sends requests, again where that is safe, and reads the pages of lists."""

from __future__ import annotations

import itertools
from asyncio import sleep
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import nullcontext
from types import TracebackType
from typing import Any, TypeVar

import httpx
from typing_extensions import Self

from gmn_client.errors import LOST, RETRIED, Retries, parse, problem_of, unreachable
from gmn_client.models import Page, WireModel
from gmn_client.uploads import (
    DEFAULT_GALLERY,
    DEFAULT_URL,
    ImageSource,
    Upload,
    form_fields,
    image_files,
    key_header,
    path_to,
)

LONG_SECONDS = 600.0

Answer = TypeVar("Answer", bound=WireModel)
Item = TypeVar("Item")


class AsyncSession:
    """The connections to one service; see the client for the arguments."""

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
        self._was_there = False
        try:
            self._http = httpx.AsyncClient(
                base_url=self.url, headers=key_header(api_key), timeout=timeout, transport=transport
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

    def _path(self, gallery: str | None, *segments: str) -> str:
        return path_to("galleries", gallery or self.gallery_name, *segments)

    async def _call(self, model: type[Answer], method: str, path: str, **options: Any) -> Answer:
        """Sends a request, see `_send`, and parses its answer."""
        response = await self._send(method, path, **options)
        return parse(model, response.content, response.request.url)

    async def _send(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str | int | None] | None = None,
        fields: Mapping[str, object] | None = None,
        headers: Mapping[str, str] | None = None,
        images: Sequence[ImageSource] | None = None,
        archive: Upload | None = None,
        repeatable: bool = False,
        long: bool = False,
    ) -> httpx.Response:
        """Sends a request until it has a 2xx answer.

        Args:
            method, path, headers: of the request.
            params, fields: of the query string and the form, without those that are None.
            images: the form's files, read before the first attempt.
            archive: the form's one file instead, read as it is sent.
            repeatable: whether it may be sent again where it may have arrived; GET always may.
            long: whether the service may take minutes to answer.

        Raises:
            RequestRefused, ServiceFailed, ServiceUnreachable: there was none.
        """
        read = max(self._timeout, LONG_SECONDS) if long else self._timeout
        request: dict[str, Any] = {
            "params": {name: one for name, one in (params or {}).items() if one is not None},
            "headers": headers,
            "data": form_fields(fields or {}),
            "timeout": httpx.Timeout(self._timeout, read=read),
        }
        files: list[tuple[str, Any]] = []
        if images is not None:
            files = [("images", one) for one in image_files(images)]
        for attempt in itertools.count(1):
            last, asked = attempt >= self._retries.attempts, None
            try:
                with archive.open() if archive else nullcontext() as file:
                    if archive:
                        files = [("archive", (archive.name, file))]
                    response = await self._http.request(
                        method, path, files=files or None, **request
                    )
            except (httpx.TransportError, httpx.InvalidURL) as error:
                if last or not self._may_repeat(error, repeatable or method == "GET"):
                    raise unreachable(self.url, error) from error
            else:
                self._was_there = True
                if response.is_success:
                    break
                if last or response.status_code not in RETRIED:
                    raise problem_of(response)
                asked = response.headers.get("Retry-After")
            await sleep(self._retries.seconds(attempt, asked))
        return response

    def _may_repeat(self, error: Exception, repeatable: bool) -> bool:
        lost = isinstance(error, LOST)
        # A service that was there and takes no connection now may be starting again.
        gone = self._was_there and isinstance(error, httpx.ConnectError)
        self._was_there = self._was_there or lost
        return gone or (lost and repeatable)

    async def _pages(
        self, page: type[Page[Item]], path: str, **params: str | int | None
    ) -> AsyncIterator[Item]:
        cursor: str | None = None
        while True:
            answer = await self._call(page, "GET", path, params={**params, "cursor": cursor})
            for item in answer.results:
                yield item
            cursor = answer.next_cursor
            if cursor is None:
                return
