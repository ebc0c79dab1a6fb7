"""What both clients share: the form of a request, when it is sent again, and waiting for jobs."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, TypedDict

import httpx
from tenacity import RetryCallState, retry_if_exception, stop_after_attempt, wait_exponential

from gmn_client.errors import ServiceFailed, ServiceUnreachable, problem_of, unreachable
from gmn_client.models import Job
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
AWAY_SECONDS = 60.0
RETRIED = (httpx.codes.TOO_MANY_REQUESTS, httpx.codes.SERVICE_UNAVAILABLE)
# The request may have arrived: its connection broke off before the answer.
LOST = (httpx.ReadError, httpx.WriteError, httpx.CloseError, httpx.RemoteProtocolError)


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


class RequestOptions(TypedDict, total=False):
    """Parts and properties of a request.

    Attributes:
        params, fields: of the query string and the form; those that are None are left out.
        headers: of the request.
        images: the form's files, read before the first attempt.
        archive: the form's one file instead, read as it is sent.
        repeatable: whether it may be sent again where it may have arrived; GET always may.
        long: whether the service may take minutes to answer.
    """

    params: Mapping[str, str | int | None]
    fields: Mapping[str, object]
    headers: Mapping[str, str]
    images: Sequence[ImageSource]
    archive: Upload
    repeatable: bool
    long: bool


class Connection:
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

    def _path(self, gallery: str | None, *segments: str) -> str:
        return path_to("galleries", gallery or self.gallery_name, *segments)

    def _request(self, options: RequestOptions) -> dict[str, Any]:
        """What httpx sends of a request, without an archive."""
        read = max(self._timeout, LONG_SECONDS) if options.get("long") else self._timeout
        params = options.get("params", {})
        images = image_files(options["images"]) if "images" in options else []
        return {
            "params": {name: one for name, one in params.items() if one is not None},
            "headers": options.get("headers"),
            "data": form_fields(options.get("fields", {})),
            "files": [("images", one) for one in images] or None,
            "timeout": httpx.Timeout(self._timeout, read=read),
        }

    def _retrying(self, repeatable: bool) -> dict[str, Any]:
        """How tenacity sends a request again."""
        return {
            "stop": stop_after_attempt(self._retries.attempts),
            "wait": self._retries.seconds,
            "retry": retry_if_exception(lambda error: self._may_repeat(error, repeatable)),
            "reraise": True,
        }

    def _may_repeat(self, error: BaseException, repeatable: bool) -> bool:
        if isinstance(error, ServiceFailed):
            return error.problem.status in RETRIED
        lost = isinstance(error.__cause__, LOST)
        # A service that was there and takes no connection now may be starting again.
        gone = self._was_there and isinstance(error.__cause__, httpx.ConnectError)
        self._was_there = self._was_there or lost
        return gone or (lost and repeatable)

    @contextmanager
    def _attempt(self, request: dict[str, Any], archive: Upload | None) -> Iterator[dict[str, Any]]:
        """One attempt's request, with its archive opened; a broken connection is named."""
        try:
            with archive.open() if archive else nullcontext() as file:
                parts = {"files": [("archive", (archive.name, file))]} if archive else {}
                yield request | parts
        except (httpx.TransportError, httpx.InvalidURL) as error:
            raise unreachable(self.url, error) from error

    def _check(self, response: httpx.Response) -> None:
        """Raises the exception for an answer that is not 2xx."""
        self._was_there = True
        if not response.is_success:
            raise problem_of(response)


@dataclass
class JobWatch:
    """What is known of a job that is waited for, and how long the wait may take."""

    job_id: str
    timeout: float | None
    last: Job | None = None
    _began: float = field(default_factory=time.monotonic)
    _heard: float = field(default_factory=time.monotonic)

    @property
    def ended(self) -> bool:
        """Whether the job has ended."""
        return self.last is not None and self.last.finished

    def is_new(self, job: Job) -> bool:
        """Notes the job as it is now; whether that differs from what was known."""
        self._heard = time.monotonic()
        before, self.last = self.last, job
        return job != before

    def seconds_left(self) -> float:
        """Seconds until `timeout`; raises `TimeoutError` for none."""
        if self.timeout is None:
            return float("inf")
        left = self._began + self.timeout - time.monotonic()
        if left <= 0.0:
            state = self.last.state if self.last else "unknown"
            raise TimeoutError(
                f"job {self.job_id} is still {state} after {self.timeout:g} s; it goes on, wait "
                "for it longer or cancel it"
            )
        return left

    def tolerate(self, error: ServiceUnreachable | ServiceFailed) -> None:
        """Raises the error unless the service answered before, and within the last minute."""
        if self.last is None or time.monotonic() - self._heard > AWAY_SECONDS:
            raise error
