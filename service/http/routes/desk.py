"""`/v1/galleries/{gallery}/queries/…`: kept searches, opened again and reviewed."""

from __future__ import annotations

from functools import partial
from typing import Annotated

from fastapi import Path, Query, Request, Response

from gmn_client.desk_models import KeptSearches, OpenedSearch
from service.desk import searches
from service.http.forms import ImageQuery, KeptSearchesQuery
from service.http.guard import Searcher, guarded_router
from service.http.problems import content, problems, write_list
from service.http.thumbnails import NOT_MODIFIED, answer_thumbnail

router = guarded_router("/v1/galleries/{gallery}", "kept searches")
QueryId = Annotated[str, Path(description="A kept search's id, as its answer has it.")]


@router.get("/queries", response_model=KeptSearches)
async def list_kept_searches(
    call: Searcher, asked: Annotated[KeptSearchesQuery, Query()]
) -> Response:
    """Lists the kept searches of the caller's key, the newest first; of all keys needs admin."""
    runtime, gallery = call.runtime, call.gallery
    key_id = None if asked.everyone else call.caller.key_id
    call.caller.require_own(key_id)
    found = await searches.list_searches(runtime, gallery, key_id, asked.cursor, asked.limit + 1)
    more = found[asked.limit - 1].query_id if len(found) > asked.limit else None
    runtime.audit.note_view("list_kept_searches", gallery=gallery.name, count=len(found))
    return await write_list(KeptSearches(results=found[: asked.limit], next_cursor=more))


@router.get("/queries/{query_id}")
async def open_kept_search(call: Searcher, query_id: QueryId) -> OpenedSearch:
    """Opens a kept search: its answer under the labels of now, and its reviews.

    Every key that may search the gallery can open it: the address can be passed on.
    """
    opened = await searches.open_search(call.runtime, call.gallery, query_id)
    call.runtime.audit.note_view(
        "open_kept_search", gallery=call.gallery.name, query_id=query_id, count=opened.count
    )
    return opened


@router.get(
    "/queries/{query_id}/image",
    response_class=Response,
    responses=problems("unknown_picture")
    | content("image/*", "The file, or with `width` a JPEG.")
    | NOT_MODIFIED,
)
async def read_kept_image(
    request: Request, call: Searcher, query_id: QueryId, asked: Annotated[ImageQuery, Query()]
) -> Response:
    """The kept picture of a search; with `width` a small JPEG, as of a crop."""
    runtime, gallery = call.runtime, call.gallery
    read = partial(searches.read_search_picture, runtime, gallery, query_id)
    if asked.width is None:
        picture = await read()
        answer = Response(picture.content, media_type=picture.content_type)
    else:
        await searches.find_search(runtime, gallery, query_id)
        answer = await answer_thumbnail(request, runtime, query_id, asked.width, read)
    runtime.audit.note_view("view", gallery=gallery.name, query_id=query_id)
    return answer


@router.delete("/queries/{query_id}", status_code=204, responses=problems("storage_failed"))
async def delete_kept_search(call: Searcher, query_id: QueryId) -> None:
    """Deletes a kept search with its picture; that of another key needs admin."""
    await searches.delete_search(call.runtime, call.gallery, call.caller, query_id)
