"""`/v1/galleries/{gallery}/identities`: list, rename or merge, forget."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Form, Path, Query

from gmn_client.models import ForgottenIdentity, Identities, IdentityDetail, Merges, RenamedIdentity
from service.gallery import browse, relabel
from service.http.dependencies import UNLISTED, GalleryName, RuntimeDep, TakesForm, refusals
from service.http.forms import IdentitiesQuery, IdentityFields, merged
from service.http.security import needs
from service.lifecycle import forget

router = APIRouter(prefix="/v1/galleries/{gallery}", tags=["identities"])
Identity = Annotated[str, Path(description="Who, as enrolled.", examples=["0042"])]


@router.get("/identities", responses=refusals(404), dependencies=[needs("query")])
async def list_identities(
    runtime: RuntimeDep, gallery: GalleryName, asked: Annotated[IdentitiesQuery, Query()]
) -> Identities:
    """Identities in the order of their names; crops without one are not counted."""
    page = await browse.list_identities(runtime, gallery, asked.cursor, asked.limit, asked.query)
    if asked.query:
        searched = {"identity": asked.query}
        runtime.audit.looked("query", gallery=gallery, count=len(page.results), filters=searched)
    return page


@router.get("/identities/{identity:path}", responses=refusals(404), dependencies=[needs("query")])
async def read_identity(
    runtime: RuntimeDep, gallery: GalleryName, identity: Identity
) -> IdentityDetail:
    """How many crops one identity has, and which cameras took them."""
    found = await browse.read_identity(runtime, gallery, identity)
    runtime.audit.looked("query", gallery=gallery, count=1, filters={"identity": identity})
    return found


@router.patch(
    "/identities/{identity:path}",
    responses=refusals(400, 404, 413, 415, 507),
    dependencies=[needs("admin"), TakesForm],
)
async def rename_identity(
    runtime: RuntimeDep,
    gallery: GalleryName,
    identity: Identity,
    form: Annotated[IdentityFields, Form(media_type="multipart/form-data")],
    query: Annotated[IdentityFields, UNLISTED],
) -> RenamedIdentity:
    """Renames an identity, or merges it into one that is there."""
    name = merged(IdentityFields, form, query).name()
    return await relabel.relabel_identity(runtime, gallery, identity, name)


@router.delete(
    "/identities/{identity:path}", responses=refusals(404, 409, 507), dependencies=[needs("admin")]
)
async def forget_identity(
    runtime: RuntimeDep, gallery: GalleryName, identity: Identity
) -> ForgottenIdentity:
    """Forgets a person: every crop, vector, picture and copy in a snapshot.

    The answer says what was removed, and what remains where until when.
    """
    return await forget.forget_identity(runtime, gallery, identity)


@router.get("/merges", responses=refusals(404), dependencies=[needs("query")])
async def list_merges(runtime: RuntimeDep, gallery: GalleryName) -> Merges:
    """The merges of identities of the last 30 days that can be undone, newest first."""
    return await relabel.list_merges(runtime, gallery)


@router.post("/merges/{merge_id}/undo", responses=refusals(404, 507), dependencies=[needs("admin")])
async def undo_merge(
    runtime: RuntimeDep,
    gallery: GalleryName,
    merge_id: Annotated[str, Path(description="As the merge answered it.")],
) -> RenamedIdentity:
    """Undoes a merge: its crops bear their former identity again.

    Crops that were deleted or got another identity since stay as they are.
    """
    return await relabel.undo_merge(runtime, gallery, merge_id)
