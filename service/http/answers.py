"""Answers with one result for each image, and long lists."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from fastapi import Request, Response
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel

from gmn_client.models import Enrollment, RefusedImage, SeparateAnswers
from service.errors import problem
from service.http.problems import answer_problem, count

JSON = "application/json"


def answer_each(
    request: Request, answer: Enrollment | SeparateAnswers, status: int = 200
) -> Response:
    """The HTTP answer with one result for each image that was sent.

    Args:
        request: the one that is answered.
        answer: its results.
        status: where no image was refused; 207 where some were, a problem where all were.
    """
    refused = [one.problem for one in answer.results if isinstance(one, RefusedImage)]
    for one in refused:
        count(request, one)
    if len(refused) == len(answer.results):
        detail = f"none of the {len(refused)} images could be used; results has the reason of each"
        results = answer.model_dump(mode="json")["results"]
        return answer_problem(request, problem("unusable_images", detail, results=results))
    return Response(
        answer.model_dump_json(),
        media_type=JSON,
        status_code=207 if refused else status,
    )


async def answer_list(results: Iterable[BaseModel], status: int = 200, **fields: Any) -> Response:
    """A long list, written in a thread, result by result.

    One native call for all of it would hold the interpreter, and with it the event loop.
    """

    def write() -> str:
        parts = [f"{json.dumps(name)}:{json.dumps(value)}" for name, value in fields.items()]
        written = ",".join(result.model_dump_json() for result in results)
        return "{" + ",".join([*parts, f'"results":[{written}]']) + "}"

    body = await run_in_threadpool(write)
    return Response(body, media_type=JSON, status_code=status)
