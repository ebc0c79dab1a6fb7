"""`/v1/galleries/{gallery}/queries/…`: kept searches, opened again and reviewed."""

from __future__ import annotations

from functools import partial
from typing import Annotated

from fastapi import Path, Query, Request, Response

from gmn_client.models import AnsweredReview, KeptSearches, OpenedSearch, Reviews
from service.desk import reviews, searches
from service.http.forms import (
    MULTIPART,
    EveryoneQuery,
    ImageQuery,
    KeptSearchesQuery,
    ReviewForm,
    ReviewsQuery,
)
from service.http.guard import GalleryCall, Searcher, guarded_router
from service.http.problems import content, problems, write_list
from service.http.thumbnails import NOT_MODIFIED, answer_picture
from service.record.api_keys import Scope

router = guarded_router("/v1/galleries/{gallery}", "kept searches")
NAMES: tuple[Scope, ...] = ("admin",)
ENROLLS: tuple[Scope, ...] = ("enroll",)
QueryId = Annotated[str, Path(description="A kept search's id, as its answer has it.")]


@router.get("/queries", response_model=KeptSearches, responses=problems("unknown_case"))
async def list_kept_searches(
    call: Searcher, asked: Annotated[KeptSearchesQuery, Query()]
) -> Response:
    """Lists the kept searches of the caller's key, the newest first; of all keys needs admin."""
    runtime, gallery = call.runtime, call.gallery
    key_id = None if asked.case_id is not None else _key_of(call, asked.everyone)
    about = asked.cursor, asked.limit + 1, key_id, asked.case_id
    found = await searches.list_searches(runtime, gallery, *about)
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
    require = partial(searches.find_search, runtime, gallery, query_id)
    answer = await answer_picture(request, runtime, query_id, asked.width, read, require)
    runtime.audit.note_view("view", gallery=gallery.name, query_id=query_id)
    return answer


@router.delete("/queries/{query_id}", status_code=204, responses=problems("storage_failed"))
async def delete_kept_search(call: Searcher, query_id: QueryId) -> None:
    """Deletes a kept search with its picture; that of another key needs admin."""
    await searches.delete_search(call.runtime, call.gallery, call.caller, query_id)


@router.post(
    "/queries/{query_id}/reviews",
    responses=problems("unknown_crop", "unknown_picture", "crop_conflict", "storage_failed"),
)
async def review_results(
    call: Searcher, query_id: QueryId, form: Annotated[ReviewForm, MULTIPART]
) -> AnsweredReview:
    """Confirms or rejects results of a kept search, or takes that back.

    Confirmed crops are named with `identity`; with `enroll=true` the search's picture is enrolled
    under the same name.
    """
    if form.identity is not None:
        call.caller.require(NAMES)
    if form.enroll:
        call.caller.require(ENROLLS)
    return await reviews.review_results(call.runtime, call.gallery, call.caller, query_id, form)


@router.get("/reviews", response_model=Reviews)
async def list_reviews(call: Searcher, asked: Annotated[ReviewsQuery, Query()]) -> Response:
    """Lists the reviews of the searches of the caller's key; of all keys needs admin."""
    key_id = _key_of(call, asked.everyone)
    about = asked.cursor, asked.limit
    found = await reviews.list_reviews(call.runtime, call.gallery, key_id, *about)
    count = len(found.results)
    call.runtime.audit.note_view("list_reviews", gallery=call.gallery.name, count=count)
    return await write_list(found)


@router.get(
    "/reviews.csv",
    response_class=Response,
    responses=content("text/csv", "A line for every review."),
)
async def export_reviews(call: Searcher, asked: Annotated[EveryoneQuery, Query()]) -> Response:
    """The reviews of the searches of the caller's key as CSV; of all keys needs admin."""
    runtime, gallery = call.runtime, call.gallery
    lines = await reviews.reviews_as_csv(runtime, gallery, _key_of(call, asked.everyone))
    runtime.audit.note_view("export_reviews", gallery=gallery.name)
    return Response(lines, media_type="text/csv")


def _key_of(call: GalleryCall, everyone: bool) -> str | None:
    """The key whose searches are listed; None for all."""
    key_id = None if everyone else call.caller.key_id
    call.caller.require_own(key_id)
    return key_id
