"""Kept searches of a gallery, and the reviews of their results.

A review states whether a result shows the person that was searched for.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal, Self

from fastapi import Path, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import Field, model_validator

from gmn_client.models import (
    AnsweredReview,
    KeptSearches,
    OpenedSearch,
    QueryAnswer,
    RefusedImage,
    Review,
    Reviews,
)
from service.desk import kept_searches
from service.desk.links import link_reviews, link_searches
from service.desk.routes.repeating import repeat_search
from service.errors import InvalidField, UnknownCrop
from service.gallery.enroll import ImageToEnroll
from service.http.fields import Camera, Id, Moment, Name
from service.http.forms import Cursor, Form, Limit, Sent
from service.http.guard import Searcher, guarded_router
from service.http.problems import content, csv_header, csv_lines, problems, write_list
from service.http.routes.queries import QUERY_PROBLEMS
from service.http.thumbnails import PICTURE, Width, answer_picture
from service.record.values import ListFilter, Picture
from service.runtime import GalleryCall

COLUMNS = tuple(Review.model_fields)
SEARCHES_AT_ONCE = 100
router = guarded_router("/v1/galleries/{gallery}", "kept searches")
QueryId = Annotated[Id, Path(description="A kept search's id, as its answer has it.")]
Everyone = Annotated[
    bool, Query(description="Those of all keys, for scope admin; else of the caller's own.")
]


class ReviewForm(Form):
    """A decision on results of a kept search."""

    crop_ids: list[Id] = Field(min_length=1, max_length=kept_searches.KEPT_RESULTS)
    """Results of the search."""
    decision: Literal["confirmed", "rejected", "open"]
    """Whether they show the person that was searched for; `open` takes it back."""
    identity: Name | None = None
    """With `confirmed`: these crops' name from now on; needs `admin`."""
    enroll: bool = False
    """With `confirmed`: enroll the picture under it; needs `enroll`."""
    camera: Camera | None = None
    """With `enroll`: the camera that took the picture."""
    captured_at: Moment | None = None
    """With `enroll`: when it was taken; RFC 3339, with zone."""

    @model_validator(mode="after")
    def _require_consistency(self) -> Self:
        if self.decision != "confirmed" and (self.identity is not None or self.enroll):
            raise InvalidField("identity, enroll: go with decision=confirmed; leave them out")
        if not self.enroll and (self.camera is not None or self.captured_at is not None):
            raise InvalidField("camera, captured_at: go with enroll=true; send that too")
        return self


@router.get("/queries", response_model=KeptSearches, responses=problems("unknown_case"))
async def list_kept_searches(
    request: Request,
    call: Searcher,
    cursor: Cursor = None,
    limit: Limit = 100,
    everyone: Everyone = False,
    case_id: Annotated[Id | None, Query(description="Those of a case, of every key.")] = None,
) -> Response:
    """Lists the kept searches of the caller's key, newest first; those of all keys need `admin`."""
    if case_id is not None:
        await call.read(call.runtime.desk.cases.get, case_id)
        found_by: tuple[str, str | None] = ("case", case_id)
    else:
        found_by = ("key", _choose_key(call, everyone))
    kept_for = kept_searches.kept_for(call.runtime.settings, call.gallery)

    def read(gallery_id: int) -> KeptSearches:
        page = call.runtime.desk.kept.page(gallery_id, kept_for, cursor, limit, *found_by)
        return link_searches(call.gallery.name, page)

    page = await call.read(read)
    call.note_view("list_kept_searches", count=len(page.results))
    return await write_list(request, page)


@router.get("/queries/{query_id}", response_model=OpenedSearch)
async def open_kept_search(request: Request, call: Searcher, query_id: QueryId) -> Response:
    """Opens a kept search: its answer with the current labels, and its reviews.

    Any key that may search the gallery can open it, so its address can be passed on.
    """
    opened = await kept_searches.open_search(call, query_id)
    call.note_view("open_kept_search", query_id=query_id, count=opened.count)
    return await write_list(request, opened)


@router.get(
    "/queries/{query_id}/today",
    response_model=QueryAnswer,
    responses=problems("unknown_picture", *QUERY_PROBLEMS),
)
async def repeat_kept_search(request: Request, call: Searcher, query_id: QueryId) -> Response:
    """Repeats a kept search, and answers what it finds today, by the thresholds of today.

    The first 100 results are answered, best first. The answer is not kept, and does not count for
    the thresholds. A search by several pictures, without its picture, by a vector, in several
    galleries, or among given `identities` or `metadata` cannot be repeated.
    """
    opened = await kept_searches.open_search(call, query_id)
    return await write_list(request, await repeat_search(call, opened))


@router.get(
    "/queries/{query_id}/image",
    response_class=Response,
    responses=problems("unknown_picture") | PICTURE,
)
async def read_kept_image(
    request: Request, call: Searcher, query_id: QueryId, width: Width = None
) -> Response:
    """Reads the kept picture of a search; with `width` a small JPEG, as for crops."""
    # The picture itself is not read if the client has it already.
    await call.read(call.runtime.desk.kept.result_ids, query_id)
    answer = await answer_picture(
        request,
        call.runtime,
        query_id,
        width,
        lambda: kept_searches.read_search_picture(call, query_id),
    )
    call.note_view("view", query_id=query_id)
    return answer


