"""Cases: kept searches that are held together with notes, and the ZIP that one is exported as."""

from __future__ import annotations

import contextlib
import hashlib
import io
import zipfile
from collections.abc import AsyncIterator, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader

from gmn_client.models import (
    Case,
    CaseDetail,
    CaseRemoval,
    Cases,
    CaseSearch,
    OpenedSearch,
    RankedCrop,
)
from service.desk.searches import find_case, open_search, read_search_picture
from service.errors import (
    InvalidField,
    TooManyExports,
    UnknownCase,
    UnknownCrop,
    UnknownPicture,
    UnknownQuery,
)
from service.gallery.browse import read_picture
from service.ops.csv_lines import csv_line
from service.record import values as records
from service.record.values import MOST_CASES, MOST_CASES_OF_KEY, CaseFields, Picture, new_crop_id
from service.runtime import GalleryCall

EXPORTS_AT_ONCE = 4
EXPORTS_OF_ONE_KEY = 2
# Number of first results of a search that are shown, beside all that are reviewed.
SHOWN = 10
EXTENSIONS = {"image/png": "png", "image/jpeg": "jpg", "image/webp": "webp", "image/bmp": "bmp"}
RESULT_COLUMNS = (
    *("rank", "crop_id", "identity", "camera", "captured_at", "external_id"),
    *("cosine", "pair_logit", "probability", "verdict"),
)
COLUMNS = ("query_id", "searched_at", *RESULT_COLUMNS, "decision", "reviewed_at", "picture")


async def create_case(call: GalleryCall, name: str, notes: str) -> CaseDetail:
    """Create a case; raise `InvalidField` if the gallery has as many as it may."""
    now = datetime.now(UTC)
    case = records.Case(
        case_id=new_crop_id(),
        name=name,
        notes=notes,
        created_at=now,
        changed_at=now,
        key_id=call.caller.key_id,
    )
    most = MOST_CASES if call.caller.may() else MOST_CASES_OF_KEY
    await call.write(call.runtime.record.cases.create, case, most)
    await call.done("create_case", case_id=case.case_id)
    return detailed(case)


async def list_cases(call: GalleryCall, before: str | None, limit: int) -> Cases:
    cases = await call.read(call.runtime.record.cases.page, before, limit + 1)
    more = cases[limit - 1].case_id if len(cases) > limit else None
    results = [Case.model_validate(_fields(case)) for case in cases[:limit]]
    return Cases(results=results, next_cursor=more)


async def change_case(call: GalleryCall, case_id: str, fields: CaseFields) -> CaseDetail:
    """Change the name or the notes of a case.

    Raises:
        UnknownCase: there is no such case.
        Forbidden: another key made it.
        InvalidField: there is nothing to change.
    """
    if not fields:
        raise InvalidField("name, notes: nothing is to be changed; send one of them")
    call.caller.require_own((await find_case(call, case_id)).key_id)
    case = await call.write(call.runtime.record.cases.change, case_id, fields)
    if case is None:
        raise UnknownCase(call.gallery.name, case_id)
    await call.done("change_case", case_id=case_id)
    return detailed(case)


async def hold_search(
    call: GalleryCall, case_id: str, query_id: str, note: str | None
) -> CaseDetail:
    """Put a kept search into a case, or change its note; a note of None takes it out of the case.

    Raises:
        UnknownCase, UnknownQuery: there is none, or the case does not hold the search.
        Forbidden: another key made the case, which holds the search already.
        InvalidField: the case, or the cases of its key, hold as many searches as they may.
    """
    existing = await find_case(call, case_id)
    held = existing.queries.get(query_id)
    if note is None or (held and held.note != note):
        call.caller.require_own(existing.key_id)
    most = None if call.caller.may() else (call.runtime.settings.kept_queries + 1) // 2
    case = await call.write(call.runtime.record.cases.hold, case_id, query_id, note, most)
    if case is None:
        raise UnknownQuery(call.gallery.name, query_id)
    event = "release_search" if note is None else "hold_search"
    await call.done(event, case_id=case_id, query_id=query_id)
    return detailed(case)


async def delete_case(call: GalleryCall, case_id: str) -> CaseRemoval:
    """Delete a case with the caller's searches that no other case holds, and count these.

    A caller with `admin` deletes the searches of every key.

    Raises:
        UnknownCase: there is no such case.
        Forbidden: another key made it.
    """
    call.caller.require_own((await find_case(call, case_id)).key_id)

    async def delete(result: dict[str, Any]) -> CaseRemoval:
        key_id = None if call.caller.may() else call.caller.key_id
        removed = await call.write(call.runtime.record.cases.delete, case_id, key_id)
        if removed is None:
            raise UnknownCase(call.gallery.name, case_id)
        result["count"] = removed
        return CaseRemoval(removed=removed)

    name = call.gallery.name
    return await call.runtime.audited("delete_case", delete, gallery=name, case_id=case_id)


