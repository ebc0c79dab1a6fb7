"""The client for programs and scripts that wait."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
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
from service.client.transport import Retries, answer, arguments, headers

AnswerType = TypeVar("AnswerType")
DEFAULT_URL = "http://127.0.0.1:8000"
DEFAULT_GALLERY = "default"


class Client:
    """Talks to one service; several threads may share it.

    Use it in a `with` block, or call `close()`.

    Example:
        >>> with Client("http://127.0.0.1:8000") as client:  # doctest: +SKIP
        ...     client.enroll([Image(Path("a.jpg").read_bytes(), "a.jpg", identity="7")])
        ...     print(client.query("b.jpg", top_k=5).verdict)

    Args:
        url: where the service is.
        api_key: sent as a bearer token.
        gallery: the gallery that calls mean unless they name another.
        timeout: seconds that an answer may take.
        retries: what to do about 429 and 503.
        transport: how requests travel; httpx's own unless given.

    Every call raises `RequestRefused` for a 4xx answer, `ServiceFailed` for a 5xx one or a 429 that
    outlasted the retries, and `ServiceUnreachable` where no such service answers.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        api_key: str | None = None,
        *,
        gallery: str = DEFAULT_GALLERY,
        timeout: float = 60.0,
        retries: Retries | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.url = url.rstrip("/")
        self.gallery_name = gallery
        self._retries = retries or Retries()
        try:
            self._http = httpx.Client(
                base_url=self.url, headers=headers(api_key), timeout=timeout, transport=transport
            )
        except httpx.InvalidURL as error:
            raise unreachable(url, error) from error

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    def enroll(self, images: Sequence[Image], gallery: str | None = None) -> Enrolment:
        """Enrols images; a refused image is an entry with `problem`, never an exception."""
        return self._send(calls.enroll(gallery or self.gallery_name, images))

    def query(
        self,
        *images: ImageSource,
        gallery: str | None = None,
        **options: Unpack[QueryOptions],
    ) -> Ranking:
        """Ranks the gallery by likeness to one person; several images are of the same person."""
        return self._send(calls.query(gallery or self.gallery_name, images, options))

    def query_like(
        self, crop_id: str, gallery: str | None = None, **options: Unpack[QueryOptions]
    ) -> Ranking:
        """Ranks the gallery by likeness to one of its own crops."""
        return self._send(calls.query_like(gallery or self.gallery_name, crop_id, options))

    def crops(
        self,
        identity: str | None = None,
        camera: str | None = None,
        gallery: str | None = None,
    ) -> Iterator[Crop]:
        """Every crop of a gallery, fetched page by page as the iterator moves on."""
        name, cursor = gallery or self.gallery_name, None
        while True:
            page = self._send(calls.crops(name, identity, camera, cursor))
            yield from (Crop.model_validate(result) for result in page.results)
            cursor = page.next_cursor
            if cursor is None:
                return

    def crop(self, crop_id: str, gallery: str | None = None) -> Crop:
        """One crop's record."""
        return self._send(calls.crop(gallery or self.gallery_name, crop_id))

    def delete_crop(self, crop_id: str, gallery: str | None = None) -> Removal:
        """Removes one crop; it is never returned again."""
        return self._send(calls.delete_crop(gallery or self.gallery_name, crop_id))

    def image(self, crop_id: str, gallery: str | None = None) -> bytes:
        """One crop's picture, as the bytes of an image file."""
        return self._send(calls.image(gallery or self.gallery_name, crop_id))

    def galleries(self) -> Iterator[Gallery]:
        """Every gallery."""
        cursor = None
        while True:
            page = self._send(calls.galleries(cursor))
            yield from (Gallery.model_validate(result) for result in page.results)
            cursor = page.next_cursor
            if cursor is None:
                return

    def gallery(self, name: str | None = None) -> Gallery:
        """One gallery's description."""
        return self._send(calls.gallery(name or self.gallery_name))

    def create_gallery(self, name: str) -> Gallery:
        """Creates a gallery; one of that name is a `RequestRefused` with status 409."""
        return self._send(calls.create_gallery(name))

    def model(self) -> ModelDescription:
        """The served artefact's own description."""
        return self._send(calls.model())

    def pairs(self, first: ImageSource, second: ImageSource, explain: bool = False) -> PairScore:
        """How alike two images are; with `explain` also which regions spoke for and against."""
        return self._send(calls.pairs(first, second, explain))

    def ready(self) -> bool:
        """Whether the service takes requests now; False also where nothing answers."""
        try:
            self._send(calls.ready(), Retries(attempts=1))
        except (ProblemError, ServiceUnreachable):
            return False
        return True

    def _send(self, call: Call[AnswerType], retries: Retries | None = None) -> AnswerType:
        request: dict[str, Any] = arguments(call)
        attempt = 1
        while True:
            try:
                response = self._http.request(**request)
            except (httpx.TransportError, httpx.InvalidURL) as error:
                raise unreachable(self.url, error) from error
            wait = (retries or self._retries).wait_before(response, attempt)
            if wait is None:
                return answer(self.url, call, response)
            time.sleep(wait)
            attempt += 1