@router.delete("/queries/{query_id}", status_code=204)
async def delete_kept_search(call: Searcher, query_id: QueryId) -> None:
    """Deletes a kept search with its picture; another key's search needs `admin`."""
    opened = await kept_searches.open_search(call, query_id)
    call.caller.require_own(opened.key_id)

    async def delete(result: dict[str, Any]) -> None:
        result["count"] = await call.write(call.runtime.desk.kept.remove, [query_id])

    await call.runtime.audited.run(
        "delete_kept_search", delete, gallery=call.gallery.name, query_id=query_id
    )


@router.post(
    "/queries/{query_id}/reviews",
    responses=problems("unknown_crop", "unknown_picture", "crop_conflict"),
)
async def review_results(
    call: Searcher, query_id: QueryId, form: Sent[ReviewForm]
) -> AnsweredReview:
    """Confirms or rejects results of a kept search, or withdraws that.

    With `identity` the confirmed crops are named; with `enroll=true` the search's picture is
    enrolled under the same name.
    """
    if form.identity is not None:
        call.caller.require("admin")
    if form.enroll:
        call.caller.require("enroll")
    name = await _check_review(call, query_id, form)
    picture = await kept_searches.read_search_picture(call, query_id) if form.enroll else None
    if form.identity is not None:
        chosen = ListFilter(crop_ids=frozenset(form.crop_ids))
        await call.runtime.crop_changes.change_matching(
            call.gallery, chosen, {"identity": form.identity}, dry_run=False
        )
    decision = None if form.decision == "open" else form.decision
    await call.write(call.runtime.desk.kept.review, query_id, form.crop_ids, decision, call.caller)
    await call.done("review", query_id=query_id, crop_ids=form.crop_ids, decision=form.decision)
    enrolled = await _enroll(call, picture, form, name) if picture else None
    opened = await kept_searches.open_search(call, query_id)
    return AnsweredReview(**dict(opened), enrolled_crop_id=enrolled)


@router.get("/reviews", response_model=Reviews)
async def list_reviews(
    request: Request,
    call: Searcher,
    cursor: Cursor = None,
    limit: Limit = 100,
    everyone: Everyone = False,
) -> Response:
    """Lists reviews of the searches of the caller's key; those of all keys need `admin`.

    A page has the reviews of at most 100 searches, which may be many or none.
    """
    # A cursor must never name a search of another key, so those without reviews count too.
    found_by = _choose_reviewed(call, everyone)
    page = await call.read(_read_reviews, call, cursor, min(limit, SEARCHES_AT_ONCE), found_by)
    call.note_view("list_reviews", count=len(page.results))
    return await write_list(request, page)


@router.get(
    "/reviews.csv",
    response_class=StreamingResponse,
    responses=content("text/csv", "A line for every review."),
)
async def export_reviews(call: Searcher, everyone: Everyone = False) -> StreamingResponse:
    """Exports reviews of searches of the caller's key as CSV; those of all keys need `admin`."""
    found_by = _choose_reviewed(call, everyone)
    call.note_view("export_reviews")

    def read(gallery_id: int, before: str | None) -> tuple[str, str | None]:
        page = _read_reviews(gallery_id, call, before, SEARCHES_AT_ONCE, found_by)
        return csv_lines(page.results), page.next_cursor

    async def lines() -> AsyncIterator[str]:
        yield csv_header(*COLUMNS)
        before = None
        while True:
            text, before = await call.read(read, before)
            yield text
            if before is None:
                break

    return StreamingResponse(lines(), media_type="text/csv")


def _read_reviews(
    gallery_id: int, call: GalleryCall, before: str | None, limit: int, found_by: tuple[str, str]
) -> Reviews:
    page = call.runtime.desk.kept.reviews(gallery_id, before, limit, *found_by)
    return link_reviews(call.gallery.name, page)


def _choose_key(call: GalleryCall, everyone: bool) -> str | None:
    key_id = None if everyone else call.caller.key_id
    call.caller.require_own(key_id)
    return key_id


def _choose_reviewed(call: GalleryCall, everyone: bool) -> tuple[str, str]:
    key_id = _choose_key(call, everyone)
    return ("reviewed", "") if key_id is None else ("key", key_id)


async def _check_review(call: GalleryCall, query_id: str, form: ReviewForm) -> str | None:
    """Check a review, and return the name under which the picture would be enrolled.

    Raises:
        InvalidField, UnknownCrop: the review is not possible.
    """
    result_ids = await call.read(call.runtime.desk.kept.result_ids, query_id)
    for crop_id in form.crop_ids:
        if crop_id not in result_ids:
            raise InvalidField(
                f"crop_ids: {crop_id[:40]!r} is no kept result of search {query_id}; send ids "
                "of its results"
            )
    crops = await call.read(call.record.crops.by_id, form.crop_ids)
    for crop_id in form.crop_ids:
        if crop_id not in crops and form.decision != "open":
            raise UnknownCrop(call.gallery.name, crop_id)
    if not form.enroll or form.identity is not None:
        return form.identity
    names = {crop.identity for crop in crops.values() if crop.identity is not None}
    if len(names) != 1:
        borne = f"bear {len(names)} names" if names else "have no name"
        raise InvalidField(f"identity: the confirmed crops {borne}; send the person's name")
    return names.pop()


async def _enroll(
    call: GalleryCall, picture: Picture, form: ReviewForm, name: str | None
) -> str | None:
    image = ImageToEnroll(
        image=picture.content, identity=name, camera=form.camera, captured_at=form.captured_at
    )
    answer, _ = await call.runtime.enrollment.enroll(call.gallery, [image])
    (result,) = answer.results
    if isinstance(result, RefusedImage):
        raise InvalidField(
            f"enroll: the results are reviewed, and the picture cannot be enrolled: "
            f"{result.problem.detail}"
        )
    return result.crop_id
