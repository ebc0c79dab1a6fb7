"""Both clients: send requests, repeat them after failures, and wait for jobs."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import IO, Any, TypeAlias, TypeVar
from uuid import uuid4

import httpx2
import tenacity
from typing_extensions import Self

from gmn_client import calls, errors, proxies, uploads
from gmn_client.addresses import is_malformed
from gmn_client.calls import Awaited, Awaits, Blocks, Call, reader
from gmn_client.errors import InvalidInput, RequestRefused, ServiceFailed, ServiceUnreachable
from gmn_client.methods import GalleriesQuery, Methods, Query
from gmn_client.models import (
    Enrollment,
    GalleriesAnswer,
    Job,
    Page,
    QueryAnswer,
    RefusedImage,
    SeparateAnswers,
    SeparateGalleriesAnswers,
)
from gmn_client.uploads import DEFAULT_GALLERY, DEFAULT_URL, Image, Images

Answer = TypeVar("Answer")
Item = TypeVar("Item")
Owner: TypeAlias = "tuple[int, asyncio.AbstractEventLoop | None]"
"""A process and, of an asynchronous client, its event loop."""

# Limits of one request of an enrollment, in images and in bytes.
MOST_IMAGES = 128
MOST_BYTES = 32 * 1024 * 1024
# Time to wait for the answer of a call that may take minutes.
LONG_SECONDS = 600.0
# A service may be away for a minute; the longest pause before the last attempt is added.
AWAY_SECONDS = 70.0
POLL_SECONDS = 0.5
RETRIED = (httpx2.codes.TOO_MANY_REQUESTS, httpx2.codes.SERVICE_UNAVAILABLE)
# The request may have taken effect: the record or the device failed before the answer.
UNCERTAIN = ("record_unavailable", "device_lost")
# The request may have arrived: its connection broke before the answer.
LOST = (httpx2.ReadError, httpx2.WriteError, httpx2.CloseError, httpx2.RemoteProtocolError)
NO_CONNECTION = (httpx2.TransportError, httpx2.InvalidURL)
# The service keeps idle connections for some seconds longer.
LIMITS = httpx2.Limits(max_connections=100, max_keepalive_connections=20, keepalive_expiry=75.0)
# Transports without a connection.
IN_MEMORY = (httpx2.ASGITransport, httpx2.MockTransport, httpx2.WSGITransport)


@dataclass(frozen=True)
class Retries:
    """Limits on the repetitions of a request.

    Attributes:
        attempts: maximum number of attempts.
        longest_wait: limit in seconds on one pause, also if `Retry-After` asks for more.
    """

    attempts: int = 6
    longest_wait: float = 10.0

    def seconds(self, state: tenacity.RetryCallState) -> float:
        """Return the pause after an attempt: `Retry-After`, or 0.25 s, doubled each time."""
        error = state.outcome.exception() if state.outcome else None
        requested = error.retry_after if isinstance(error, ServiceFailed) else None
        seconds = tenacity.wait_exponential(0.25)(state) if requested is None else requested
        return min(seconds, self.longest_wait)


class Connection(Methods):
    """A client of one service; may be shared by several threads or tasks.

    After a fork each process has connections of its own, and so has each event loop. Use the client
    as a context manager, or call `close()`. Calls that name no gallery use the client's.
    Images are paths, bytes of image files, files opened in binary mode, PIL images, or `Image`,
    which adds labels.

    Args:
        url: address of the service.
        api_key: sent as a bearer token.
        gallery: gallery of calls that name none.
        timeout: seconds to wait for an answer; calls that may take minutes, such as a restore, wait
            ten minutes.
        retries: how often a request is repeated after 429 and 503, and after a lost answer if a
            repetition changes nothing.
        transport: httpx2 transport, for the process and event loop that uses it first; by default
            one for each, through the proxy that the environment names unless the service is on this
            machine.

    Every call raises `RequestRefused` for a 4xx answer, `ServiceFailed` for a 5xx answer or a 429
    that outlasts the retries, and `ServiceUnreachable` if no such service answers.
    """

    _http_client: type[Any]
    _http_transport: type[Any]
    _sleep: Callable[[float], Awaitable[None]]
    _exchange: Callable[..., Awaitable[httpx2.Response]]
    _download: Callable[..., Awaitable[None]]
    # Calls a function that may read or write a file.
    _in_thread: Callable[..., Awaitable[Any]]

    def __init__(
        self,
        url: str = DEFAULT_URL,
        api_key: str | None = None,
        *,
        gallery: str = DEFAULT_GALLERY,
        timeout: float = 60.0,
        retries: Retries | None = None,
        transport: httpx2.BaseTransport | httpx2.AsyncBaseTransport | None = None,
    ) -> None:
        self.url = url.rstrip("/")
        self.gallery_name = gallery
        self._timeout = timeout
        self._retries = retries or Retries()
        self._was_there = False
        self._headers = uploads.key_header(api_key)
        self._transport = transport
        self._proxy: proxies.Proxy | None = None
        self._closed = False
        self._http_clients: dict[Owner, Any] = {}
        try:
            address = httpx2.URL(self.url)
            proxies.require_address(address)
            if transport is None:
                self._proxy = proxies.find_proxy(address)
        except httpx2.InvalidURL as error:
            # The parser's message may show a part of a password.
            cause = None if is_malformed(url) else error
            raise errors.unreachable(url, error) from cause
        except proxies.UnusableProxy as error:
            raise ServiceUnreachable(str(error)) from error

    def _owner(self) -> Owner:
        """Return the process, and in `AsyncClient` the event loop, that runs this code.

        A connection is used by the owner that opened it, and by nobody else.
        """
        raise NotImplementedError

    @property
    def _http(self) -> Any:
        """Return the HTTP client of this owner; open it at the first call.

        Connections that were inherited by a fork are neither used nor closed, as the parent process
        may still use them.
        """
        if self._closed:
            raise RuntimeError("the client is closed; make another one")
        owner = self._owner()
        http = self._http_clients.get(owner)
        if http is None:
            http = self._http_clients.setdefault(owner, self._open())
        return http

    def _open(self) -> Any:
        transport = self._transport
        if transport is None:
            proxy = self._proxy and httpx2.Proxy(self._proxy.url)
            transport = self._http_transport(limits=LIMITS, proxy=proxy)
        elif self._http_clients and not isinstance(transport, IN_MEMORY):
            raise InvalidInput(
                "transport: belongs to the process and event loop that used it first; make a "
                "client with a transport of its own for this one"
            )
        return self._http_client(
            base_url=self.url, headers=self._headers, timeout=self._timeout, transport=transport
        )

    def _take_http(self) -> Any:
        """Return the HTTP client to close, if this process and event loop have one."""
        self._closed = True
        return self._http_clients.pop(self._owner(), None)

    def _request(self, call: Call[object], archive: IO[bytes] | None) -> dict[str, Any]:
        read = max(self._timeout, LONG_SECONDS) if call.long else self._timeout
        files: object = uploads.image_files(call.images)
        if archive is not None:
            files = {"archive": archive}
        return {
            "method": call.method,
            "url": call.path,
            "params" if call.method == "GET" else "data": uploads.form_fields(call.values),
            "headers": call.headers,
            "files": files,
            "timeout": httpx2.Timeout(self._timeout, read=read),
        }

    async def _send(self, call: Call[Answer]) -> Answer:
        with await self._in_thread(uploads.open_archive, call.archive) as archive:
            request = await self._in_thread(self._request, call, archive)

            async def attempt() -> Answer:
                try:
                    response = await self._exchange(request, archive is not None)
                except NO_CONNECTION as error:
                    raise errors.unreachable(
                        self.url, error, self._proxy, request["timeout"]
                    ) from error
                except UnicodeEncodeError as error:
                    raise InvalidInput(
                        f"{error.object!r:.80}: cannot be written in UTF-8; send another text"
                    ) from error
                self._was_there = True
                if self._proxy is not None:
                    response.extensions[errors.PROXY] = self._proxy
                answer: Answer = await self._in_thread(call.read, response)
                return answer

            stop: tenacity.stop.stop_base = tenacity.stop_after_attempt(self._retries.attempts)
            if call.patience is not None:
                stop = tenacity.stop_before_delay(call.patience)
            retrying = tenacity.AsyncRetrying(
                sleep=self._sleep,
                stop=stop,
                wait=self._retries.seconds,
                retry=tenacity.retry_if_exception(lambda error: self._may_repeat(call, error)),
                reraise=True,
            )
            try:
                return await retrying(attempt)
            except ServiceFailed as failure:
                raise failure.after(retrying.statistics["attempt_number"]) from failure.__cause__

    def _may_repeat(self, call: Call[object], error: BaseException) -> bool:
        repeatable = call.repeatable or call.method == "GET"
        if call.patience is not None and self._was_there:
            return isinstance(error, (ServiceFailed, ServiceUnreachable))
        if isinstance(error, ServiceFailed):
            uncertain = error.problem.code in UNCERTAIN
            return error.problem.status in RETRIED and (repeatable or not uncertain)
        lost = isinstance(error.__cause__, LOST)
        # A service that was reachable before and now refuses connections may be restarting.
        gone = self._was_there and isinstance(error.__cause__, httpx2.ConnectError)
        self._was_there = self._was_there or lost
        return gone or (lost and repeatable)

    async def _pages(self, call: Call[Page[Item]]) -> AsyncIterator[Item]:
        while True:
            page = await self._send(call)
            for item in page.results:
                yield item
            if page.next_cursor is None:
                return
            call = replace(call, values={**call.values, "cursor": page.next_cursor})

    @calls.answered
    async def enroll(
        self,
        *images: Images,
        gallery: str | None = None,
        idempotency_key: str | None = None,
        keep_best: int | None = None,
        watch: bool = False,
        still: bool | Sequence[bool] = False,
        zone: str | Sequence[str | None] | None = None,
        progress: Callable[[int], object] | None = None,
    ) -> Enrollment:
        """Enrolls any number of images, in batches; `results` has an outcome per image, in order.

        A refused image is an entry with `problem`, never an exception. If a batch fails, the
        batches before it stay enrolled. With an `idempotency_key` the call can be repeated: within
        a day the same images are enrolled only once, and `replayed` is true if nothing was left to
        do.

        Args:
            images: one by one or in lists; an iterator is consumed while the batches are sent.
            gallery: the client's if None.
            idempotency_key: identifies this call.
            keep_best: number of crops that each track keeps, 1 to 32; all of them if None.
            watch: whether to compare the images with the armed watch lists too, as `sight` does;
                the gallery must have a retention.
            still: with `watch`, whether the person stays at the same place, of all images or of
                each, as in `sight`.
            zone: with `watch`, the zone in which the person stands, as in `sight`.
            progress: called after each batch with the number of images answered so far.

        Raises:
            RequestRefused: status 422 if the key was used for other images.
        """
        _require_no_gallery(images)
        key = uuid4().hex if idempotency_key is None else idempotency_key
        path = uploads.path_to("galleries", gallery or self.gallery_name, "crops")
        unread = uploads.each_image(images)
        at_once = MOST_IMAGES
        done = 0
        waiting: list[tuple[Image, int]] = []
        answers: list[Enrollment] = []
        while waiting := await self._in_thread(uploads.read_images, unread, waiting, at_once):
            totals = accumulate(size for _, size in waiting[:at_once])
            count = max(1, sum(total <= MOST_BYTES for total in totals))
            batch = [image for image, _ in waiting[:count]]
            # Each request has its own key, which is the same if the enrollment is repeated.
            name = hashlib.sha256(f"{key} {done}".encode()).hexdigest() if done else key
            fields = {
                **uploads.enrollment_fields(batch),
                "keep_best": keep_best,
                "watch": watch or None,
                "still": _of_batch(still, done, count) or None,
                "zone": _of_batch(zone, done, count),
            }
            headers = uploads.idempotency_header(name)
            call = Call(
                errors.parse_enrollment, "POST", path, fields, headers, batch, repeatable=True
            )
            try:
                answer = await self._send(call)
            except RequestRefused as refusal:
                too_large = refusal.problem.status == httpx2.codes.CONTENT_TOO_LARGE
                if count > 1 and (too_large or refusal.problem.detail.startswith("images: ")):
                    at_once = count // 2
                    continue
                if not too_large:
                    raise
                answer = Enrollment(results=[RefusedImage(problem=refusal.problem)])
            answers.append(answer)
            del waiting[:count]
            done += count
            if progress is not None:
                progress(done)
        if not done:
            raise InvalidInput("enroll: no image was given; give at least one")
        return _merge(answers)

    @calls.answered
    async def download_export(
        self, export_id: str, path: str | os.PathLike[str], gallery: str | None = None
    ) -> None:
        """Writes the zip file of an export to a new file, as it is received.

        Raises:
            InvalidInput: the file exists, or cannot be written.
        """
        name = gallery or self.gallery_name
        url = uploads.path_to("galleries", name, "exports", export_id, "content")
        target = Path(path)
        # Another download to the same file has a partial file of its own.
        partial = target.with_name(f"{target.name}.{uuid4().hex[:8]}.part")
        try:
            _require_new(target)
            with partial.open("xb") as file:
                await self._download({"method": "GET", "url": url}, file)
            _require_new(target)
            partial.replace(target)
        except NO_CONNECTION as error:
            timeout = httpx2.Timeout(self._timeout)
            raise errors.unreachable(self.url, error, self._proxy, timeout) from error
        except OSError as error:
            raise InvalidInput(f"{path}: cannot be written ({error.strerror})") from error
        finally:
            with suppress(OSError):
                partial.unlink()

    @calls.answered
    async def ready(self) -> bool:
        """Returns whether the service is ready; False also if nothing answers."""
        try:
            return (await self._exchange({"method": "GET", "url": "/readyz"})).is_success
        except NO_CONNECTION:
            return False

    @calls.answered
    async def wait_for_job(self, job_id: str, timeout: float | None = None) -> Job:
        """Waits until a job ends and returns it, in any `state`.

        Raises:
            TimeoutError: the job has not ended within `timeout` seconds; it continues.
        """
        return [job async for job in self._watch(job_id, timeout)][-1]

    async def _watch(self, job_id: str, timeout: float | None = None) -> AsyncIterator[Job]:
        """Yields the job now and after every change until it ends.

        It is polled twice a second. A service that answered before may be away for a minute, for
        example while it restarts.

        Raises:
            TimeoutError: the job has not ended within `timeout` seconds; it continues.
        """
        end = float("inf") if timeout is None else time.monotonic() + timeout
        last = None
        path = uploads.path_to("jobs", job_id)
        while True:
            patience = min(AWAY_SECONDS, end - time.monotonic())
            job = await self._send(Call(reader(Job), "GET", path, patience=patience))
            if job != last:
                yield job
            if job.finished:
                return
            last = job
            remaining = end - time.monotonic()
            if remaining <= 0.0:
                raise TimeoutError(
                    f"job {job_id} is still {job.state} after {timeout:g} s; it goes on, wait for "
                    "it longer or cancel it"
                )
            await self._sleep(min(POLL_SECONDS, remaining))

    watch_job = calls.listed(_watch)


def _of_batch(option: object, start: int, count: int) -> object:
    """Return the values of a batch's images, if an option has one for each image."""
    if isinstance(option, Sequence) and not isinstance(option, str):
        return option[start : start + count]
    return option


