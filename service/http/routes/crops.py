"""`/v1/galleries/{gallery}/crops`: enrol, list, read, delete."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Form, Header, Query, Request, Response
from fastapi.concurrency import run_in_threadpool

from gmn_client.models import (
    ChangedCrop,
    Crop,
    Crops,
    EnrolledImage,
    Enrollment,
    RefusedImage,
    Removal,
)
from model.crops.decode import CropProblem
from service.errors import InvalidField
from service.gallery import browse, relabel
from service.gallery.enroll import EnrolmentAnswer, enroll
from service.http.dependencies import (
    UNLISTED,
    CropId,
    GalleryName,
    Responses,
    RuntimeDep,
    TakesForm,
    read_images,
    refusals,
    write_results,
)
from service.http.forms import CropsQuery, EnrollFields, EnrollForm, merged
from service.http.problems import answer_problem, none_usable, refused_image
from service.http.security import needs
from service.lifecycle.forget import forget_crop
from service.ops.failpoints import Failpoint, passed
from service.record.records import CropFilter, LandedCrop

router = APIRouter(prefix="/v1/galleries/{gallery}", tags=["crops"])
IdempotencyKey = Annotated[
    str | None,
    Header(
        min_length=1,
        max_length=255,
        pattern=r"^[\x21-\x7e]+$",
        description="Your name for this request; sent again under it, it happens once.",
    ),
]
SOME_LANDED: Responses = {
    207: {"model": Enrollment, "description": "Some images landed, some did not."}
}


@router.post(
    "/crops",
    status_code=201,
    response_model=Enrollment,
    responses=SOME_LANDED | refusals(400, 404, 409, 413, 415, 429, 507),
    dependencies=[needs("enroll"), TakesForm],
)
async def enroll_crops(
    request: Request,
    runtime: RuntimeDep,
    gallery: GalleryName,
    form: Annotated[EnrollForm, Form(media_type="multipart/form-data")],
    query: Annotated[EnrollFields, UNLISTED],
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Enrols images; what has landed survives a power cut and is found from now on.

    Under one `Idempotency-Key` the same request happens once within a day; sent again it is
    answered as it was, with `Idempotent-Replayed: true`.
    """
    images = await read_images(runtime, form.images)
    passed(Failpoint.ENROLL__BODY_READ)
    described = merged(EnrollFields, form, query).for_images(images)
    name = None if idempotency_key is None else f"client:{idempotency_key}"
    answer = await enroll(runtime, gallery, described, name)
    response = _enrolment(request, runtime, answer)
    if response.status_code == 201:
        response.headers["Location"] = _location(gallery, answer)
    if answer.replayed:
        response.headers["Idempotent-Replayed"] = "true"
    return response


@router.get("/crops", response_model=Crops, responses=refusals(404), dependencies=[needs("query")])
async def list_crops(
    runtime: RuntimeDep,
    gallery: GalleryName,
    asked: Annotated[CropsQuery, Query()],
) -> Response:
    """Crops in the order of their enrolment."""
    cursor = asked.cursor
    if cursor is not None and not (cursor.isdecimal() and len(cursor) < 19):
        raise InvalidField(f"cursor: {cursor[:40]!r} is none; send next_cursor of the page before")
    page = await browse.list_crops(
        runtime,
        gallery,
        CropFilter(asked.identity, asked.camera, asked.external_id),
        cursor,
        asked.limit,
    )
    named = {"identity": asked.identity, "external_id": asked.external_id}
    if filters := {name: value for name, value in named.items() if value is not None}:
        # To ask where somebody was seen is a search, by name.
        runtime.audit.looked("query", gallery=gallery, count=len(page.results), filters=filters)
    body = await run_in_threadpool(
        lambda: write_results(
            (crop.model_dump_json() for crop in page.results), next_cursor=page.next_cursor
        )
    )
    return Response(body, media_type="application/json")


@router.get("/crops/{crop_id}", responses=refusals(404), dependencies=[needs("query")])
async def read_crop(runtime: RuntimeDep, gallery: GalleryName, crop_id: CropId) -> Crop:
    """What is known of one crop."""
    return await browse.read_crop(runtime, gallery, crop_id)


@router.patch(
    "/crops/{crop_id}",
    responses=refusals(400, 404, 409, 413, 415, 507),
    dependencies=[needs("admin"), TakesForm],
)
async def change_crop(
    runtime: RuntimeDep,
    gallery: GalleryName,
    crop_id: CropId,
    form: Annotated[EnrollFields, Form(media_type="multipart/form-data")],
    query: Annotated[EnrollFields, UNLISTED],
) -> ChangedCrop:
    """Changes what is known of a crop: the fields that are sent, an empty one to unknown."""
    fields = merged(EnrollFields, form, query).for_crop()
    return await relabel.change_crop(runtime, gallery, crop_id, fields)


@router.delete("/crops/{crop_id}", responses=refusals(404, 507), dependencies=[needs("enroll")])
async def delete_crop(runtime: RuntimeDep, gallery: GalleryName, crop_id: CropId) -> Removal:
    """Deletes one crop with its vector and picture; a second time it is 404."""
    return await forget_crop(runtime, gallery, crop_id)


@router.get(
    "/crops/{crop_id}/image",
    response_class=Response,
    responses=refusals(404) | {200: {"content": {"image/*": {}}, "description": "The file."}},
    dependencies=[needs("query")],
)
async def read_crop_image(runtime: RuntimeDep, gallery: GalleryName, crop_id: CropId) -> Response:
    """The image file as it was sent; its type is read from its bytes."""
    picture = await browse.read_picture(runtime, gallery, crop_id)
    runtime.audit.looked("view", gallery=gallery, crop_ids=[crop_id])
    # Never cached: what is deleted here must not live on in a browser or proxy.
    headers = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
    return Response(picture.content, media_type=picture.content_type, headers=headers)


def _location(gallery: str, answer: EnrolmentAnswer) -> str:
    """Where a single crop is, or else the list that the crops are in."""
    crops = [one for one in answer.results if isinstance(one, LandedCrop)]
    url = f"/v1/galleries/{gallery}/crops"
    return f"{url}/{crops[0].crop_id}" if len(crops) == 1 else url


def _enrolment(request: Request, runtime: RuntimeDep, answer: EnrolmentAnswer) -> Response:
    results: list[EnrolledImage | RefusedImage] = []
    for one in answer.results:
        if isinstance(one, CropProblem):
            runtime.metrics.problems.labels(one.code).inc()
            results.append(refused_image(one))
        else:
            results.append(EnrolledImage.model_validate(one))
    body = Enrollment(gallery_version=answer.gallery_version, results=results)
    refused = sum(isinstance(one, RefusedImage) for one in results)
    if refused == len(results):
        return answer_problem(request, none_usable(body))
    return Response(
        body.model_dump_json(),
        media_type="application/json",
        status_code=207 if refused else 201,
    )
