"""`/v1/galleries/{gallery}/queries`: who is this?"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Form, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse

from model.crops.decode import CropProblem
from service.api.dependencies import (
    UNLISTED,
    GalleryName,
    Responses,
    RuntimeDep,
    TakesForm,
    read_images,
    refusals,
)
from service.api.errors import answer_problem, image_problem, problem
from service.api.forms import QueryFields, QueryForm, merged
from service.api.schemas.base import RefusedOut
from service.api.schemas.queries import QueryOut, SeparateOut
from service.api.security import CallerDep, needs
from service.operations.query import QueryAnswer, query_by_crop, query_by_images, query_each
from service.operations.versions import wait_for_version
from service.problems import InvalidField
from service.runtime import Runtime

router = APIRouter(prefix="/v1/galleries/{gallery}", tags=["queries"])
STALE = {"GMN-Stale": "true"}
STALE_HEADER = {
    "GMN-Stale": {
        "description": "There where an answer is `stale`.",
        "schema": {"type": "string", "enum": ["true"]},
    }
}
ANSWERED: Responses = {
    200: {"description": "A ranking, or one for each image.", "headers": STALE_HEADER},
    207: {
        "model": SeparateOut,
        "description": "With mode=separate: some images were refused.",
        "headers": STALE_HEADER,
    },
}


@router.post(
    "/queries",
    response_model=QueryOut | SeparateOut,
    responses=ANSWERED | refusals(400, 404, 409, 413, 415, 429),
    dependencies=[needs("query"), TakesForm],
)
async def query_gallery(
    request: Request,
    runtime: RuntimeDep,
    caller: CallerDep,
    gallery: GalleryName,
    form: Annotated[QueryForm, Form(media_type="multipart/form-data")],
    query: Annotated[QueryFields, UNLISTED],
) -> Response:
    """Ranks the gallery by likeness to one person and says how sure it is.

    Several images are one multi-shot query whose scores are means over the images; an image that
    cannot be used is left out, and `warnings` names it. With `mode=separate` each image has its own
    answer. By `crop_id` the crop itself is left out.
    """
    fields = merged(QueryFields, form, query)
    options = fields.options()
    await wait_for_version(runtime, gallery, fields.min_version)
    if fields.crop_id is not None:
        if form.images:
            raise InvalidField("crop_id: was sent with images; send one or the other")
        answer = await query_by_crop(runtime, gallery, fields.crop_id, options)
        _audit(runtime, gallery, fields, answer)
        return await _one(gallery, answer)
    images = await read_images(runtime, form.images)
    if fields.mode == "separate":
        answers = await query_each(runtime, gallery, images, options, caller.learn)
        for one in answers:
            if isinstance(one, QueryAnswer):
                _audit(runtime, gallery, fields, one)
        return await run_in_threadpool(_separate, request, runtime, gallery, answers)
    answer = await query_by_images(runtime, gallery, images, options, caller.learn)
    _audit(runtime, gallery, fields, answer)
    return await _one(gallery, answer)


def _audit(runtime: Runtime, gallery: str, fields: QueryFields, answer: QueryAnswer) -> None:
    runtime.audit.looked(
        "query",
        gallery=gallery,
        crop_ids=[fields.crop_id] if fields.crop_id else [],
        count=len(answer.ranking.results),
        filters=fields.filters(),
        purpose=fields.purpose or None,
    )


async def _one(gallery: str, answer: QueryAnswer) -> Response:
    # A ranking of thousands takes its time to write, in which the event loop serves others.
    body = await run_in_threadpool(lambda: QueryOut.of(gallery, answer).model_dump_json())
    headers = STALE if answer.stale else None
    return Response(body, media_type="application/json", headers=headers)


def _separate(
    request: Request,
    runtime: RuntimeDep,
    gallery: str,
    answers: list[QueryAnswer | CropProblem],
) -> Response:
    results: list[dict[str, Any]] = []
    refused = 0
    for one in answers:
        if isinstance(one, CropProblem):
            refused += 1
            runtime.metrics.problems.labels(one.code).inc()
            results.append(RefusedOut(problem=image_problem(one)).model_dump(exclude_none=True))
        else:
            results.append(_dump(gallery, one))
    if refused == len(answers):
        detail = f"none of the {refused} images could be used; results says why, one by one"
        return answer_problem(request, problem("unusable_images", detail, results=results))
    stale = any(isinstance(one, QueryAnswer) and one.stale for one in answers)
    return JSONResponse(
        {"results": results},
        status_code=207 if refused else 200,
        headers=STALE if stale else None,
    )


def _dump(gallery: str, answer: QueryAnswer) -> dict[str, Any]:
    return QueryOut.of(gallery, answer).model_dump(mode="json")
