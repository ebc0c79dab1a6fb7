"""Exceptions of failed calls; their messages contain the remedy."""

from __future__ import annotations

import contextlib
import csv
import io
from typing import TypeVar

import httpx2
from pydantic import TypeAdapter, ValidationError

from gmn_client.addresses import REMEDY, is_malformed, without_secret
from gmn_client.models import Enrollment, JobProblem, Problem
from gmn_client.proxies import Proxy

Answer = TypeVar("Answer")
ENROLLMENT = TypeAdapter(Enrollment)
# Name of the extension of a response that holds the proxy through which it came, if any.
PROXY = "gmn_proxy"


class GmnError(Exception):
    """Base of the client's errors: the message names the cause and the remedy."""


class InvalidInput(GmnError, ValueError):
    """An argument that cannot be used; nothing was sent."""


class ProblemError(GmnError):
    """The service answered with a problem document, stored in `problem`.

    If it refused images, the message has the reason of the first one.
    """

    def __init__(self, problem: Problem) -> None:
        message = problem.detail or problem.title
        reason = _first_reason(problem)
        # The detail of some problems has the reason already.
        if reason not in message:
            message = f"{message}; {reason}"
        super().__init__(f"{message} (HTTP {problem.status})")
        self.problem = problem


def _first_reason(problem: Problem) -> str:
    """Return the first refused image with the reason, or empty text."""
    for number, result in enumerate(problem.results or (), 1):
        refused = result.get("problem")
        if refused:
            return f"image {number}: {refused.get('detail') or refused.get('title')}"
    return ""


class RequestRefused(ProblemError):
    """A 4xx answer: the request must be changed before it can succeed."""


class KeyRefused(RequestRefused):
    """A 401 or 403 answer: the API key is missing, unknown, or lacks the scope."""

    def __init__(self, problem: Problem) -> None:
        hint = (
            "give the client a key with the scope it needs (gmn reads GMN_API_KEY, gmn camera also "
            "--api-key-file)"
        )
        super().__init__(
            problem.model_copy(update={"detail": f"{problem.detail or problem.title}; {hint}"})
        )


class ServiceFailed(ProblemError):
    """A 5xx answer, or 429 after all retries: the same request may succeed later.

    `retry_after` is the pause in seconds that the answer asks for, None if it asks for none.
    """

    def __init__(self, problem: Problem, retry_after: float | None = None) -> None:
        super().__init__(problem)
        self.retry_after = retry_after

    def after(self, attempts: int) -> ServiceFailed:
        """Return the error of the last of several attempts, which says that it is no exception."""
        if attempts == 1 or self.problem.code != "queue_full":
            return self
        detail = (
            f"{self.problem.detail}. All {attempts} attempts were answered so: more is sent than "
            "the service computes, so send fewer images a second"
        )
        return ServiceFailed(self.problem.model_copy(update={"detail": detail}), self.retry_after)


class ServiceUnreachable(GmnError):
    """No such service answers at the URL."""


def checked(response: httpx2.Response) -> httpx2.Response:
    """Return the response if it is 2xx; raises the matching exception otherwise."""
    if response.is_success:
        return response
    proxy = response.extensions.get(PROXY)
    if proxy is not None and response.status_code == httpx2.codes.PROXY_AUTHENTICATION_REQUIRED:
        raise ServiceUnreachable(
            f"{response.request.url.host}: {proxy} answers 407; write the user and password into "
            f"{proxy.variable} like http://USER:PASSWORD@proxy.example:3128, or name {proxy.host} "
            "in NO_PROXY"
        )
    problem = Problem()
    with contextlib.suppress(ValidationError):
        problem = Problem.model_validate_json(response.content)
    if not (problem.title or problem.detail):
        # A proxy in between, or an unrelated program, answers in its own format.
        text = response.text.strip().splitlines()
        title = response.reason_phrase
        detail = text[0][:200] if text else ""
        if proxy is not None:
            detail = f"{detail or title}; answered through {proxy}: {proxy.remedy}"
        problem = Problem(title=title, detail=detail)
    status = response.status_code
    problem = problem.model_copy(update={"status": status})
    if status == httpx2.codes.UNAUTHORIZED or problem.type.endswith(":forbidden"):
        raise KeyRefused(problem)
    if status < 500 and status != httpx2.codes.TOO_MANY_REQUESTS:
        raise RequestRefused(problem)
    wait = response.headers.get("Retry-After", "")
    raise ServiceFailed(problem, float(wait) if wait.isdecimal() else None)


