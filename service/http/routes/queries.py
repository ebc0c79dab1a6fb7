"""`/v1/galleries/{gallery}/queries`: who is this?"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Form, Request, Response
from fastapi.concurrency import run_in_threadpool

from gmn_client.answers import QueryAnswer, SeparateAnswers
from gmn_client.models import RefusedImage
from model.crops.decode import CropProblem
from service.errors import InvalidField
from service.gallery.versions import wait_for_version
from service.http.dependencies import (
    UNLISTED,
    GalleryName,
    Responses,
    RuntimeDep,
    TakesForm,
    read_images,
    refusals,
)
from service.http.forms import QueryFields, QueryForm, merged
from service.http.problems import answer_problem, none_usable, refused_image
from service.http.security import CallerDep, needs
from service.runtime import Runtime
from service.search.query import Answered, query_by_crop, query_by_images, query_each

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
        "model": SeparateAnswers,
        "description": "With mode=separate: some images were refused.",
        "headers": STALE_HEADER,
    },
}


@router.post(
    "/queries",
    response_model=QueryAnswer | SeparateAnswers,
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
        return await _one(answer)
    images = await read_images(runtime, form.images)
    if fields.mode == "separate":
        answers = await query_each(runtime, gallery, images, options, caller.learn)
        for one in answers:
            if isinstance(one, Answered):
                _audit(runtime, gallery, fields, one)
        return await run_in_threadpool(_separate, request, runtime, answers)
    answer = await query_by_images(runtime, gallery, images, options, caller.learn)
    _audit(runtime, gallery, fields, answer)
    return await _one(answer)


def _audit(runtime: Runtime, gallery: str, fields: QueryFields, answer: Answered) -> None:
    runtime.audit.looked(
        "query",
        gallery=gallery,
        crop_ids=[fields.crop_id] if fields.crop_id else [],
        count=len(answer.searched.ranking.results),
        filters=fields.filters(),
        purpose=fields.purpose or None,
    )


async def _one(answer: Answered) -> Response:
    # A ranking of thousands takes its time to write, in which the event loop serves others.
    body = await run_in_threadpool(lambda: answer.answer().model_dump_json())
    headers = STALE if answer.searched.stale else None
    return Response(body, media_type="application/json", headers=headers)


def _separate(
    request: Request, runtime: RuntimeDep, answers: list[Answered | CropProblem]
) -> Response:
    results: list[QueryAnswer | RefusedImage] = []
    for one in answers:
        if isinstance(one, CropProblem):
            runtime.metrics.problems.labels(one.code).inc()
            results.append(refused_image(one))
        else:
            results.append(one.answer())
    body = SeparateAnswers(results=results)
    refused = sum(isinstance(one, RefusedImage) for one in results)
    if refused == len(results):
        return answer_problem(request, none_usable(body))
    stale = any(isinstance(one, QueryAnswer) and one.stale for one in results)
    return Response(
        body.model_dump_json(),
        media_type="application/json",
        status_code=207 if refused else 200,
        headers=STALE if stale else None,
    )
