"""Answers: results per image, long lists, lines of CSV, and RFC 9457 problem documents."""

from __future__ import annotations

import csv
import difflib
import errno
import io
import json
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.routing import Match, Route

from gmn_client.models import (
    Embeddings,
    Enrollment,
    Problem,
    RefusedImage,
    SeparateAnswers,
    SeparateGalleriesAnswers,
    Sighted,
)
from service.api_keys import redacted
from service.errors import (
    MAX_ANSWER_BYTES,
    TOO_MUCH_METADATA,
    AnswerTooLarge,
    InvalidField,
    ServiceError,
    StorageFailed,
    machine_error,
    problem,
    status_of,
)
from service.http.limits import hold_answer
from service.http.multipart import NO_FILE_NAME
from service.record.values import JsonObject
from service.wording import describe_invalid

log = logging.getLogger(__name__)
CODE_OF_STATUS = {
    400: "bad_request",
    404: "not_found",
    405: "method_not_allowed",
    408: "body_too_slow",
    413: "body_too_large",
    415: "unsupported_media_type",
    429: "queue_full",
    500: "internal_error",
    503: "not_ready",
}
# Names that other services give to a file, by the field that takes it here.
FILE_FIELDS = ("images", "archive")
FILE_NAMES = frozenset(
    f"{name}{end}"
    for name in ("data", "file", "image", "img", "photo", "picture", "upload")
    for end in ("", "s", "[]", "s[]")
)
# Errors of a disk that is full or read-only.
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
# A body may have thousands of errors, and the name of a field a million characters.
MOST_ERRORS = 10
MOST_NAME_CHARACTERS = 80
MEDIA_TYPE = "application/problem+json"
EXAMPLES = json.loads(Path(__file__).with_name("examples.json").read_text(encoding="utf-8"))
REQUEST_ID = "5f0c2b7d9e1a4c38"
Responses = dict[int | str, dict[str, Any]]
JSON = "application/json"
# A result takes this much memory beside its metadata.
RESULT_BYTES = 3000
LISTS = ("results", "galleries")
# Spreadsheets run text that begins like a formula, in part also after a tab or line break. Text
# that begins with an apostrophe gets another one, so that removing one always gives the text.
ESCAPED = ("=", "+", "-", "@", "\t", "\r", "\n", "'")


def answer_problem(
    request: Request, document: Problem, headers: Mapping[str, str] | None = None
) -> Response:
    """Return a problem as an answer, with API keys that were sent in a wrong place removed."""
    request_id = request.scope.get("state", {}).get("request_id")
    document = document.model_copy(update={"request_id": request_id})
    count(request, document)
    text = redacted(document.model_dump_json(exclude_none=True))
    return Response(text, document.status, headers, MEDIA_TYPE)


def count(request: Request, document: Problem) -> None:
    metrics = getattr(request.app.state, "metrics", None)
    if metrics is not None:
        metrics.problems.labels(document.code).inc()


def handle_errors(app: FastAPI) -> None:
    app.exception_handler(ServiceError)(_answer_service_error)
    app.exception_handler(RequestValidationError)(_answer_invalid_request)
    app.exception_handler(HTTPException)(_answer_http_error)
    app.exception_handler(OSError)(_answer_disk_error)


async def _answer_service_error(request: Request, error: ServiceError) -> Response:
    if request.method == "DELETE" and error.status == 404:
        # To a client that repeats a deletion it says that the first attempt has happened.
        try:
            await request.app.state.runtime.galleries.wait_until_kept()
        except ServiceError as failure:
            error = failure
    if error.status in (401, 403):
        actor = getattr(getattr(request.state, "caller", None), "key_id", "unknown")
        address = request.client.host if request.client else "unknown"
        request.app.state.runtime.audit.note_refusal(actor, address, error.status)
    headers = {"WWW-Authenticate": "Bearer"} if error.status == 401 else None
    if error.retry_after_s is not None:
        headers = {"Retry-After": str(error.retry_after_s)}
    return answer_problem(request, error.document(), headers)


async def _answer_disk_error(request: Request, error: OSError) -> Response:
    """Answer an error of the machine that no call has turned into a problem of its own."""
    if failure := machine_error(error):
        return await _answer_service_error(request, failure)
    if error.errno not in DISK_ERRORS:
        raise error
    # The message of the error names a path.
    log.error("a request failed by its disk", exc_info=error)
    return await _answer_service_error(
        request,
        StorageFailed(
            f"the disk of the data directory failed ({error.strerror}); see dmesg and the log, "
            "free space there or make it writable, and send the request again"
        ),
    )


