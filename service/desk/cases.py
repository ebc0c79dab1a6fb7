"""Cases: the description of one, and the ZIP that it is exported as."""

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
    CaseDetail,
    CaseSearch,
    OpenedSearch,
    RankedCrop,
)
from service.desk.searches import open_search, read_search_picture
from service.errors import (
    TooManyExports,
    UnknownCrop,
    UnknownPicture,
    UnknownQuery,
)
from service.gallery.browse import read_picture
from service.ops.csv_lines import csv_line
from service.record import values as records
from service.record.values import Picture
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


def detailed(case: records.Case) -> CaseDetail:
    queries = [
        CaseSearch(query_id=query_id, **entry._asdict()) for query_id, entry in case.queries.items()
    ]
    fields = {**vars(case), "count": len(queries), "queries": queries}
    return CaseDetail.model_validate(fields)


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
