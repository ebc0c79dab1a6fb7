"""The ways a request can fail, as exceptions that say what to do."""

from __future__ import annotations

from typing import Any

import httpx
from pydantic import BaseModel, ConfigDict, ValidationError

from model.problems import InputProblem


class Problem(BaseModel):
    """An RFC 9457 problem document, as the service answers it.

    Attributes:
        type: a URI or slug that names the kind of problem; stable for programs.
        title: the kind of problem, for people.
        status: the HTTP status.
        detail: which input, why, and what to do.
        request_id: what the service's log calls the request.
        results: one entry per image where none of them could be used.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    type: str = "about:blank"
    title: str = ""
    status: int = 0
    detail: str = ""
    request_id: str | None = None
    results: list[dict[str, Any]] | None = None


class ProblemError(Exception):
    """The service answered with a problem document, kept in `problem`."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(f"{problem.detail or problem.title} (HTTP {problem.status})")
        self.problem = problem


class RequestRefused(ProblemError, InputProblem):
    """A 4xx answer: the request has to change before it can succeed."""


class KeyRefused(RequestRefused):
    """A 401 or 403 answer about the API key: none, an unknown one, or one that may not do this."""

    def __init__(self, problem: Problem) -> None:
        hint = "give the client a key with the scope it needs (gmn reads GMN_API_KEY)"
        super().__init__(
            problem.model_copy(update={"detail": f"{problem.detail or problem.title}; {hint}"})
        )


class ServiceFailed(ProblemError):
    """A 5xx answer, or 429 until the retries were used up: the same request may succeed later."""


class ServiceUnreachable(InputProblem):
    """Nothing usable answers under the URL."""


def problem_of(response: httpx.Response) -> ProblemError:
    """The exception that an answer with status 400 or more stands for."""
    try:
        problem = Problem.model_validate_json(response.content)
    except ValidationError:
        # A proxy in between, or another program altogether, answers in its own format.
        text = response.text.strip().splitlines()
        problem = Problem(title=response.reason_phrase, detail=text[0][:200] if text else "")
    problem = problem.model_copy(update={"status": response.status_code})
    if response.status_code == httpx.codes.UNAUTHORIZED or problem.type.endswith(":forbidden"):
        return KeyRefused(problem)
    refused = response.status_code < 500 and response.status_code != httpx.codes.TOO_MANY_REQUESTS
    return RequestRefused(problem) if refused else ServiceFailed(problem)


def unreachable(url: str, error: httpx.TransportError | httpx.InvalidURL) -> ServiceUnreachable:
    """What a failed connection means to whoever named the URL."""
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
        return ServiceUnreachable(
            f"{url}: no service answers there ({error}); start one with gmn serve, or give the "
            "right address (gmn reads GMN_URL)"
        )
    if isinstance(error, httpx.InvalidURL | httpx.UnsupportedProtocol):
        return ServiceUnreachable(
            f"{url}: not an address ({error}); write it like http://127.0.0.1:8000"
        )
    return ServiceUnreachable(
        f"{url}: the connection broke off ({type(error).__name__}: {error}); see whether the "
        "service still runs, then try again"
    )