def unreachable(
    url: str,
    error: httpx2.TransportError | httpx2.InvalidURL,
    proxy: Proxy | None = None,
    timeout: httpx2.Timeout | None = None,
) -> ServiceUnreachable:
    """Return the exception for a call of `url` that got no answer.

    Args:
        proxy: proxy of the call, if there was one.
        timeout: time that the client waited.
    """
    reason = REMEDY if is_malformed(url) else str(error)
    url = without_secret(url)
    if isinstance(error, (httpx2.InvalidURL, httpx2.UnsupportedProtocol)):
        return ServiceUnreachable(
            f"{url}: not an address ({reason}); write it like http://127.0.0.1:8000"
        )
    if timeout is not None and isinstance(error, httpx2.TimeoutException):
        return _out_of_time(url, error, proxy, timeout)
    if proxy is not None:
        return ServiceUnreachable(
            f"{url}: cannot be reached through {proxy} ({type(error).__name__}: {error}); "
            f"{proxy.remedy}"
        )
    if isinstance(error, (httpx2.ConnectError, httpx2.ConnectTimeout)):
        return ServiceUnreachable(
            f"{url}: no service answers there ({error}); start one with gmn serve, or give the "
            "right address (gmn reads GMN_URL)"
        )
    return ServiceUnreachable(
        f"{url}: the connection broke off ({type(error).__name__}: {error}); see whether the "
        "service still runs, then try again"
    )


def _out_of_time(
    url: str, error: httpx2.TimeoutException, proxy: Proxy | None, timeout: httpx2.Timeout
) -> ServiceUnreachable:
    """Return the exception for a timeout; the service may be there, but slow."""
    seconds = timeout.read
    what = "no answer"
    remedy = "the service is slow or stands still: try again"
    if isinstance(error, httpx2.ConnectTimeout):
        seconds = timeout.connect
        what = "no connection"
        remedy = "give the right address (gmn reads GMN_URL), look at the network"
    elif isinstance(error, httpx2.WriteTimeout):
        seconds = timeout.write
        what = "nothing more of the request was taken"
    elif isinstance(error, httpx2.PoolTimeout):
        seconds = timeout.pool
        what = "no connection of the client was free"
        remedy = "make fewer calls at once"
    through = "" if proxy is None else f" through {proxy}"
    return ServiceUnreachable(
        f"{url}: {what} within {seconds:g} s (timeout={seconds:g}){through}; {remedy}, or give the "
        "client a longer timeout"
    )


def parse(adapter: TypeAdapter[Answer], response: httpx2.Response) -> Answer:
    """Parse a JSON answer; raises `ServiceUnreachable` if it is not from this service."""
    try:
        return adapter.validate_json(checked(response).content)
    except ValidationError as error:
        raise ServiceUnreachable(
            f"{without_secret(str(response.request.url))}: answers, but not as this service does "
            f"({str(error).splitlines()[0]}); check the address, and that client and service are "
            "of one version"
        ) from error


def parse_enrollment(response: httpx2.Response) -> Enrollment:
    """Parse the outcome of each image, also if none of them was usable."""
    try:
        enrolled = parse(ENROLLMENT, response)
    except RequestRefused as refusal:
        if not refusal.problem.results:
            raise
        return Enrollment.model_validate({"results": refusal.problem.results})
    replayed = response.headers.get("Idempotent-Replayed") == "true"
    return enrolled.model_copy(update={"replayed": replayed})


def parse_report(response: httpx2.Response) -> list[JobProblem]:
    """Parse a job's report, which is CSV with a header line; raises like `parse`."""
    try:
        # The service begins with a mark for spreadsheet programs.
        text = checked(response).content.decode("utf-8-sig")
        rows = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        problems = [JobProblem.model_validate(row) for row in rows]
    except (csv.Error, ValidationError, UnicodeDecodeError) as error:
        raise ServiceUnreachable(
            f"{without_secret(str(response.request.url))}: answers no report of a job ({error}); "
            "check the address"
        ) from error
    # The service puts an apostrophe before text that a spreadsheet would run as a formula.
    plain = {"source", "detail"}
    return [
        item.model_copy(update={name: getattr(item, name).removeprefix("'") for name in plain})
        for item in problems
    ]
