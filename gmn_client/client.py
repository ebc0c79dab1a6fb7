"""Both clients: sending a request, sending it again after a failure, and waiting for jobs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeVar, overload

import httpx
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    Retrying,
    retry_if_exception,
    stop_after_attempt,
    stop_after_delay,
    wait_exponential,
)
from tenacity.stop import stop_base
from typing_extensions import Self, Unpack

from gmn_client.batches import Batches
from gmn_client.calls import Call, Calls
from gmn_client.errors import RequestRefused, ServiceFailed, ServiceUnreachable, unreachable
from gmn_client.models import Enrollment, Job, Page, QueryAnswer, SeparateAnswers
from gmn_client.uploads import (
    DEFAULT_GALLERY,
    DEFAULT_URL,
    ImageSource,
    QueryOptions,
    form_fields,
    image_files,
    key_header,
    open_archive,
    with_archive,
)

Answer = TypeVar("Answer")
Item = TypeVar("Item")

LONG_SECONDS = 600.0
AWAY_SECONDS = 60.0
POLL_SECONDS = 0.5
RETRIED = (httpx.codes.TOO_MANY_REQUESTS, httpx.codes.SERVICE_UNAVAILABLE)
# The request may have happened: the record or the device failed before the answer.
UNCERTAIN = ("record_unavailable", "device_lost")
# The request may have arrived: its connection broke off before the answer.
LOST = (httpx.ReadError, httpx.WriteError, httpx.CloseError, httpx.RemoteProtocolError)
NO_CONNECTION = (httpx.TransportError, httpx.InvalidURL)


@dataclass(frozen=True)
class Retries:
    """How often and when a request is sent again.

    Attributes:
        attempts: how often a request is sent at most.
        longest_wait: bound on one wait, seconds, also on what `Retry-After` asks for.
    """

    attempts: int = 6
    longest_wait: float = 10.0

    def seconds(self, state: RetryCallState) -> float:
        """The wait after an attempt: what its answer asks for, or 0.25 s, doubled each time."""
        error = state.outcome.exception() if state.outcome else None
        asked = error.retry_after if isinstance(error, ServiceFailed) else None
        seconds = wait_exponential(0.25)(state) if asked is None else asked
        return min(max(seconds, 0.0), self.longest_wait)


class Connection(Calls):
    """One service; several tasks or threads may share it.

    Use it as a context manager, or call `close()`. Where a call names no gallery it is for the
    client's own. Images are paths, bytes of image files, files opened in binary mode, PIL images,
    or `Image`, which has labels too.

    Args:
        url: where the service is.
        api_key: sent as a bearer token.
        gallery: the gallery of calls that name none.
        timeout: seconds that an answer may take; a call that may take minutes, such as a restore,
            has ten.
        retries: how often a request is sent again after 429 and 503, and after an answer that was
            lost where a second request changes nothing.
        transport: how requests travel; httpx's own unless given.

    Every call raises `RequestRefused` for a 4xx answer, `ServiceFailed` for a 5xx one or a 429 that
    outlasted the retries, and `ServiceUnreachable` where no such service answers.
    """

    _http_client: type[Any]

    def __init__(
        self,
        url: str = DEFAULT_URL,
        api_key: str | None = None,
        *,
        gallery: str = DEFAULT_GALLERY,
        timeout: float = 60.0,
        retries: Retries | None = None,
        transport: httpx.BaseTransport | httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.url = url.rstrip("/")
        self.gallery_name = gallery
        self._timeout = timeout
        self._retries = retries or Retries()
        self._was_there = False
        try:
            self._http: Any = self._http_client(
                base_url=self.url,
                headers=key_header(api_key),
                timeout=timeout,
                transport=transport,
            )
        except httpx.InvalidURL as error:
            raise unreachable(url, error) from error

    def _request(self, call: Call[object]) -> dict[str, Any]:
        """What httpx sends of a call, without an archive."""
        read = max(self._timeout, LONG_SECONDS) if call.long else self._timeout
        return {
            "method": call.method,
            "url": call.path,
            "params": {name: one for name, one in call.params.items() if one is not None},
            "headers": call.headers,
            "data": form_fields(call.fields),
            "files": None if call.images is None else image_files(call.images),
            "timeout": httpx.Timeout(self._timeout, read=read),
        }

    def _retrying(self, call: Call[object]) -> dict[str, Any]:
        stop: stop_base = stop_after_attempt(self._retries.attempts)
        if call.patient:
            stop = stop_after_delay(AWAY_SECONDS)
        retry = retry_if_exception(partial(self._may_repeat, call))
        return {"stop": stop, "wait": self._retries.seconds, "retry": retry, "reraise": True}

    def _may_repeat(self, call: Call[object], error: BaseException) -> bool:
        repeatable = call.repeatable or call.method == "GET"
        if call.patient and self._was_there:
            return isinstance(error, (ServiceFailed, ServiceUnreachable))
        if isinstance(error, ServiceFailed):
            uncertain = error.problem.code in UNCERTAIN
            return error.problem.status in RETRIED and (repeatable or not uncertain)
        lost = isinstance(error.__cause__, LOST)
        # A service that was there and takes no connection now may be starting again.
        gone = self._was_there and isinstance(error.__cause__, httpx.ConnectError)
        self._was_there = self._was_there or lost
        return gone or (lost and repeatable)

    def _pause(self, job: Job, began: float, timeout: float | None) -> float:
        """Seconds until the job is asked for again; raises `TimeoutError` after `timeout`."""
        left = POLL_SECONDS if timeout is None else began + timeout - time.monotonic()
        if left <= 0.0:
            raise TimeoutError(
                f"job {job.job_id} is still {job.state} after {timeout:g} s; it goes on, wait for "
                "it longer or cancel it"
            )
        return min(POLL_SECONDS, left)

    @contextmanager
    def _attempt(self) -> Iterator[None]:
        """Names a connection that breaks."""
        try:
            yield
            self._was_there = True
        except NO_CONNECTION as error:
            raise unreachable(self.url, error) from error


class Client(Connection):
    """Calls one service; `Connection` has the arguments, and what every call raises."""

    _http: httpx.Client
    _http_client = httpx.Client

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    def _answer(self, call: Call[Answer]) -> Answer:
        request = self._request(call)

        def send() -> Answer:
            with open_archive(call.archive) as archive, self._attempt():
                response = self._http.request(**with_archive(request, archive))
            return call.read(response)

        return Retrying(**self._retrying(call))(send)

    def _items(self, call: Call[Page[Item]]) -> Iterator[Item]:
        page = self._answer(call)
        yield from page.results
        while page.next_cursor is not None:
            page = self._answer(call.at(page.next_cursor))
            yield from page.results

    def enroll(
        self,
        images: Iterable[ImageSource],
        gallery: str | None = None,
        *,
        idempotency_key: str | None = None,
        progress: Callable[[int], object] | None = None,
    ) -> Enrollment:
        """Enrolls any number of images, read and sent in batches, and answers each in order.

        A refused image is an entry with `problem`, never an exception. Where a call fails amid its
        batches, those before are enrolled. A program that names the call can make it again: under
        the same `idempotency_key` the same images are enrolled once within a day, and `replayed`
        is true where nothing was left to do.

        Args:
            images: a list, or an iterator that makes them as they are read.
            gallery: the client's own unless given.
            idempotency_key: names this call.
            progress: called after each batch with the number of images answered so far.

        Raises:
            RequestRefused: status 422 where the key stood for other images.
        """
        batches = Batches(self._path(gallery, "crops"), images, idempotency_key, progress)
        while (call := batches.next_call()) is not None:
            try:
                batches.add(self._answer(call))
            except RequestRefused as refusal:
                batches.shrink(refusal)
        return batches.answer()

    @overload
    def query(
        self, *images: ImageSource, gallery: str | None = None, **options: Unpack[QueryOptions]
    ) -> QueryAnswer: ...

    @overload
    def query(
        self,
        *images: ImageSource,
        mode: Literal["separate"],
        gallery: str | None = None,
        **options: Unpack[QueryOptions],
    ) -> SeparateAnswers: ...

    def query(
        self, *images: ImageSource, gallery: str | None = None, **options: Any
    ) -> QueryAnswer | SeparateAnswers:
        """Ranks the gallery by likeness to one person, of whom several images may be given.

        With `mode="separate"` each image is a query of its own, answered in order.
        """
        return self._answer(self._query(images, gallery, options))

    def ready(self) -> bool:
        """Whether the service takes requests now; False also where nothing answers."""
        try:
            return self._http.get("/readyz").is_success
        except NO_CONNECTION:
            return False

    def wait_for_job(self, job_id: str, timeout: float | None = None) -> Job:
        """Waits until a job has ended, and returns it, in any `state`.

        Raises:
            TimeoutError: if it has not after `timeout` seconds; it goes on.
        """
        for job in self.watch_job(job_id, timeout):
            last = job
        return last

    def watch_job(self, job_id: str, timeout: float | None = None) -> Iterator[Job]:
        """The job now and at every change, until it has ended.

        It is asked for twice a second. A service that was there may be away for a minute, such as
        for a restart.

        Raises:
            TimeoutError: if it has not ended after `timeout` seconds; it goes on.
        """
        began, last = time.monotonic(), None
        while True:
            job = self._answer(self._job(job_id))
            if job != last:
                yield job
            if job.finished:
                return
            last = job
            time.sleep(self._pause(job, began, timeout))


class _ReadInThread(httpx.AsyncByteStream):
    """A request's body of which files are read in a thread, since the event loop serves others."""

    def __init__(self, body: Any) -> None:
        self._body = body

    async def __aiter__(self) -> AsyncIterator[bytes]:
        parts = iter(self._body)
        while (part := await asyncio.to_thread(next, parts, None)) is not None:
            yield part


