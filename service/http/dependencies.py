"""What several routers use, named once."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable
from typing import Annotated, Any

from fastapi import Depends, Path, Query, Request, UploadFile
from starlette.exceptions import HTTPException

from service.errors import InvalidField, ServiceError
from service.http.problems import MEDIA_TYPE, names_of, unknown_name
from service.runtime import Runtime

FORMS = ("multipart/form-data", "application/x-www-form-urlencoded")
Responses = dict[int | str, dict[str, Any]]


# The framework runs a dependency that is not async in a thread of its pool.
async def _runtime(request: Request) -> Runtime:
    runtime: Runtime = request.app.state.runtime
    return runtime


async def _refuse_other_bodies(request: Request) -> None:
    """A body that is no form, or no UTF-8, would be read as something else than was sent.

    Raises:
        HTTPException: 415.
    """
    declared = request.headers.get("content-type", "").lower()
    kind, _, parameters = declared.partition(";")
    foreign_text = "charset" in parameters and "utf-8" not in parameters
    if declared and (kind.strip() not in FORMS or foreign_text):
        raise HTTPException(
            415,
            f"the body is {declared[:80]!r}; send multipart/form-data in UTF-8, images as files",
        )


async def _refuse_unknown_parameters(request: Request) -> None:
    """Refuses a query parameter that the call does not have, as a misspelt filter would widen it.

    Raises:
        InvalidField: for the first of them.
    """
    known = names_of(request.scope["route"].dependant.query_params)
    for name in request.query_params:
        if name not in known:
            raise InvalidField(f"{name}: {unknown_name(request, name)}")


async def _wait_for_gallery(request: Request) -> None:
    """A gallery that another process has just created is waited for.

    Whether there is one of that name at all is found where it is used.
    """
    name = request.path_params.get("gallery")
    if name is not None:
        with contextlib.suppress(ServiceError):
            await (await _runtime(request)).galleries.find(name)


TakesForm = Depends(_refuse_other_bodies)
# Form fields are accepted as query parameters too; the OpenAPI document lists each field once.
UNLISTED = Query(include_in_schema=False)
WaitsForGallery = Depends(_wait_for_gallery)
KnowsParameters = Depends(_refuse_unknown_parameters)
RuntimeDep = Annotated[Runtime, Depends(_runtime)]
GalleryName = Annotated[str, Path(description="A gallery's name.", examples=["default"])]
CropId = Annotated[str, Path(description="A crop's id, as enrolment answered it.")]


async def read_images(runtime: Runtime, images: list[UploadFile]) -> list[bytes]:
    """The bytes of the images of a request.

    Raises:
        InvalidField: for none, or for more than a request may have.
    """
    limit = runtime.settings.max_images_per_request
    if not images:
        raise InvalidField("images: none was sent; send one or more image files in this field")
    if len(images) > limit:
        raise InvalidField(
            f"images: {len(images)} were sent, a request may have {limit}; send several requests, "
            "or raise GMN_MAX_IMAGES_PER_REQUEST"
        )
    return [await image.read() for image in images]


def refusals(*statuses: int, open_to_all: bool = False) -> Responses:
    """The errors of a call, for the OpenAPI document.

    Every call may answer 403, 422, 500 and 503; one that is not open to all 401, and one whose body
    can be too large 408.
    """
    meaning = {
        401: "No key was sent, or one that is unknown or revoked.",
        403: "The key may not do this, or a web page of another site asked.",
        408: "Nothing more of the body arrived for GMN_BODY_TIMEOUT_S.",
        404: "No such gallery, crop or path.",
        409: "The gallery is there already, or was filled by another embedder.",
        400: "The body is no whole multipart form.",
        413: "The body is over GMN_MAX_BODY_BYTES.",
        415: "The body is no form.",
        422: "A field or an image cannot be used.",
        429: "More than GMN_MAX_QUEUED_IMAGES or GMN_MAX_QUEUED_BYTES would be waiting; "
        "Retry-After says when to return.",
        500: "The service failed.",
        503: "The service is stopping or not ready, or its record does not answer.",
        507: "The record store could not write; nothing was stored.",
    }
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    answered = {*statuses, 403, 422, 500, 503}
    if not open_to_all:
        answered.add(401)
    if 413 in answered:
        answered |= {408, 429}
    return {
        status: {"description": meaning[status], "content": content} for status in sorted(answered)
    }


def write_results(results: Iterable[str], **fields: Any) -> bytes:
    """A list answer from its results in JSON; to be called in a thread.

    One native call for a large answer would hold the interpreter, and with it the event loop.
    """
    parts = [f"{json.dumps(name)}:{json.dumps(value)}" for name, value in fields.items()]
    return ("{" + ",".join([*parts, f'"results":[{",".join(results)}]']) + "}").encode()
