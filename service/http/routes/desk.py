"""The work after a search: kept searches, their reviews, and the cases that hold them together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import Depends, Path, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import Field
from starlette.types import Message, Receive, Scope, Send

from gmn_client import models
from service.desk import cases, reviews, searches
from service.errors import InvalidField, UnknownCase, UnknownQuery
from service.gallery.enroll import Name
from service.http.forms import MULTIPART, Cursor, Form, Limit
from service.http.guard import Searcher, guarded_router
from service.http.problems import content, problems, write_list
from service.http.thumbnails import PICTURE, Width, answer_picture
from service.record.values import MOST_CASES, MOST_CASES_OF_KEY, Case, CaseFields, new_crop_id
from service.runtime import GalleryCall
from service.search.options import Id

router = guarded_router("/v1/galleries/{gallery}", "kept searches")
case_router = guarded_router("/v1/galleries/{gallery}/cases", "cases")
# Characters of the notes on a case, and on a search in it.
MOST_NOTES = 4000
# A client of an export that takes nothing for so long has left.
SEND_SECONDS = 60.0
WRITES = problems("storage_failed")
QueryId = Annotated[Id, Path(description="A kept search's id, as its answer has it.")]
CaseId = Annotated[Id, Path(description="A case's id.")]
Everyone = Annotated[
    bool, Query(description="Those of all keys, for scope admin; else of the caller's own.")
]


class ReviewForm(reviews.ReviewOptions, Form):
    """A decision on results of a kept search."""


class CaseForm(Form):
    """The name of a case, and notes on it; one that is left out stays as it is."""

    name: Name | None = None
    """The name."""
    notes: list[Annotated[str, Field(max_length=MOST_NOTES)]] = Field([], max_length=1)
    """Any text; empty for none."""

    def changes(self) -> CaseFields:
        changes: CaseFields = {} if self.name is None else {"name": self.name}
        return changes | {"notes": self.notes[0]} if self.notes else changes


class NewCaseForm(CaseForm):
    """A new case."""

    name: Name = Field(examples=["Bag at gate 3"])
    """The name."""


class CaseSearchForm(Form):
    """A search in a case."""

    note: str = Field("", max_length=MOST_NOTES)
    """Any text on the search."""


UNCHANGED = CaseForm()
WITHOUT_NOTE = CaseSearchForm()


@router.get("/queries", response_model=models.KeptSearches, responses=problems("unknown_case"))
async def list_kept_searches(
    call: Searcher,
    cursor: Cursor = None,
    limit: Limit = 100,
    everyone: Everyone = False,
    case_id: Annotated[Id | None, Query(description="Those of a case, of every key.")] = None,
) -> Response:
    """Lists the kept searches of the caller's key, the newest first; of all keys needs admin."""
    record = call.runtime.record
    case = None if case_id is None else await searches.find_case(call, case_id)
    key_id = None if case else _key_of(call, everyone)
    found_by = ("key", key_id) if key_id else ()

    def read(gallery_id: int) -> models.KeptSearches:
        if case:
            kept = record.cases.searches(gallery_id, case, cursor, limit + 1)
        else:
            kept = record.kept.page(gallery_id, cursor, limit + 1, *found_by)
        return searches.described_searches(call, kept, limit)

    found = await call.read(read)
    call.note_view("list_kept_searches", count=len(found.results))
    return await write_list(found)


@router.get("/queries/{query_id}")
async def open_kept_search(call: Searcher, query_id: QueryId) -> models.OpenedSearch:
    """Opens a kept search: its answer under the labels of now, and its reviews.

    Every key that may search the gallery can open it: the address can be passed on.
    """
    opened = await searches.open_search(call, query_id)
    call.note_view("open_kept_search", query_id=query_id, count=opened.count)
    return opened


@router.get(
    "/queries/{query_id}/image",
    response_class=Response,
    responses=problems("unknown_picture") | PICTURE,
)
async def read_kept_image(
    request: Request, call: Searcher, query_id: QueryId, width: Width = None
) -> Response:
    """Reads the kept picture of a search; with `width` a small JPEG, as of a crop."""
    answer = await answer_picture(
        request,
        call.runtime,
        query_id,
        width,
        read=lambda: searches.read_search_picture(call, query_id),
        require=lambda: searches.find_search(call, query_id),
    )
    call.note_view("view", query_id=query_id)
    return answer