async def _answer_invalid_request(request: Request, error: RequestValidationError) -> Response:
    invalid = [_describe_invalid_field(request, entry) for entry in error.errors()[:MOST_ERRORS]]
    detail = "; ".join(field.detail for field in invalid)
    fields = [message for field in invalid for message in field.more["errors"]]
    return answer_problem(request, problem("invalid_field", detail, errors=fields))


async def _answer_http_error(request: Request, error: HTTPException) -> Response:
    # FastAPI treats any error while reading a body as a malformed body.
    cause = error.__cause__
    failure = cause if isinstance(cause, ServiceError) else machine_error(cause)
    if failure is not None:
        return await _answer_service_error(request, failure)
    code = CODE_OF_STATUS.get(error.status_code, f"http_{error.status_code}")
    detail = str(error.detail)
    # The URL of the request is made of its Host header, which may contain anything.
    path = request.scope["path"]
    detail = {
        400: f"{detail.rstrip('.')}; {_remedy_for_body(detail)}",
        404: f"there is nothing at {path}; {_hint_at_slashes(request)}/docs lists every call",
        405: f"{request.method} is not a call of {path}; /docs lists every call",
    }.get(error.status_code, detail)
    headers = error.headers
    if error.status_code == 405 and (calls := _find_methods(request)):
        # FastAPI names the methods of one route only, but a path may have several.
        headers = {"Allow": ", ".join(calls)}
    return answer_problem(request, problem(code, detail, error.status_code), headers)


def _remedy_for_body(detail: str) -> str:
    if detail.startswith("Too many"):
        return "send fewer in one request"
    if "exceeded" in detail:
        return "send less text, and images as files with a file name"
    return "send a whole multipart/form-data body, as curl -F does"


def _hint_at_slashes(request: Request) -> str:
    path = request.scope["path"]
    without = re.sub("/{2,}", "/", path).rstrip("/") or "/"
    scope = {**request.scope, "path": without, "raw_path": None}
    routes = (route for route in request.app.routes if isinstance(route, Route))
    if without == path or all(route.matches(scope)[0] == Match.NONE for route in routes):
        return ""
    return f"without superfluous slashes it is {without}, and "


def _find_methods(request: Request) -> list[str]:
    path = request.scope["path"]
    return sorted(
        method
        for route in request.app.routes
        if isinstance(route, APIRoute) and route.path_regex.match(path)
        for method in route.methods or ()
    )


def _describe_invalid_field(request: Request, error: dict[str, Any]) -> InvalidField:
    cause = error.get("ctx", {}).get("error")
    if isinstance(cause, InvalidField):
        return cause
    names = [str(part) for part in error["loc"][1:] if isinstance(part, str)]
    field = ".".join(names)[:MOST_NAME_CHARACTERS] or str(error["loc"][0])
    if "Expected UploadFile" in error["msg"]:
        message = NO_FILE_NAME
    elif error["type"] == "extra_forbidden":
        message = unknown_name(request, str(error["loc"][-1]))
    elif isinstance(error.get("input"), UploadFile):
        message = "is a file; send it as text, without a file name"
    elif field == "cursor":
        message = "is of no page of this listing; send next_cursor of the page before"
    elif field == "idempotency-key" and error["type"] == "string_pattern_mismatch":
        message = (
            "has a space, a control character or a letter beyond ASCII; send letters, digits and "
            "signs of ASCII alone"
        )
    else:
        message = describe_invalid(error)
    return InvalidField(f"{field}: {message}")


def unknown_name(request: Request, name: str) -> str:
    dependant = request.scope["route"].dependant
    fields = names_of(dependant.body_params)
    if name in fields:
        return "was sent as a query parameter; send it as a field of the form, in the body"
    name = name[:MOST_NAME_CHARACTERS]
    close = difflib.get_close_matches(name, names_of(dependant.query_params) | fields, 1)
    if name.lower() in FILE_NAMES:
        close = [field for field in FILE_FIELDS if field in fields] or close
    hint = f"did you mean {close[0]}?" if close else "see /docs for those it has"
    return f"this call has no such field; {hint}"


def names_of(parameters: Sequence[Any]) -> set[str]:
    names: set[str] = set()
    for parameter in parameters:
        fields = getattr(parameter.field_info.annotation, "model_fields", (parameter.alias,))
        names |= set(fields)
    return names


