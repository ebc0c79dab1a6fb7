"""Cases: kept searches that are held together, with notes, until the case is deleted."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from gmn_client.models import Case, CaseDetail, CaseSearch
from service.desk.searches import find_case
from service.errors import InvalidField, UnknownCase, UnknownQuery
from service.gallery.gallery import Gallery
from service.record import kept_queries as records
from service.record.api_keys import ApiKey
from service.record.cases import CaseFields
from service.record.engine import new_crop_id
from service.runtime import Runtime


async def create_case(
    runtime: Runtime, gallery: Gallery, caller: ApiKey, name: str, notes: str
) -> CaseDetail:
    """Begins a case; raises `InvalidField` where the gallery has as many as it may."""
    now = datetime.now(UTC)
    case = records.Case(
        case_id=new_crop_id(),
        name=name,
        notes=notes,
        created_at=now,
        changed_at=now,
        key_id=caller.key_id,
    )
    await runtime.galleries.write(runtime.record.cases.create, gallery.gallery_id, case)
    await runtime.audit.done("create_case", gallery=gallery.name, case_id=case.case_id)
    return detailed(case)


async def list_cases(
    runtime: Runtime, gallery: Gallery, before: str | None, limit: int
) -> list[Case]:
    """Up to `limit` cases that are older than one; the newest first."""
    read = runtime.record.cases.page
    found = await runtime.galleries.read(read, gallery.gallery_id, before, limit)
    return [Case(**_fields(case)) for case in found]


async def change_case(
    runtime: Runtime, gallery: Gallery, caller: ApiKey, case_id: str, fields: CaseFields
) -> CaseDetail:
    """Changes the name or the notes.

    Raises:
        UnknownCase: there is no such one.
        Forbidden: another key made it.
        InvalidField: nothing is to be changed.
    """
    if not fields:
        raise InvalidField("name, notes: nothing is to be changed; send one of them")
    caller.require_own((await find_case(runtime, gallery, case_id)).key_id)
    write = runtime.record.cases.change
    case = await runtime.galleries.write(write, gallery.gallery_id, case_id, fields)
    if case is None:
        raise UnknownCase(gallery.name, case_id)
    await runtime.audit.done("change_case", gallery=gallery.name, case_id=case_id)
    return detailed(case)


async def hold_search(
    runtime: Runtime, gallery: Gallery, case_id: str, query_id: str, note: str | None
) -> CaseDetail:
    """Puts a kept search into a case, or changes its note; with None takes it out of the case.

    Raises:
        UnknownCase, UnknownQuery: there is no such one, or the case does not hold it.
        InvalidField: the case holds as many as it may.
    """
    await find_case(runtime, gallery, case_id)
    write = runtime.record.cases.hold
    case = await runtime.galleries.write(write, gallery.gallery_id, case_id, query_id, note)
    if case is None:
        raise UnknownQuery(gallery.name, query_id)
    event = "release_search" if note is None else "hold_search"
    await runtime.audit.done(event, gallery=gallery.name, case_id=case_id, query_id=query_id)
    return detailed(case)


async def delete_case(runtime: Runtime, gallery: Gallery, caller: ApiKey, case_id: str) -> int:
    """Deletes a case with the searches that no other case holds; answers how many.

    Raises:
        UnknownCase: there is no such one.
        Forbidden: another key made it.
    """
    caller.require_own((await find_case(runtime, gallery, case_id)).key_id)

    async def delete(result: dict[str, Any]) -> int:
        write = runtime.record.cases.delete
        removed = await runtime.galleries.write(write, gallery.gallery_id, case_id)
        if removed is None:
            raise UnknownCase(gallery.name, case_id)
        result["count"] = removed
        return removed

    return await runtime.audited("delete_case", delete, gallery=gallery.name, case_id=case_id)


def detailed(case: records.Case) -> CaseDetail:
    """A case as the API shows it."""
    queries = [CaseSearch(query_id=one, **entry._asdict()) for one, entry in case.queries.items()]
    return CaseDetail(**{**_fields(case), "queries": queries})


def _fields(case: records.Case) -> dict[str, Any]:
    return {**vars(case), "count": len(case.queries)}