@router.delete("/queries/{query_id}", status_code=204, responses=WRITES)
async def delete_kept_search(call: Searcher, query_id: QueryId) -> None:
    """Deletes a kept search with its picture; that of another key needs admin."""
    call.caller.require_own((await searches.find_search(call, query_id)).key_id)

    async def delete(result: dict[str, Any]) -> None:
        result["count"] = await call.write(call.runtime.record.kept.remove, [query_id])

    name = call.gallery.name
    await call.runtime.audited("delete_kept_search", delete, gallery=name, query_id=query_id)


@router.post(
    "/queries/{query_id}/reviews",
    responses=problems("unknown_crop", "unknown_picture", "crop_conflict", "storage_failed"),
)
async def review_results(
    call: Searcher, query_id: QueryId, form: Annotated[ReviewForm, MULTIPART]
) -> models.AnsweredReview:
    """Confirms or rejects results of a kept search, or takes that back.

    Confirmed crops are named with `identity`; with `enroll=true` the search's picture is enrolled
    under the same name.
    """
    if form.identity is not None:
        call.caller.require(["admin"])
    if form.enroll:
        call.caller.require(["enroll"])
    return await reviews.review_results(call, query_id, form)


@router.get("/reviews", response_model=models.Reviews)
async def list_reviews(
    call: Searcher, cursor: Cursor = None, limit: Limit = 100, everyone: Everyone = False
) -> Response:
    """Lists the reviews of the searches of the caller's key; of all keys needs admin."""
    found = await reviews.list_reviews(call, cursor, limit, _key_of(call, everyone))
    call.note_view("list_reviews", count=len(found.results))
    return await write_list(found)


@router.get(
    "/reviews.csv",
    response_class=Response,
    responses=content("text/csv", "A line for every review."),
)
async def export_reviews(call: Searcher, everyone: Everyone = False) -> Response:
    """Exports the reviews of the searches of the caller's key as CSV; of all keys needs admin."""
    lines = await reviews.reviews_as_csv(call, _key_of(call, everyone))
    call.note_view("export_reviews")
    return Response(lines, media_type="text/csv")


def _key_of(call: GalleryCall, everyone: bool) -> str | None:
    key_id = None if everyone else call.caller.key_id
    call.caller.require_own(key_id)
    return key_id


@case_router.post("", status_code=201, responses=WRITES)
async def create_case(
    call: Searcher, response: Response, form: Annotated[NewCaseForm, MULTIPART]
) -> models.CaseDetail:
    """Begins a case."""
    now = datetime.now(UTC)
    case = Case(
        case_id=new_crop_id(),
        name=form.name,
        notes=form.changes().get("notes", ""),
        created_at=now,
        changed_at=now,
        key_id=call.caller.key_id,
    )
    most = MOST_CASES if call.caller.may() else MOST_CASES_OF_KEY
    await call.write(call.runtime.record.cases.create, case, most)
    await call.done("create_case", case_id=case.case_id)
    response.headers["Location"] = f"/v1/galleries/{call.gallery.name}/cases/{case.case_id}"
    return cases.detailed(case)


@case_router.get("")
async def list_cases(call: Searcher, cursor: Cursor = None, limit: Limit = 100) -> models.Cases:
    """Lists the cases of a gallery, the newest first."""
    found = await call.read(call.runtime.record.cases.page, cursor, limit + 1)
    more = found[limit - 1].case_id if len(found) > limit else None
    results = [
        models.Case.model_validate({**vars(case), "count": len(case.queries)})
        for case in found[:limit]
    ]
    call.note_view("list_cases", count=len(results))
    return models.Cases(results=results, next_cursor=more)


@case_router.get("/{case_id}")
async def read_case(call: Searcher, case_id: CaseId) -> models.CaseDetail:
    """Reads a case; `GET …/queries?case_id=` lists its searches."""
    case = await searches.find_case(call, case_id)
    call.note_view("read_case", case_id=case_id)
    return cases.detailed(case)