async def answer_each(
    request: Request,
    answer: Embeddings | Enrollment | SeparateAnswers | SeparateGalleriesAnswers | Sighted,
    status: int = 200,
) -> Response:
    """Answer with one result per image.

    The status is `status` if no image was refused, 207 if some were; if all were, the answer is a
    problem document.
    """
    refused = [image.problem for image in answer.results if isinstance(image, RefusedImage)]
    for document in refused:
        count(request, document)
    if len(refused) == len(answer.results):
        which = f"none of the {len(refused)} images" if len(refused) > 1 else "the only image"
        can = "could" if len(refused) > 1 else "could not"
        detail = f"{which} {can} be used; image 1: {refused[0].detail}"
        if len(refused) > 1:
            detail += "; results has the reason of each"
        results = answer.model_dump(mode="json")["results"]
        document = problem("unusable_images", detail, status_of(refused), results=results)
        return answer_problem(request, document)
    status = 207 if refused else status
    if isinstance(answer, Enrollment | Sighted):
        return Response(answer.model_dump_json(), status, media_type=JSON)
    return await write_list(request, answer, status)


async def write_list(request: Request, answer: BaseModel, status: int = 200) -> Response:
    """Answer with a list of `results`, serialised in a thread one by one.

    A single native call for all of them would block the interpreter and with it the event loop.

    Raises:
        AnswerTooLarge: the answer has more than `MAX_ANSWER_BYTES`.
        HTTPException: there is no room for the answer.
    """
    hold_answer(request, _estimate_bytes(answer))
    body = await run_in_threadpool(_serialize, answer)
    hold_answer(request, len(body))
    return Response(body, status, media_type=JSON)


def _estimate_bytes(answer: BaseModel) -> int:
    lists = [getattr(answer, name, None) or () for name in LISTS]
    metadata = getattr(answer, "metadata", None)
    metadata_bytes = len(metadata.text) if isinstance(metadata, JsonObject) else 0
    return (
        RESULT_BYTES
        + metadata_bytes
        + sum(_estimate_bytes(item) for items in lists for item in items)
    )


def _serialize(answer: BaseModel) -> bytes:
    lists = [name for name in LISTS if getattr(answer, name, None) is not None]
    if not lists:
        return answer.model_dump_json().encode()
    body = bytearray(answer.model_dump_json(exclude=set(lists)).encode()[:-1])
    for name in lists:
        body += b'%b"%b":[' % (b"," if len(body) > 1 else b"", name.encode())
        for number, item in enumerate(getattr(answer, name)):
            body += (b"," if number else b"") + _serialize(item)
            if len(body) > MAX_ANSWER_BYTES:
                raise AnswerTooLarge(TOO_MUCH_METADATA)
        body += b"]"
    return bytes(body + b"}")


def csv_header(*names: str) -> str:
    """Format the first line, after a mark without which Excel reads UTF-8 as another encoding."""
    return f"\ufeff{csv_line(*names)}"


def csv_line(*values: object) -> str:
    """Format one line; None becomes an empty field.

    An apostrophe is put before text that a spreadsheet would run as a formula, and before text that
    already begins with one.
    """
    line = io.StringIO()
    csv.writer(line).writerow(
        f"'{value}" if isinstance(value, str) and value.startswith(ESCAPED) else value
        for value in values
    )
    return line.getvalue()


def csv_lines(answers: Iterable[BaseModel]) -> str:
    """Format a line for each answer; for thousands of them, call it in a thread."""
    return "".join(csv_line(*answer.model_dump(mode="json").values()) for answer in answers)


def example(answer: str) -> dict[str, Any]:
    return {"content": {"application/json": {"example": EXAMPLES["answers"][answer]}}}


def content(media_type: str, description: str) -> Responses:
    return {200: {"content": {media_type: {}}, "description": description}}


def problems(*codes: str, among: Responses | None = None) -> Responses:
    """Return problem responses for a route's `responses`.

    Args:
        codes: keys of `problems` in examples.json.
        among: responses to which these are added, by status.
    """
    responses = dict(among or {})
    for code in codes:
        document = problem(code, **EXAMPLES["problems"][code], request_id=REQUEST_ID)
        empty = {"schema": {"$ref": "#/components/schemas/Problem"}, "examples": {}}
        answer = responses.setdefault(document.status, {"content": {MEDIA_TYPE: empty}})
        examples = answer["content"][MEDIA_TYPE]["examples"]
        examples[code] = {"value": document.model_dump(mode="json", exclude_none=True)}
        titles = (entry["value"]["title"] for entry in examples.values())
        answer["description"] = ", or ".join(titles) + "."
    return dict(sorted(responses.items()))
