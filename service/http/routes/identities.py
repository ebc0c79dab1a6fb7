"""`/v1/galleries/{gallery}/identities`: list, rename or merge, forget."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path, Query

from gmn_client.models import (
    ForgottenIdentity,
    Identities,
    IdentityDetail,
    Merges,
    RenamedIdentity,
    SimilarIdentities,
)
from service.gallery import browse, changes
from service.http.forms import MULTIPART, IdentitiesQuery, IdentityFields, SimilarQuery
from service.http.guard import Admin, Searcher, guarded_router
from service.http.problems import problems
from service.lifecycle import forget
from service.search.similar import find_similar

OF_SEARCH = ("needs_reindex", "queue_full", "device_full", "device_lost", "index_unavailable")
router = guarded_router("/v1/galleries/{gallery}", "identities")
Identity = Annotated[str, Path(description="An identity, as enrolled.", examples=["0042"])]


@router.get("/identities")
async def list_identities(call: Searcher, asked: Annotated[IdentitiesQuery, Query()]) -> Identities:
    """Lists identities, by name unless `sort` names another order; unnamed crops are not counted.

    Each has the crop with its best picture: the sharpest and highest, as measured when it was
    enrolled; of crops that were not measured it is the one with the largest file.
    """
    page = await browse.list_identities(
        call.runtime, call.gallery, asked.cursor, asked.limit, asked.query, asked.sort
    )
    if asked.query:
        searched = {"identity": asked.query}
        call.runtime.audit.note_view(
            "query", gallery=call.gallery.name, count=len(page.results), filters=searched
        )
    return page


@router.get("/identities/{identity:path}")
async def read_identity(call: Searcher, identity: Identity) -> IdentityDetail:
    """Reads the crops, cameras and times of one identity, and which crop shows it best."""
    found = await browse.read_identity(call.runtime, call.gallery, identity)
    call.runtime.audit.note_view(
        "query", gallery=call.gallery.name, count=1, filters={"identity": identity}
    )
    return found


@router.get("/similar", responses=problems("unknown_identity", *OF_SEARCH))
async def list_similar(
    call: Searcher, asked: Annotated[SimilarQuery, Query()]
) -> SimilarIdentities:
    """Lists identities that may be the same person as one, the most alike first.

    They are found by a search with its best crops, eight at most, among the named crops of others;
    probabilities and verdicts are those of such a search.
    """
    found = await find_similar(call.runtime, call.gallery, asked.identity, asked.limit)
    call.runtime.audit.note_view(
        "query",
        gallery=call.gallery.name,
        count=len(found.results),
        filters={"identity": asked.identity},
    )
    return found


@router.patch("/identities/{identity:path}")
async def rename_identity(
    call: Admin, identity: Identity, form: Annotated[IdentityFields, MULTIPART]
) -> RenamedIdentity:
    """Renames an identity, or merges it into an existing one."""
    return await changes.relabel_identity(call.runtime, call.gallery, identity, form.new_identity)


@router.delete("/identities/{identity:path}", responses=problems("snapshots_not_rewritten"))
async def forget_identity(call: Admin, identity: Identity) -> ForgottenIdentity:
    """Forgets a person: deletes every crop, vector and image, in snapshots too.

    The answer lists what was removed, and what remains where until when.
    """
    return await forget.forget_identity(call.runtime, call.gallery, identity)


@router.get("/merges")
async def list_merges(call: Searcher) -> Merges:
    """The merges of identities of the last 30 days that can be undone, newest first."""
    merges = call.runtime.record.identities.merges
    return Merges(results=await call.runtime.galleries.read(merges, call.gallery.gallery_id))


@router.post("/merges/{merge_id}/undo")
async def undo_merge(
    call: Admin, merge_id: Annotated[str, Path(description="A merge's id, as its answer has it.")]
) -> RenamedIdentity:
    """Undoes a merge: its crops get their former identity again.

    Crops that were deleted or got another identity since the merge do not change.
    """
    return await changes.undo_merge(call.runtime, call.gallery, merge_id)
