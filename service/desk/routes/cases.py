"""`/v1/galleries/{gallery}/cases`: collections of kept searches, and their export as ZIP."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any

import fastapi
from fastapi import Depends, Response
from fastapi.responses import StreamingResponse
from pydantic import Field

from gmn_client.models import CaseDetail, CaseRemoval, Cases
from service.desk.routes.case_export import stream_case
from service.desk.routes.searches import QueryId
from service.desk.tables import MOST_CASES, MOST_CASES_OF_KEY
from service.errors import InvalidField, TooManyExports
from service.http.fields import Id, Name
from service.http.forms import Cursor, Form, Limit, Sent
from service.http.guard import Searcher, guarded_router
from service.http.problems import content, problems
from service.ops.data_directory import require_free_disk
from service.runtime import GalleryCall

router = guarded_router("/v1/galleries/{gallery}/cases", "cases")
EXPORTS_AT_ONCE = 4
EXPORTS_OF_ONE_KEY = 2
# Maximum length of the notes on a case, and on a search in a case.
MOST_NOTES = 4000
CaseId = Annotated[Id, fastapi.Path(description="A case's id.")]


class CaseForm(Form):
    """Name of a case and notes on it; omitted fields stay unchanged."""

    name: Name | None = None
    """The name."""
    notes: list[Annotated[str, Field(max_length=MOST_NOTES)]] = Field([], max_length=1)
    """Any text; empty for none."""

    def changes(self) -> dict[str, str]:
        changes = {} if self.name is None else {"name": self.name}
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


@router.post("", status_code=201)
async def create_case(call: Searcher, response: Response, form: Sent[NewCaseForm]) -> CaseDetail:
    """Creates a case."""
    require_free_disk(call.runtime.settings)
    most = MOST_CASES if call.caller.may() else MOST_CASES_OF_KEY
    notes = form.notes[0] if form.notes else ""
    case = await call.write(
        call.runtime.desk.cases.create, form.name, notes, call.caller.key_id, most
    )
    await call.done("create_case", case_id=case.case_id)
    response.headers["Location"] = f"/v1/galleries/{call.gallery.name}/cases/{case.case_id}"
    return case


@router.get("")
async def list_cases(call: Searcher, cursor: Cursor = None, limit: Limit = 100) -> Cases:
    """Lists the cases of a gallery, newest first."""
    page = await call.read(call.runtime.desk.cases.page, cursor, limit)
    call.note_view("list_cases", count=len(page.results))
    return page


@router.get("/{case_id}")
async def read_case(call: Searcher, case_id: CaseId) -> CaseDetail:
    """Reads a case; `GET …/queries?case_id=` lists its searches."""
    case = await call.read(call.runtime.desk.cases.get, case_id)
    call.note_view("read_case", case_id=case_id)
    return case


@router.patch("/{case_id}")
async def change_case(
    call: Searcher, case_id: CaseId, form: Sent[CaseForm] = UNCHANGED
) -> CaseDetail:
    """Changes the name or the notes of a case; for another key's case this needs `admin`."""
    changes = form.changes()
    if not changes:
        raise InvalidField("name, notes: nothing is to be changed; send one of them")
    cases = call.runtime.desk.cases
    call.caller.require_own((await call.read(cases.get, case_id)).key_id)
    case = await call.write(cases.change, case_id, changes)
    await call.done("change_case", case_id=case_id)
    return case


@router.delete("/{case_id}")
async def delete_case(call: Searcher, case_id: CaseId) -> CaseRemoval:
    """Deletes a case and its searches that are in no other case; another key's needs `admin`."""
    caller = call.caller
    cases = call.runtime.desk.cases
    caller.require_own((await call.read(cases.get, case_id)).key_id)

    async def delete(result: dict[str, Any]) -> CaseRemoval:
        # With `admin` the searches of all keys are deleted.
        key_id = None if caller.may() else caller.key_id
        removed = await call.write(cases.delete, case_id, key_id)
        result["count"] = removed
        return CaseRemoval(removed=removed)

    return await call.runtime.audited.run(
        "delete_case", delete, gallery=call.gallery.name, case_id=case_id
    )


@router.put("/{case_id}/queries/{query_id}")
async def hold_search(
    call: Searcher,
    case_id: CaseId,
    query_id: QueryId,
    form: Sent[CaseSearchForm] = WITHOUT_NOTE,
) -> CaseDetail:
    """Adds a kept search to a case with a note, or changes the note."""
    require_free_disk(call.runtime.settings)
    return await _hold(call, case_id, query_id, form.note)


@router.delete("/{case_id}/queries/{query_id}")
async def release_search(call: Searcher, case_id: CaseId, query_id: QueryId) -> CaseDetail:
    """Removes a kept search from a case, so that its retention period runs again."""
    return await _hold(call, case_id, query_id, None)


async def _hold(call: GalleryCall, case_id: str, query_id: str, note: str | None) -> CaseDetail:
    """Add a search to a case, change its note, or remove it with None.

    Changing an entry of another key's case needs `admin`.
    """
    most = None if call.caller.may() else (call.runtime.settings.kept_queries + 1) // 2
    case = await call.write(
        call.runtime.desk.cases.hold, case_id, query_id, note, call.caller, most
    )
    event = "release_search" if note is None else "hold_search"
    await call.done(event, case_id=case_id, query_id=query_id)
    return case


async def _hold_export(call: Searcher) -> AsyncIterator[None]:
    under_way = call.runtime.exports
    key_id = call.caller.key_id
    if under_way.total() >= EXPORTS_AT_ONCE or under_way[key_id] >= EXPORTS_OF_ONE_KEY:
        raise TooManyExports(EXPORTS_AT_ONCE, EXPORTS_OF_ONE_KEY)
    under_way[key_id] += 1
    try:
        yield
    finally:
        under_way[key_id] -= 1


@router.get(
    "/{case_id}/export",
    response_class=StreamingResponse,
    responses=problems("too_many_exports") | content("application/zip", "The case."),
    # Released when the client has received the answer or disconnected.
    dependencies=[Depends(_hold_export)],
)
async def export_case(call: Searcher, case_id: CaseId) -> StreamingResponse:
    """Exports a case as ZIP: index.html, pictures, results.csv, visits.csv and SHA256SUMS.

    Searches whose thresholds have changed since are repeated, to tell the verdict of today. At most
    four exports run at once, two per key. An export ends if its client reads nothing for a minute.
    """
    case = await call.read(call.runtime.desk.cases.get, case_id)
    await call.runtime.audit.note("export_case", gallery=call.gallery.name, case_id=case_id)
    return StreamingResponse(
        stream_case(call, case),
        media_type="application/zip",
        headers={"Content-Disposition": f'attachment; filename="case-{case_id}.zip"'},
    )