def _merge(answers: list[Enrollment]) -> Enrollment:
    versions = [batch.gallery_version for batch in answers if batch.gallery_version is not None]
    return Enrollment(
        gallery_version=max(versions, default=None),
        results=[result for batch in answers for result in batch.results],
        # An answer without a version stored nothing.
        replayed=bool(versions)
        and all(batch.replayed for batch in answers if batch.gallery_version),
    )


async def _run_here(function: Callable[..., Answer], *arguments: object) -> Answer:
    return function(*arguments)


async def _sleep(seconds: float) -> None:
    time.sleep(seconds)


def _run(coroutine: Awaitable[Answer]) -> Answer:
    """Run a coroutine that never suspends, since the calls of `Client` block instead."""
    try:
        next(coroutine.__await__())
    except StopIteration as end:
        answer: Answer = end.value
        return answer
    raise RuntimeError("a call of the synchronous client waits for an event loop")


class Client(Connection, Blocks):
    """Calls a service; see `Connection` for the arguments and for errors of every call."""

    query: Query[QueryAnswer, SeparateAnswers]
    query_galleries: GalleriesQuery[GalleriesAnswer, SeparateGalleriesAnswers]
    _http_client = httpx2.Client
    _http_transport = httpx2.HTTPTransport
    _answer = staticmethod(_run)
    _sleep = staticmethod(_sleep)
    _in_thread = staticmethod(_run_here)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections of this process."""
        http = self._take_http()
        if http is not None:
            http.close()

    def _owner(self) -> Owner:
        return os.getpid(), None

    def _items(self, items: AsyncIterator[Item]) -> Iterator[Item]:
        with suppress(StopAsyncIteration):
            while True:
                yield _run(items.__anext__())

    async def _exchange(self, request: dict[str, Any], _: bool = False) -> httpx2.Response:
        response: httpx2.Response = self._http.request(**request)
        return response

    async def _download(self, request: dict[str, Any], file: IO[bytes]) -> None:
        with self._http.stream(**request) as response:
            if response.is_error:
                response.read()
            for part in errors.checked(response).iter_bytes():
                file.write(part)


class _ReadInThread(httpx2.AsyncByteStream):
    """A request body whose files are read in a thread, so that the event loop is not blocked."""

    def __init__(self, body: Any) -> None:
        self._body = body

    async def __aiter__(self) -> AsyncIterator[bytes]:
        parts = iter(self._body)
        while (part := await asyncio.to_thread(next, parts, None)) is not None:
            yield part


class AsyncClient(Connection, Awaits):
    """Like `Client`, with awaitable calls and lists that are read with `async for`.

    Files are read and written in threads.
    """

    query: Query[Awaited[QueryAnswer], Awaited[SeparateAnswers]]
    query_galleries: GalleriesQuery[Awaited[GalleriesAnswer], Awaited[SeparateGalleriesAnswers]]
    _http_client = httpx2.AsyncClient
    _http_transport = httpx2.AsyncHTTPTransport
    _answer = _items = staticmethod(lambda awaited: awaited)
    _sleep = staticmethod(asyncio.sleep)
    _in_thread: Any = staticmethod(asyncio.to_thread)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connections of this process and event loop."""
        http = self._take_http()
        if http is not None:
            await http.aclose()

    def _owner(self) -> Owner:
        return os.getpid(), asyncio.get_running_loop()

    def _open(self) -> Any:
        http = super()._open()
        # The sockets of an ended event loop close when nothing refers to its HTTP client any more.
        for process, loop in list(self._http_clients):
            if process == os.getpid() and loop is not None and loop.is_closed():
                self._http_clients.pop((process, loop), None)
        return http

    async def _exchange(self, request: dict[str, Any], has_file: bool = False) -> httpx2.Response:
        http = self._http
        sent = http.build_request(**request)
        if has_file:
            sent.stream = _ReadInThread(sent.stream)
        response: httpx2.Response = await http.send(sent)
        return response

    async def _download(self, request: dict[str, Any], file: IO[bytes]) -> None:
        async with self._http.stream(**request) as response:
            if response.is_error:
                await response.aread()
            async for part in errors.checked(response).aiter_bytes():
                await asyncio.to_thread(file.write, part)


def _require_no_gallery(images: Sequence[Images]) -> None:
    """Raise `InvalidInput` for the gallery as a second argument, which versions before 0.7 took."""
    match images:
        case [_, str(name)] if not Path(name).exists():
            raise InvalidInput(
                f"enroll: {name!r} is no image file; a gallery is given by name, as in "
                f"enroll(images, gallery={name!r})"
            )


def _require_new(file: Path) -> None:
    if file.exists():
        raise FileExistsError(errno.EEXIST, "exists already")
