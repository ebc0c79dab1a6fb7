"""Cases: kept searches that are held together with notes, and the ZIP that one is exported as."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

from jinja2 import Environment, FileSystemLoader

from gmn_client.models import Case, CaseDetail, CaseRemoval, Cases, CaseSearch, OpenedSearch
from service.desk.searches import find_case, open_search, read_search_picture
from service.errors import (
    InvalidField,
    StorageFailed,
    UnknownCase,
    UnknownCrop,
    UnknownPicture,
    UnknownQuery,
)
from service.gallery.browse import read_picture
from service.ops.csv_lines import csv_line
from service.ops.data_directory import require_free_disk
from service.record import kept_queries as records
from service.record.desk import MOST_CASES, MOST_CASES_OF_KEY, CaseFields
from service.record.keys import new_crop_id
from service.record.records import Picture
from service.runtime import GalleryCall

# Of each search the first results are shown, and every one that is reviewed.
SHOWN = 10
EXTENSIONS = {"image/png": "png", "image/jpeg": "jpg", "image/webp": "webp", "image/bmp": "bmp"}
OF_RESULT = (
    *("rank", "crop_id", "identity", "camera", "captured_at", "external_id"),
    *("cosine", "pair_logit", "probability", "verdict"),
)
COLUMNS = ("query_id", "searched_at", *OF_RESULT, "decision", "reviewed_at", "picture")


async def create_case(call: GalleryCall, name: str, notes: str) -> CaseDetail:
    """Begins a case; raises `InvalidField` where the gallery has as many as it may."""
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
    """Up to `limit` cases that are older than one; the newest first."""
    found = await call.read(call.runtime.record.cases.page, before, limit + 1)
    more = found[limit - 1].case_id if len(found) > limit else None
    return Cases(results=[Case(**_fields(case)) for case in found[:limit]], next_cursor=more)


async def change_case(call: GalleryCall, case_id: str, fields: CaseFields) -> CaseDetail:
    """Changes the name or the notes.

    Raises:
        UnknownCase: there is no such one.
        Forbidden: another key made it.
        InvalidField: nothing is to be changed.
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
    """Puts a kept search into a case, or changes its note; with None takes it out of the case.

    Raises:
        UnknownCase, UnknownQuery: there is no such one, or the case does not hold it.
        Forbidden: another key made the case, which holds it already.
        InvalidField: the case, or the cases of its key, hold as many as they may.
    """
    found = await find_case(call, case_id)
    held = found.queries.get(query_id)
    if note is None or (held and held.note != note):
        call.caller.require_own(found.key_id)
    most = None if call.caller.may() else (call.runtime.settings.kept_queries + 1) // 2
    case = await call.write(call.runtime.record.cases.hold, case_id, query_id, note, most)
    if case is None:
        raise UnknownQuery(call.gallery.name, query_id)
    event = "release_search" if note is None else "hold_search"
    await call.done(event, case_id=case_id, query_id=query_id)
    return detailed(case)


async def delete_case(call: GalleryCall, case_id: str) -> CaseRemoval:
    """Deletes a case with the caller's searches that no other case holds; answers how many.

    For `admin` these are the searches of every key.

    Raises:
        UnknownCase: there is no such one.
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
    """A case as the API shows it."""
    queries = [CaseSearch(query_id=one, **entry._asdict()) for one, entry in case.queries.items()]
    return CaseDetail(**{**_fields(case), "queries": queries})


def _fields(case: records.Case) -> dict[str, Any]:
    return {**vars(case), "count": len(case.queries)}


class CaseArchive:
    """A ZIP of which every file's SHA-256 is in its last one, `SHA256SUMS`."""

    def __init__(self, file: IO[bytes]) -> None:
        # Pictures are compressed already.
        self._zip = zipfile.ZipFile(file, "w", zipfile.ZIP_STORED)
        self._sums: dict[str, str] = {}

    def add(self, name: str, content: bytes) -> str:
        """Adds a file, once; answers its name."""
        if name not in self._sums:
            self._zip.writestr(name, content)
            self._sums[name] = hashlib.sha256(content).hexdigest()
        return name

    def close(self) -> None:
        """Adds the checksums, and finishes the ZIP."""
        lines = (f"{digest}  {name}\n" for name, digest in self._sums.items())
        self._zip.writestr("SHA256SUMS", "".join(lines))
        self._zip.close()


async def export_case(call: GalleryCall, case_id: str) -> IO[bytes]:
    """Writes a case into a file without a name, which is gone once it is closed.

    Searches and pictures that are deleted meanwhile are left out.

    Raises:
        UnknownCase: there is no such one.
        StorageFailed: the disk is too full.
    """
    runtime, case = call.runtime, await find_case(call, case_id)
    require_free_disk(runtime.settings)
    with ExitStack() as failing:
        # Beside the galleries, on the disk whose free space was asked for.
        file = failing.enter_context(TemporaryFile(dir=runtime.settings.data_dir))
        try:
            archive, searches = CaseArchive(file), []
            for query_id, entry in case.queries.items():
                try:
                    opened = await open_search(call, query_id)
                except UnknownQuery:
                    continue
                searches.append(await _search(call, archive, opened, entry.note))
            about = {"case": case, "gallery": call.gallery.name, "searches": searches}
            await runtime.pools.files.run(_finish, archive, about)
        except OSError as error:
            raise StorageFailed(
                f"the export could not be written ({error.strerror}); free space in the data "
                "directory and send the request again"
            ) from error
        failing.pop_all()
    await call.done("export_case", case_id=case_id)
    return file


async def _search(
    call: GalleryCall, archive: CaseArchive, opened: OpenedSearch, note: str
) -> dict[str, Any]:
    """What the page shows of a search: the note on it, and names of pictures in the archive."""

    async def add(name: str, reading: Any) -> str | None:
        try:
            picture: Picture = await reading
        except (UnknownPicture, UnknownQuery, UnknownCrop):
            return None
        file = f"pictures/{name}.{EXTENSIONS.get(picture.content_type, 'image')}"
        return await call.runtime.pools.files.run(archive.add, file, picture.content)

    query_id, picture = opened.query_id, None
    if opened.image_url:
        picture = await add(f"search-{query_id}", read_search_picture(call, query_id))
    decisions = {one.crop_id: one.decision for one in opened.reviews}
    shown = []
    for one in opened.answer.results:
        decision = decisions.get(one.crop_id, "")
        if one.rank <= SHOWN or decision:
            reading = read_picture(call.runtime, call.gallery, one.crop_id)
            name = await add(f"crop-{one.crop_id}", reading)
            shown.append({"result": one, "decision": decision, "picture": name})
    return {"opened": opened, "note": note, "picture": picture, "shown": shown}


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
        reviews = {one["crop_id"]: one for one in opened["reviews"]}
        pictures = {one["result"].crop_id: one["picture"] for one in search["shown"]}
        for result in opened["answer"]["results"]:
            crop_id = result["crop_id"]
            review = reviews.get(crop_id, {})
            yield csv_line(
                *(opened["query_id"], opened["created_at"]),
                *(result[name] for name in OF_RESULT),
                *(review.get(name) for name in ("decision", "reviewed_at")),
                pictures.get(crop_id),
            )