class AsyncClient(Connection):
    """As `Client`, with calls to be awaited and lists to be read with `async for`.

    Files are read and written in threads.
    """

    _http: httpx.AsyncClient
    _http_client = httpx.AsyncClient

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connections."""
        await self._http.aclose()

    async def _answer(self, call: Call[Answer]) -> Answer:
        request = await asyncio.to_thread(self._request, call)

        async def send() -> Answer:
            with await asyncio.to_thread(open_archive, call.archive) as archive, self._attempt():
                sent = self._http.build_request(**with_archive(request, archive))
                if archive is not None:
                    sent.stream = _ReadInThread(sent.stream)
                response = await self._http.send(sent)
            return await asyncio.to_thread(call.read, response)

        return await AsyncRetrying(**self._retrying(call))(send)

    async def _items(self, call: Call[Page[Item]]) -> AsyncIterator[Item]:
        page = await self._answer(call)
        for item in page.results:
            yield item
        while page.next_cursor is not None:
            page = await self._answer(call.at(page.next_cursor))
            for item in page.results:
                yield item

    async def enroll(
        self,
        images: Iterable[ImageSource],
        gallery: str | None = None,
        *,
        idempotency_key: str | None = None,
        progress: Callable[[int], object] | None = None,
    ) -> Enrollment:
        """As `Client.enroll`."""
        batches = Batches(self._path(gallery, "crops"), images, idempotency_key, progress)
        while (call := await asyncio.to_thread(batches.next_call)) is not None:
            try:
                batches.add(await self._answer(call))
            except RequestRefused as refusal:
                batches.shrink(refusal)
        return batches.answer()

    @overload
    async def query(
        self, *images: ImageSource, gallery: str | None = None, **options: Unpack[QueryOptions]
    ) -> QueryAnswer: ...

    @overload
    async def query(
        self,
        *images: ImageSource,
        mode: Literal["separate"],
        gallery: str | None = None,
        **options: Unpack[QueryOptions],
    ) -> SeparateAnswers: ...

    async def query(
        self, *images: ImageSource, gallery: str | None = None, **options: Any
    ) -> QueryAnswer | SeparateAnswers:
        """As `Client.query`."""
        return await self._answer(self._query(images, gallery, options))

    async def ready(self) -> bool:
        """Whether the service takes requests now; False also where nothing answers."""
        try:
            return (await self._http.get("/readyz")).is_success
        except NO_CONNECTION:
            return False

    async def wait_for_job(self, job_id: str, timeout: float | None = None) -> Job:
        """As `Client.wait_for_job`."""
        async for job in self.watch_job(job_id, timeout):
            last = job
        return last

    async def watch_job(self, job_id: str, timeout: float | None = None) -> AsyncIterator[Job]:
        """As `Client.watch_job`."""
        began, last = time.monotonic(), None
        while True:
            job = await self._answer(self._job(job_id))
            if job != last:
                yield job
            if job.finished:
                return
            last = job
            await asyncio.sleep(self._pause(job, began, timeout))
