"""`/v1/galleries/{gallery}/identities`: list, rename or merge, forget."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path, Query

from gmn_client import models
from service.gallery import browse, changes, forget
from service.http.forms import CURSOR_TEXT, MULTIPART, Form, Limit, Name
from service.http.guard import Admin, Searcher, guarded_router
from service.http.problems import problems
from service.search.options import Id, Text
from service.search.similar import find_similar

# Characters of a cursor: a name, and the number that it is sorted by.
MAX_PLACE = 512
OF_SEARCH = ("needs_reindex", "queue_full", "device_full", "device_lost", "index_unavailable")
router = guarded_router("/v1/galleries/{gallery}", "identities")
Identity = Annotated[Text, Path(description="An identity, as enrolled.", examples=["0042"])]


Part = Annotated[Text, Query(description="Only identities that contain this text, in any case.")]
Order = Annotated[
    models.IdentityOrder,
    Query(
        description="In natural order (7 before 10), the last seen first, or those with the most "
        "crops first."
    ),
]


class IdentityFields(Form):
    """An identity's new name."""

    new_identity: Name
    """The new name; an existing identity of that name is merged with."""


@router.get("/identities")
async def list_identities(
    call: Searcher,
    cursor: Annotated[str | None, Query(max_length=MAX_PLACE, description=CURSOR_TEXT)] = None,
    limit: Limit = 100,
    query: Part = "",
    sort: Order = "name",
) -> models.Identities:
    """Lists identities, by name unless `sort` names another order; unnamed crops are not counted.

    Each has the crop with its best picture: the sharpest and highest, as measured when it was
    enrolled; of crops that were not measured it is the one with the largest file.
    """
    page = await browse.list_identities(call.runtime, call.gallery, cursor, limit, query, sort)
    event = "query" if query else "list_identities"
    call.note_view(event, count=len(page.results), filters={"identity": query})
    return page


@router.get("/identities/{identity:path}")
async def read_identity(call: Searcher, identity: Identity) -> models.IdentityDetail:
    """Reads the crops, cameras and times of one identity, and which crop shows it best."""
    found = await browse.read_identity(call.runtime, call.gallery, identity)
    call.note_view("query", count=1, filters={"identity": identity})
    return found


@router.get("/similar", responses=problems("unknown_identity", *OF_SEARCH))
async def list_similar(
    call: Searcher,
    identity: Annotated[Name, Query(description="The identity.")],
    limit: Annotated[int, Query(ge=1, le=100, description="How many at most.")] = 10,
) -> models.SimilarIdentities:
    """Lists identities that may be the same person as one, the most alike first.

    They are found by a search with its best crops, eight at most, among the named crops of others;
    probabilities and verdicts are those of such a search.
    """
    call.runtime.audit.require_room()
    found = await find_similar(call.runtime, call.gallery, identity, limit)
    call.note_view("query", count=len(found.results), filters={"identity": identity})
    return found


@router.patch("/identities/{identity:path}")
async def rename_identity(
    call: Admin, identity: Identity, form: Annotated[IdentityFields, MULTIPART]
) -> models.RenamedIdentity:
    """Renames an identity, or merges it into an existing one."""
    return await changes.relabel_identity(call.runtime, call.gallery, identity, form.new_identity)


@router.delete("/identities/{identity:path}", responses=problems("snapshots_not_rewritten"))
async def forget_identity(call: Admin, identity: Identity) -> models.ForgottenIdentity:
    """Forgets a person: deletes every crop, vector and image, in snapshots too.

    The answer lists the removed data, and the places and times of the remaining copies.
    """
    return await forget.forget_identity(call.runtime, call.gallery, identity)


@router.get("/merges")
async def list_merges(call: Searcher) -> models.Merges:
    """Lists the merges of identities of the last 30 days that can be undone, newest first."""
    merges = await call.read(call.runtime.record.identities.merges)
    call.note_view("list_merges", count=len(merges))
    return models.Merges(results=merges)


@router.post("/merges/{merge_id}/undo")
async def undo_merge(
    call: Admin, merge_id: Annotated[Id, Path(description="A merge's id, as its answer has it.")]
) -> models.RenamedIdentity:
    """Undoes a merge: its crops get their former identity again.

    Crops that were deleted or got another identity since the merge do not change.
    """
    return await changes.undo_merge(call.runtime, call.gallery, merge_id)