def detailed(case: records.Case) -> CaseDetail:
    queries = [
        CaseSearch(query_id=query_id, **entry._asdict()) for query_id, entry in case.queries.items()
    ]
    return CaseDetail.model_validate(_fields(case) | {"queries": queries})


def _fields(case: records.Case) -> dict[str, Any]:
    return {**vars(case), "count": len(case.queries)}


class CaseArchive:
    """A ZIP that is made piece by piece; its last file, `SHA256SUMS`, has the checksum of each."""

    def __init__(self) -> None:
        self._unsent = _Unsent()
        # Pictures are compressed already.
        self._zip = zipfile.ZipFile(self._unsent, "w", zipfile.ZIP_STORED)
        self._sums: dict[str, str] = {}
        self.take = self._unsent.take

    def add(self, name: str, content: bytes) -> None:
        if name not in self._sums:
            self._zip.writestr(name, content)
            self._sums[name] = hashlib.sha256(content).hexdigest()

    def close(self) -> None:
        lines = (f"{digest}  {name}\n" for name, digest in self._sums.items())
        self._zip.writestr("SHA256SUMS", "".join(lines))
        self._zip.close()


class _Unsent(io.RawIOBase):
    """The bytes of a ZIP since they were last taken; as it cannot seek, a ZIP only goes on."""

    def __init__(self) -> None:
        self._content = bytearray()

    def write(self, content: Any) -> int:
        self._content += content
        return len(content)

    def take(self) -> bytes:
        content = bytes(self._content)
        self._content.clear()
        return content


@contextlib.contextmanager
def export_place(call: GalleryCall) -> Iterator[None]:
    """Hold a place among the exports under way; raises `TooManyExports` where none is free."""
    under_way = call.runtime.exports
    key_id = call.caller.key_id
    if under_way.total() >= EXPORTS_AT_ONCE or under_way[key_id] >= EXPORTS_OF_ONE_KEY:
        raise TooManyExports(EXPORTS_AT_ONCE, EXPORTS_OF_ONE_KEY)
    under_way[key_id] += 1
    try:
        yield
    finally:
        under_way[key_id] -= 1


async def stream_case(call: GalleryCall, case: CaseDetail) -> AsyncIterator[bytes]:
    """Make the ZIP of a case as it is sent, with one picture in memory.

    Searches and pictures that are deleted meanwhile are left out.
    """
    run = call.runtime.pools.files.run
    archive = CaseArchive()
    searches = []
    for entry in case.queries:
        try:
            opened = await open_search(call, entry.query_id)
        except UnknownQuery:
            continue
        decisions = {review.crop_id: review.decision for review in opened.reviews}
        shown = [
            result
            for result in opened.answer.results
            if result.rank <= SHOWN or result.crop_id in decisions
        ]
        pictures: dict[str, str] = {}
        async for picture_id, name, picture in _pictures(call, opened, shown):
            suffix = EXTENSIONS.get(picture.content_type, "image")
            pictures[picture_id] = f"pictures/{name}.{suffix}"
            await run(archive.add, pictures[picture_id], picture.content)
            yield archive.take()
        searches.append(
            {
                "opened": opened,
                "note": entry.note,
                "shown": shown,
                "decisions": decisions,
                "pictures": pictures,
            }
        )
    about = {"case": case, "gallery": call.gallery.name, "searches": searches}
    await run(_finish, archive, about)
    yield archive.take()


async def _pictures(
    call: GalleryCall, opened: OpenedSearch, shown: Sequence[RankedCrop]
) -> AsyncIterator[tuple[str, str, Picture]]:
    """Yield ids, file names and content of the pictures of a search and its shown results."""
    missing = contextlib.suppress(UnknownPicture, UnknownQuery, UnknownCrop)
    query_id = opened.query_id
    if opened.image_url:
        with missing:
            picture = await read_search_picture(call, query_id)
            yield query_id, f"search-{query_id}", picture
    for result in shown:
        with missing:
            picture = await read_picture(call.runtime, call.gallery, result.crop_id)
            yield result.crop_id, f"crop-{result.crop_id}", picture


def _finish(archive: CaseArchive, about: dict[str, Any]) -> None:
    pages = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True)
    pages.filters["moment"] = lambda moment: f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S}"
    page = pages.get_template("case.html").render(about, exported_at=datetime.now(UTC))
    archive.add("index.html", page.encode())
    archive.add("results.csv", "".join(_lines(about["searches"])).encode())
    archive.close()


def _lines(searches: list[dict[str, Any]]) -> Iterator[str]:
    yield csv_line(*COLUMNS)
    for search in searches:
        opened = search["opened"].model_dump(mode="json")
        reviews = {review["crop_id"]: review for review in opened["reviews"]}
        for result in opened["answer"]["results"]:
            review = reviews.get(result["crop_id"], {})
            yield csv_line(
                *(opened["query_id"], opened["created_at"]),
                *(result[name] for name in RESULT_COLUMNS),
                *(review.get(name) for name in ("decision", "reviewed_at")),
                search["pictures"].get(result["crop_id"]),
            )
