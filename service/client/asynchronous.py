"""The client for programs that run an event loop; the same calls as `Client`, awaited."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from types import TracebackType
from typing import Any, TypeVar, Unpack

import httpx

from service.client import calls
from service.client.answers import (
    Crop,
    Enrolment,
    Gallery,
    ModelDescription,
    PairScore,
    Ranking,
    Removal,
)
from service.client.calls import Call, Image, ImageSource, QueryOptions
from service.client.problems import ProblemError, ServiceUnreachable, unreachable
from service.client.synchronous import DEFAULT_GALLERY, DEFAULT_URL
from service.client.transport import Retries, answer, arguments, headers

AnswerType = TypeVar("AnswerType")


class AsyncClient:
    """Talks to one service from an event loop; tasks may share it.

    Use it in an `async with` block, or call `close()`. Arguments, answers and errors are those of
    `Client`.
    """

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
        self._retries = retries or Retries()
        try:
            self._http = httpx.AsyncClient(
                base_url=self.url, headers=headers(api_key), timeout=timeout, transport=transport
            )
        except httpx.InvalidURL as error:
            raise unreachable(url, error) from error

    async def __aenter__(self) -> AsyncClient:
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

    async def enroll(self, images: Sequence[Image], gallery: str | None = None) -> Enrolment:
        """Enrols images; a refused image is an entry with `problem`, never an exception."""
        return await self._send(calls.enroll(gallery or self.gallery_name, images))

    async def query(
        self,
        *images: ImageSource,
        gallery: str | None = None,
        **options: Unpack[QueryOptions],
    ) -> Ranking:
        """Ranks the gallery by likeness to one person; several images are of the same person."""
        return await self._send(calls.query(gallery or self.gallery_name, images, options))

    async def query_like(
        self, crop_id: str, gallery: str | None = None, **options: Unpack[QueryOptions]
    ) -> Ranking:
        """Ranks the gallery by likeness to one of its own crops."""
        return await self._send(calls.query_like(gallery or self.gallery_name, crop_id, options))

    async def crops(
        self,
        identity: str | None = None,
        camera: str | None = None,
        gallery: str | None = None,
    ) -> AsyncIterator[Crop]:
        """Every crop of a gallery, fetched page by page as the iterator moves on."""
        name, cursor = gallery or self.gallery_name, None
        while True:
            page = await self._send(calls.crops(name, identity, camera, cursor))
            for result in page.results:
                yield Crop.model_validate(result)
            cursor = page.next_cursor
            if cursor is None:
                return

    async def crop(self, crop_id: str, gallery: str | None = None) -> Crop:
        """One crop's record."""
        return await self._send(calls.crop(gallery or self.gallery_name, crop_id))

    async def delete_crop(self, crop_id: str, gallery: str | None = None) -> Removal:
        """Removes one crop; it is never returned again."""
        return await self._send(calls.delete_crop(gallery or self.gallery_name, crop_id))

    async def image(self, crop_id: str, gallery: str | None = None) -> bytes:
        """One crop's picture, as the bytes of an image file."""
        return await self._send(calls.image(gallery or self.gallery_name, crop_id))

    async def galleries(self) -> AsyncIterator[Gallery]:
        """Every gallery."""
        cursor = None
        while True:
            page = await self._send(calls.galleries(cursor))
            for result in page.results:
                yield Gallery.model_validate(result)
            cursor = page.next_cursor
            if cursor is None:
                return

    async def gallery(self, name: str | None = None) -> Gallery:
        """One gallery's description."""
        return await self._send(calls.gallery(name or self.gallery_name))

    async def create_gallery(self, name: str) -> Gallery:
        """Creates a gallery; one of that name is a `RequestRefused` with status 409."""
        return await self._send(calls.create_gallery(name))

    async def model(self) -> ModelDescription:
        """The served artefact's own description."""
        return await self._send(calls.model())

    async def pairs(
        self, first: ImageSource, second: ImageSource, explain: bool = False
    ) -> PairScore:
        """How alike two images are; with `explain` also which regions spoke for and against."""
        return await self._send(calls.pairs(first, second, explain))

    async def ready(self) -> bool:
        """Whether the service takes requests now; False also where nothing answers."""
        try:
            await self._send(calls.ready(), Retries(attempts=1))
        except (ProblemError, ServiceUnreachable):
            return False
        return True

    async def _send(self, call: Call[AnswerType], retries: Retries | None = None) -> AnswerType:
        request: dict[str, Any] = arguments(call)
        attempt = 1
        while True:
            try:
                response = await self._http.request(**request)
            except (httpx.TransportError, httpx.InvalidURL) as error:
                raise unreachable(self.url, error) from error
            wait = (retries or self._retries).wait_before(response, attempt)
            if wait is None:
                return answer(self.url, call, response)
            await asyncio.sleep(wait)
            attempt += 1
