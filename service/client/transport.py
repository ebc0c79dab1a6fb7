"""What both clients do around a request: encode it, judge the answer, decide on a retry."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import httpx
from pydantic import ValidationError

from model.problems import InputProblem
from service.client.answers import Answer
from service.client.calls import Call
from service.client.problems import ServiceUnreachable, problem_of, unreachable

DEFAULT_URL = "http://127.0.0.1:8000"
DEFAULT_GALLERY = "default"
LONG_SECONDS = 600.0

AnswerType = TypeVar("AnswerType")
Answered = TypeVar("Answered", bound=Answer)
RETRIED = (httpx.codes.TOO_MANY_REQUESTS, httpx.codes.SERVICE_UNAVAILABLE)
LOST = (httpx.ReadError, httpx.WriteError, httpx.CloseError, httpx.RemoteProtocolError)
"""The request may have arrived: its connection broke off before the answer."""


@dataclass(frozen=True)
class Retries:
    """How patient a client is with a service that is full, still starting, or breaks off.

    Attributes:
        attempts: how often a request is sent at most.
        longest_wait: bound on one wait, seconds, whatever `Retry-After` asks for.
    """

    attempts: int = 6
    longest_wait: float = 10.0

    def wait_before(self, response: httpx.Response, attempt: int) -> float | None:
        """Seconds until the next attempt, or None where this answer is final."""
        if response.status_code not in RETRIED or attempt >= self.attempts:
            return None
        try:
            asked = float(response.headers["Retry-After"])
        except (KeyError, ValueError):
            return self.pause(attempt)
        return min(max(asked, 0.0), self.longest_wait)

    def pause(self, attempt: int) -> float:
        """Seconds to wait after an attempt that nobody said when to repeat."""
        return min(0.25 * 2.0 ** (attempt - 1), self.longest_wait)


class Attempts:
    """Counts the attempts at one call and says what follows each.

    Args:
        url: of the service.
        call: what is sent.
        retries: how often.
        answered: whether this service has answered the client before.
    """

    def __init__(self, url: str, call: Call[Any], retries: Retries, answered: bool) -> None:
        self._url = url
        self._retries = retries
        self._repeatable = call.repeatable or call.method == "GET"
        self._made = 0
        self._was_there = answered

    def after_answer(self, response: httpx.Response) -> float | None:
        """Seconds until the next attempt, or None where this answer is final."""
        self._made += 1
        return self._retries.wait_before(response, self._made)

    def after_error(self, error: httpx.TransportError | httpx.InvalidURL) -> float:
        """Seconds until the next attempt.

        An answer that was lost is asked for again where that does no harm. A service that was there
        and takes no connection now may be starting again: whatever was to be sent did not arrive.

        Raises:
            ServiceUnreachable: where there is to be none.
        """
        self._made += 1
        lost = isinstance(error, LOST)
        gone = self._was_there and isinstance(error, httpx.ConnectError)
        self._was_there = self._was_there or lost
        if ((self._repeatable and lost) or gone) and self._made < self._retries.attempts:
            return self._retries.pause(self._made)
        raise unreachable(self._url, error) from error


def headers(api_key: str | None) -> dict[str, str]:
    """The headers of every request.

    Raises:
        InputProblem: for a key that no header can carry; it is not repeated.
    """
    key = (api_key or "").strip()
    if not key:
        return {}
    if not (key.isascii() and key.isprintable() and " " not in key):
        raise InputProblem(
            "the API key holds a character that no key has, such as a space or the end of a line; "
            "give the whole key and nothing else (gmn reads GMN_API_KEY)"
        )
    return {"Authorization": f"Bearer {key}"}


@contextmanager
def arguments(call: Call[Any], timeout: float) -> Iterator[dict[str, Any]]:
    """What `httpx.Client.request` needs to send a call; an upload is open as long as the block."""
    with ExitStack() as opened:
        files: list[tuple[str, tuple[str, Any]]] = [
            ("images", (name, data)) for name, data in call.images
        ]
        if call.archive is not None:
            archive = call.archive.open()
            opened.callback(archive.close)
            files.append(("archive", (call.archive.name, archive)))
        yield {
            "method": call.method,
            "url": call.path,
            "params": call.params or None,
            "headers": call.headers or None,
            "data": call.fields or None,
            "files": files or None,
            "timeout": httpx.Timeout(
                timeout, read=max(timeout, LONG_SECONDS) if call.long else timeout
            ),
        }


def answer(url: str, call: Call[AnswerType], response: httpx.Response) -> AnswerType:
    """Reads an answer.

    Raises:
        RequestRefused: for a 4xx answer.
        ServiceFailed: for a 5xx answer, or 429 for the last time.
        ServiceUnreachable: if what answered is not this service.
    """
    if response.status_code >= 300:
        failure = problem_of(response)
        if not (call.partial and failure.problem.results):
            raise failure
    if call.answer is bytes:
        return cast(AnswerType, response.content)
    reader = cast(type[Answer], call.answer)
    read = read_as(reader, response.content, f"{url}{call.path}: answers {response.status_code}")
    said = {
        field: True for field, name in read.flags.items() if response.headers.get(name) == "true"
    }
    return cast(AnswerType, read.model_copy(update=said) if said else read)


def read_as(reader: type[Answered], content: bytes | str, where: str) -> Answered:
    """Reads a JSON text as an answer; raises `ServiceUnreachable` where it is none."""
    try:
        return reader.model_validate_json(content)
    except ValidationError as error:
        raise ServiceUnreachable(
            f"{where}, but not as this service does ({str(error).splitlines()[0]}); check the "
            "address, and that client and service are of one version"
        ) from error
