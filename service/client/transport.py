"""What both clients do around a request: encode it, judge the answer, decide on a retry."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar, cast

import httpx
from pydantic import BaseModel, ValidationError

from model.problems import InputProblem
from service.client.calls import Call
from service.client.problems import ServiceUnreachable, problem_of

AnswerType = TypeVar("AnswerType")
RETRIED = (httpx.codes.TOO_MANY_REQUESTS, httpx.codes.SERVICE_UNAVAILABLE)


@dataclass(frozen=True)
class Retries:
    """How patient a client is with a service that is full or still starting.

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
            asked = 0.25 * 2.0 ** (attempt - 1)
        return min(max(asked, 0.0), self.longest_wait)


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
            "give the whole key and nothing else, in GMN_API_KEY or --api-key"
        )
    return {"Authorization": f"Bearer {key}"}


def arguments(call: Call[Any]) -> dict[str, Any]:
    """What `httpx.Client.request` needs to send a call."""
    form = {
        "data": call.fields or None,
        "files": [("images", (name, data)) for name, data in call.images] or None,
    }
    return {
        "method": call.method,
        "url": call.path,
        "params": call.params or None,
        **form,
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
    reader = cast(type[BaseModel], call.answer)
    try:
        return cast(AnswerType, reader.model_validate_json(response.content))
    except ValidationError as error:
        raise ServiceUnreachable(
            f"{url}{call.path}: answers {response.status_code}, but not as this service does "
            f"({str(error).splitlines()[0]}); check the address, and that client and service are "
            "of one version"
        ) from error
