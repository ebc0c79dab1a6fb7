"""`/v1/galleries`: create, list, describe, change, delete."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Form, Response

from gmn_client.models import Galleries, Gallery, GalleryRemoval
from service.errors import InvalidField
from service.gallery import browse, manage
from service.http.dependencies import UNLISTED, GalleryName, RuntimeDep, TakesForm, refusals
from service.http.forms import GalleryFields, GallerySettingsFields, NewGalleryFields, merged
from service.http.security import CallerDep, needs
from service.record.records import GallerySettings

router = APIRouter(prefix="/v1/galleries", tags=["galleries"])


@router.post(
    "",
    status_code=201,
    responses=refusals(400, 409, 413, 415, 507),
    dependencies=[needs("admin"), TakesForm],
)
async def create_gallery(
    runtime: RuntimeDep,
    caller: CallerDep,
    response: Response,
    form: Annotated[NewGalleryFields, Form(media_type="multipart/form-data")],
    query: Annotated[GalleryFields, UNLISTED],
) -> Gallery:
    """Creates an empty gallery."""
    fields = merged(NewGalleryFields, form, query)
    if fields.name is None:
        raise InvalidField("name: is missing; send it as a form field or query parameter")
    caller.require_gallery(fields.name)
    settings = GallerySettings(**fields.changes())
    created = await manage.create_gallery(runtime, fields.name, settings)
    response.headers["Location"] = f"/v1/galleries/{fields.name}"
    return created


@router.get("", responses=refusals(), dependencies=[needs("query", "enroll")])
async def list_galleries(runtime: RuntimeDep, caller: CallerDep) -> Galleries:
    """Every gallery that the key is for, by name."""
    galleries = await browse.list_galleries(runtime)
    return Galleries(
        results=[one for one in galleries if caller.may_see(one.name)],
        audit_queries=runtime.settings.audit_queries,
    )


@router.get("/{gallery}", responses=refusals(404), dependencies=[needs("query", "enroll")])
async def read_gallery(runtime: RuntimeDep, gallery: GalleryName) -> Gallery:
    """What one gallery holds."""
    return await browse.describe_gallery(runtime, gallery)


@router.patch(
    "/{gallery}",
    responses=refusals(400, 404, 413, 415, 507),
    dependencies=[needs("admin"), TakesForm],
)
async def change_gallery(
    runtime: RuntimeDep,
    gallery: GalleryName,
    form: Annotated[GallerySettingsFields, Form(media_type="multipart/form-data")],
    query: Annotated[GallerySettingsFields, UNLISTED],
) -> Gallery:
    """Changes how a gallery is kept; what is left out stays."""
    fields = merged(GallerySettingsFields, form, query)
    return await manage.change_gallery(runtime, gallery, fields.changes(), fields.resets)


@router.delete("/{gallery}", responses=refusals(404, 409, 507), dependencies=[needs("admin")])
async def delete_gallery(runtime: RuntimeDep, gallery: GalleryName) -> GalleryRemoval:
    """Deletes a gallery, every crop in it, and its snapshots; `default` stays."""
    return GalleryRemoval(removed=await manage.delete_gallery(runtime, gallery))
