"""`/v1/galleries`: create, list, describe, change, delete."""

from __future__ import annotations

from typing import Annotated

from fastapi import Response

from gmn_client.models import Galleries, Gallery, GalleryRemoval
from service.gallery import browse, manage
from service.http.forms import MULTIPART, GallerySettingsFields, NewGalleryFields
from service.http.guard import Call, GalleryCall, guarded_router, needs
from service.http.problems import error_responses
from service.record.records import GallerySettings

router = guarded_router("/v1/galleries", "galleries")


@router.post("", status_code=201, responses=error_responses(400, 409, 413, 415, 507))
async def create_gallery(
    call: Annotated[Call, needs("admin")],
    response: Response,
    form: Annotated[NewGalleryFields, MULTIPART],
) -> Gallery:
    """Creates an empty gallery."""
    call.caller.require_gallery(form.name)
    settings = GallerySettings(**form.changes())
    created = await manage.create_gallery(call.runtime, form.name, settings)
    response.headers["Location"] = f"/v1/galleries/{form.name}"
    return created


@router.get("", responses=error_responses())
async def list_galleries(call: Annotated[Call, needs("query", "enroll")]) -> Galleries:
    """Lists the galleries of the key, by name."""
    galleries = await browse.list_galleries(call.runtime)
    return Galleries(
        results=[one for one in galleries if call.caller.may_see(one.name)],
        audit_queries=call.runtime.settings.audit_queries,
    )


@router.get("/{gallery}", responses=error_responses(404))
async def read_gallery(
    call: Annotated[GalleryCall, needs("query", "enroll")],
) -> Gallery:
    """Reads the description of one gallery."""
    return await browse.describe_gallery(call.runtime, call.gallery)


@router.patch("/{gallery}", responses=error_responses(400, 404, 413, 415, 507))
async def change_gallery(
    call: Annotated[GalleryCall, needs("admin")],
    form: Annotated[GallerySettingsFields, MULTIPART],
) -> Gallery:
    """Changes the settings of a gallery; fields that are not sent stay."""
    reset = form.calibration == "reset"
    return await manage.change_gallery(call.runtime, call.gallery, form.changes(), reset)


@router.delete("/{gallery}", responses=error_responses(404, 409, 507))
async def delete_gallery(
    call: Annotated[GalleryCall, needs("admin")],
) -> GalleryRemoval:
    """Deletes a gallery, every crop in it, and its snapshots; `default` stays."""
    return GalleryRemoval(removed=await manage.delete_gallery(call.runtime, call.gallery))
