"""`/v1/galleries`: create, list, describe, delete."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Form, Query, Response

from service.api.dependencies import GalleryName, RuntimeDep, TakesForm, refusals
from service.api.forms import GalleryFields, merged
from service.api.schemas import GalleriesOut, GalleryOut, GalleryRemovalOut
from service.api.security import CallerDep, needs
from service.operations import browse
from service.problems import InvalidField

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
    form: Annotated[GalleryFields, Form(media_type="multipart/form-data")],
    query: Annotated[GalleryFields, Query()],
) -> GalleryOut:
    """Creates an empty gallery."""
    name = merged(GalleryFields, form, query).name
    if name is None:
        raise InvalidField("name: is missing; send it as a form field or query parameter")
    caller.require_gallery(name)
    created = await browse.create_gallery(runtime, name)
    response.headers["Location"] = f"/v1/galleries/{name}"
    return GalleryOut.of(created)


@router.get("", responses=refusals(), dependencies=[needs("query", "enroll")])
async def list_galleries(runtime: RuntimeDep, caller: CallerDep) -> GalleriesOut:
    """Every gallery that the key is for, by name."""
    galleries = await browse.list_galleries(runtime)
    return GalleriesOut(
        results=[GalleryOut.of(one) for one in galleries if caller.may_see(one.name)]
    )


@router.get("/{gallery}", responses=refusals(404), dependencies=[needs("query", "enroll")])
async def describe_gallery(runtime: RuntimeDep, gallery: GalleryName) -> GalleryOut:
    """What one gallery holds."""
    return GalleryOut.of(await browse.describe_gallery(runtime, gallery))


@router.delete("/{gallery}", responses=refusals(404, 409, 507), dependencies=[needs("admin")])
async def delete_gallery(runtime: RuntimeDep, gallery: GalleryName) -> GalleryRemovalOut:
    """Deletes a gallery and every crop in it; `default` stays."""
    return GalleryRemovalOut(removed=await runtime.galleries.delete(gallery))