@case_router.patch("/{case_id}", responses=WRITES)
async def change_case(
    call: Searcher, case_id: CaseId, form: Annotated[CaseForm, MULTIPART] = UNCHANGED
) -> models.CaseDetail:
    """Changes the name or the notes; of a case of another key it needs admin."""
    changes = form.changes()
    if not changes:
        raise InvalidField("name, notes: nothing is to be changed; send one of them")
    call.caller.require_own((await searches.find_case(call, case_id)).key_id)
    case = await call.write(call.runtime.record.cases.change, case_id, changes)
    if case is None:
        raise UnknownCase(call.gallery.name, case_id)
    await call.done("change_case", case_id=case_id)
    return cases.detailed(case)


@case_router.delete("/{case_id}", responses=WRITES)
async def delete_case(call: Searcher, case_id: CaseId) -> models.CaseRemoval:
    """Deletes a case with the searches that no other case holds; one of another key needs admin."""
    caller = call.caller
    caller.require_own((await searches.find_case(call, case_id)).key_id)

    async def delete(result: dict[str, Any]) -> models.CaseRemoval:
        # With admin the searches of every key are deleted.
        key_id = None if caller.may() else caller.key_id
        removed = await call.write(call.runtime.record.cases.delete, case_id, key_id)
        if removed is None:
            raise UnknownCase(call.gallery.name, case_id)
        result["count"] = removed
        return models.CaseRemoval(removed=removed)

    name = call.gallery.name
    return await call.runtime.audited("delete_case", delete, gallery=name, case_id=case_id)


@case_router.put("/{case_id}/queries/{query_id}", responses=WRITES)
async def hold_search(
    call: Searcher,
    case_id: CaseId,
    query_id: QueryId,
    form: Annotated[CaseSearchForm, MULTIPART] = WITHOUT_NOTE,
) -> models.CaseDetail:
    """Puts a kept search into a case with a note, or changes the note."""
    return await _hold(call, case_id, query_id, form.note)


@case_router.delete("/{case_id}/queries/{query_id}", responses=WRITES)
async def release_search(call: Searcher, case_id: CaseId, query_id: QueryId) -> models.CaseDetail:
    """Takes a kept search out of a case, so that its days count again."""
    return await _hold(call, case_id, query_id, None)


async def _hold(
    call: GalleryCall, case_id: str, query_id: str, note: str | None
) -> models.CaseDetail:
    """Put a search into a case, or change its note; with None take it out.

    Changing what another key's case holds already needs admin.
    """
    existing = await searches.find_case(call, case_id)
    held = existing.queries.get(query_id)
    if note is None or (held and held.note != note):
        call.caller.require_own(existing.key_id)
    most = None if call.caller.may() else (call.runtime.settings.kept_queries + 1) // 2
    case = await call.write(call.runtime.record.cases.hold, case_id, query_id, note, most)
    if case is None:
        raise UnknownQuery(call.gallery.name, query_id)
    event = "release_search" if note is None else "hold_search"
    await call.done(event, case_id=case_id, query_id=query_id)
    return cases.detailed(case)


async def _export_place(call: Searcher) -> AsyncIterator[None]:
    with cases.export_place(call):
        yield


@case_router.get(
    "/{case_id}/export",
    response_class=StreamingResponse,
    responses=problems("too_many_exports") | content("application/zip", "The case."),
    # Held until the client has the answer, or has left.
    dependencies=[Depends(_export_place)],
)
async def export_case(call: Searcher, case_id: CaseId) -> StreamingResponse:
    """Export a case as ZIP: index.html, the pictures, results.csv, and SHA256SUMS of each file.

    At most four exports run at once, two of one key; one whose client takes nothing for a minute
    ends.
    """
    case = cases.detailed(await searches.find_case(call, case_id))
    await call.done("export_case", case_id=case_id)
    name = f'attachment; filename="case-{case_id}.zip"'
    return _Export(
        cases.stream_case(call, case),
        media_type="application/zip",
        headers={"Content-Disposition": name},
    )


class _Export(StreamingResponse):
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_in_time(message: Message) -> None:
            async with asyncio.timeout(SEND_SECONDS):
                await send(message)

        await super().__call__(scope, receive, send_in_time)
