"""`/v1/galleries/{gallery}/cases`: kept searches held together with notes, and their export."""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO, Annotated

from fastapi import Path, Query, Response
from fastapi.responses import StreamingResponse

from gmn_client.models import CaseDetail, CaseRemoval, Cases
from service.desk import cases
from service.desk.export import export_case as write_export
from service.desk.searches import find_case
from service.http.forms import MULTIPART, CaseForm, CaseSearchForm, NewCaseForm, PageQuery
from service.http.guard import Searcher, guarded_router
from service.http.problems import content, problems
from service.http.routes.desk import QueryId

router = guarded_router("/v1/galleries/{gallery}/cases", "cases")
CaseId = Annotated[str, Path(description="A case's id.")]
WRITES = problems("storage_failed")
UNCHANGED, WITHOUT_NOTE = CaseForm(), CaseSearchForm()
CHUNK_BYTES = 1024 * 1024


@router.post("", status_code=201, responses=WRITES)
async def create_case(
    call: Searcher, response: Response, form: Annotated[NewCaseForm, MULTIPART]
) -> CaseDetail:
    """Begins a case."""
    notes = form.changes().get("notes", "")
    case = await cases.create_case(call.runtime, call.gallery, call.caller, form.name, notes)
    response.headers["Location"] = f"/v1/galleries/{call.gallery.name}/cases/{case.case_id}"
    return case


@router.get("")
async def list_cases(call: Searcher, asked: Annotated[PageQuery, Query()]) -> Cases:
    """Lists the cases of a gallery, the newest first."""
    limit = asked.limit
    found = await cases.list_cases(call.runtime, call.gallery, asked.cursor, limit + 1)
    more = found[limit - 1].case_id if len(found) > limit else None
    return Cases(results=found[:limit], next_cursor=more)


@router.get("/{case_id}")
async def read_case(call: Searcher, case_id: CaseId) -> CaseDetail:
    """Reads a case; `GET …/queries?case_id=` lists its searches."""
    return cases.detailed(await find_case(call.runtime, call.gallery, case_id))


@router.patch("/{case_id}", responses=WRITES)
async def change_case(
    call: Searcher, case_id: CaseId, form: Annotated[CaseForm, MULTIPART] = UNCHANGED
) -> CaseDetail:
    """Changes the name or the notes; of a case of another key it needs admin."""
    changes = form.changes()
    return await cases.change_case(call.runtime, call.gallery, call.caller, case_id, changes)


@router.delete("/{case_id}", responses=WRITES)
async def delete_case(call: Searcher, case_id: CaseId) -> CaseRemoval:
    """Deletes a case with the searches that no other case holds; one of another key needs admin."""
    removed = await cases.delete_case(call.runtime, call.gallery, call.caller, case_id)
    return CaseRemoval(removed=removed)


@router.put("/{case_id}/queries/{query_id}", responses=WRITES)
async def hold_search(
    call: Searcher,
    case_id: CaseId,
    query_id: QueryId,
    form: Annotated[CaseSearchForm, MULTIPART] = WITHOUT_NOTE,
) -> CaseDetail:
    """Puts a kept search into a case with a note, or changes the note."""
    return await cases.hold_search(call.runtime, call.gallery, case_id, query_id, form.note)


@router.delete("/{case_id}/queries/{query_id}", responses=WRITES)
async def release_search(call: Searcher, case_id: CaseId, query_id: QueryId) -> CaseDetail:
    """Takes a kept search out of a case, so that its days count again."""
    runtime, gallery = call.runtime, call.gallery
    call.caller.require_own((await find_case(runtime, gallery, case_id)).key_id)
    return await cases.hold_search(runtime, gallery, case_id, query_id, None)


@router.get(
    "/{case_id}/export",
    response_class=StreamingResponse,
    responses=WRITES | content("application/zip", "The case."),
)
async def export_case(call: Searcher, case_id: CaseId) -> StreamingResponse:
    """A case as ZIP: index.html, the pictures, results.csv, and SHA256SUMS of each file."""
    file = await write_export(call.runtime, call.gallery, case_id)
    name = f'attachment; filename="case-{case_id}.zip"'
    headers = {"Content-Disposition": name, "Content-Length": str(file.tell())}
    return StreamingResponse(_chunks(file), media_type="application/zip", headers=headers)


def _chunks(file: IO[bytes]) -> Iterator[bytes]:
    with file:
        file.seek(0)
        while chunk := file.read(CHUNK_BYTES):
            yield chunk
