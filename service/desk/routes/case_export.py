"""The export of a case: a ZIP with a page, pictures, tables and their checksums."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import zipfile
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gmn_client.models import (
    CaseDetail,
    CaseSearch,
    Crop,
    OpenedSearch,
    QueryAnswer,
    RankedCrop,
    ReviewedResult,
    Visit,
)
from service.desk.kept_searches import open_search, read_search_picture
from service.desk.routes.repeating import is_judged_as_then, repeat_search
from service.errors import (
    Forbidden,
    ServiceError,
    UnknownCrop,
    UnknownGallery,
    UnknownPicture,
    UnknownQuery,
)
from service.gallery.gallery import Gallery
from service.http.problems import csv_header, csv_line
from service.record.values import Picture
from service.runtime import GalleryCall

# Number of top results of a search that are shown beside all reviewed ones.
SHOWN = 10
EXTENSIONS = {"image/png": "png", "image/jpeg": "jpg", "image/webp": "webp", "image/bmp": "bmp"}
RESULT_COLUMNS = (
    "query_id",
    "searched_at",
    "rank",
    "crop_id",
    "identity",
    "camera",
    "captured_at",
    "external_id",
    "cosine",
    "pair_logit",
    "probability",
    "verdict",
    "verdict_today",
    "likelihood_ratio",
    "decision",
    "reviewed_at",
    "key_id",
    "key_note",
    "sha256",
    "sent_sha256",
    "picture",
)
VISIT_COLUMNS = (
    "query_id",
    "searched_at",
    "verdict",
    "probability",
    "identity",
    "camera",
    "first_seen",
    "last_seen",
    "tracks",
    "crops",
    "crop_id",
    "sha256",
    "sent_sha256",
    "picture",
    "warnings",
)
MISSING = (UnknownPicture, UnknownCrop, UnknownQuery, UnknownGallery)


@dataclass(frozen=True)
class ExportedSearch:
    """A search of a case with what its page and the tables show.

    Attributes:
        note: the note on it.
        searched_crops: the crops that were searched by and still exist.
        today: today's answer to the same search; None if it was not repeated.
        is_judged_as_then: it was not repeated because its thresholds are the same.
        pictures: files of the archive, by `search-` or `crop-` and the id.
    """

    opened: OpenedSearch
    note: str
    searched_crops: Sequence[Crop]
    today: QueryAnswer | None
    is_judged_as_then: bool
    pictures: Mapping[str, str]

    @property
    def query_picture(self) -> str | None:
        names = [f"search-{self.opened.query_id}"]
        names += [f"crop-{crop.crop_id}" for crop in self.searched_crops]
        return next((self.pictures[name] for name in names if name in self.pictures), None)

    @property
    def confirmed(self) -> list[RankedCrop]:
        return [
            result
            for result in self.opened.answer.results
            if self.decision(result.crop_id) == "confirmed"
        ]

    @property
    def others(self) -> list[RankedCrop]:
        """The other results that are shown: the first ones, and those that were rejected."""
        return [
            result
            for result in self.opened.answer.results
            if self.decision(result.crop_id) == "rejected"
            or (result.rank <= SHOWN and self.decision(result.crop_id) is None)
        ]

    @property
    def visits(self) -> list[Visit]:
        kept = self.opened.visits
        return [*kept.results, *kept.uncertain] if kept else []

    def review(self, crop_id: str) -> ReviewedResult | None:
        return next((review for review in self.opened.reviews if review.crop_id == crop_id), None)

    def decision(self, crop_id: str) -> str | None:
        review = self.review(crop_id)
        return review.decision if review else None

    def picture(self, crop_id: str) -> str | None:
        return self.pictures.get(f"crop-{crop_id}")

    def result_today(self, result: RankedCrop) -> RankedCrop | None:
        """Return the result as it is judged today; None if that is not known."""
        if self.is_judged_as_then:
            return result
        results = self.today.results if self.today else []
        return next((other for other in results if other.crop_id == result.crop_id), None)


async def stream_case(call: GalleryCall, case: CaseDetail) -> AsyncIterator[bytes]:
    """Build the ZIP of a case while it is sent, with one picture in memory at a time.

    Searches and pictures that are deleted in the meantime are omitted.
    """
    run = call.runtime.pools.files.run
    archive = _CaseArchive()
    searches: list[ExportedSearch] = []
    for entry in case.queries:
        try:
            search = await _read_search(call, entry)
        except UnknownQuery:
            continue
        pictures: dict[str, str] = {}
        async for name, picture in _read_pictures(call, search):
            suffix = EXTENSIONS.get(picture.content_type, "image")
            pictures[name] = f"pictures/{name}.{suffix}"
            await run(archive.add, pictures[name], picture.content)
            yield archive.take()
        searches.append(replace(search, pictures=pictures))
    await run(_finish, archive, call.gallery.name, case, searches)
    yield archive.take()


class _Unsent(io.BytesIO):
    """The end of a file whose beginning was sent; positions count from the beginning."""

    _sent = 0

    def seek(self, position: int, whence: int = os.SEEK_SET) -> int:
        if whence == os.SEEK_SET:
            position -= self._sent
        return self._sent + super().seek(position, whence)

    def tell(self) -> int:
        return self._sent + super().tell()

    def take(self) -> bytes:
        content = self.getvalue()
        self._sent += len(content)
        super().seek(0)
        self.truncate(0)
        return content


class _CaseArchive:
    """A ZIP written piece by piece; its last file, `SHA256SUMS`, has the others' checksums."""

    def __init__(self) -> None:
        self._sums: dict[str, str] = {}
        # Each file is whole before it is sent, so that its size stands before it: some programs
        # that read a ZIP from the beginning refuse stored files with the size after them.
        self._unsent = _Unsent()
        # Pictures are already compressed.
        self._zip = zipfile.ZipFile(self._unsent, "w", zipfile.ZIP_STORED)

    def take(self) -> bytes:
        return self._unsent.take()

    def add(self, name: str, content: bytes) -> None:
        if name not in self._sums:
            self._zip.writestr(name, content)
            self._sums[name] = hashlib.sha256(content).hexdigest()

    def finish(self) -> None:
        lines = (f"{digest}  {name}\n" for name, digest in self._sums.items())
        self._zip.writestr("SHA256SUMS", "".join(lines))
        self._zip.close()


async def _read_search(call: GalleryCall, entry: CaseSearch) -> ExportedSearch:
    opened = await open_search(call, entry.query_id)
    # A case does not show metadata, which could be gigabytes in all its results.
    results = [result.model_copy(update={"metadata": None}) for result in opened.answer.results]
    answer = opened.answer.model_copy(update={"results": results})
    opened = opened.model_copy(update={"answer": answer})
    today = None
    is_as_then = False
    # A search that cannot be repeated has no verdict of today.
    with contextlib.suppress(ServiceError):
        is_as_then = await is_judged_as_then(call, answer)
        if not is_as_then:
            today = await repeat_search(call, opened)
    return ExportedSearch(
        opened=opened,
        note=entry.note,
        searched_crops=await _read_searched_crops(call, opened),
        today=today,
        is_judged_as_then=is_as_then,
        pictures={},
    )


async def _read_searched_crops(call: GalleryCall, opened: OpenedSearch) -> list[Crop]:
    crop_ids = opened.request.get("crop_ids") or [opened.crop_id]
    crops: list[Crop] = []
    for crop_id in filter(None, crop_ids):
        # A key may be for this gallery alone, and the crops of another one.
        with contextlib.suppress(*MISSING, Forbidden):
            gallery = await _find_home(call, opened)
            crop = await call.runtime.browser.read_crop(gallery, crop_id)
            crops.append(crop.model_copy(update={"metadata": None}))
    return crops


async def _find_home(call: GalleryCall, opened: OpenedSearch) -> Gallery:
    """Return the gallery of the crops that a search was by."""
    name = opened.request.get("gallery", call.gallery.name)
    call.caller.require_gallery(name)
    return await call.runtime.galleries.find(name)


async def _read_pictures(
    call: GalleryCall, search: ExportedSearch
) -> AsyncIterator[tuple[str, Picture]]:
    read_picture = call.runtime.browser.read_picture
    missing = contextlib.suppress(*MISSING)
    with missing:
        picture = await read_search_picture(call, search.opened.query_id)
        yield f"search-{search.opened.query_id}", picture
    for crop in search.searched_crops[:1]:
        with missing:
            home = await _find_home(call, search.opened)
            yield f"crop-{crop.crop_id}", await read_picture(home, crop.crop_id)
    crop_ids = [result.crop_id for result in (*search.confirmed, *search.others)]
    crop_ids += [visit.crop_ids[0] for visit in search.visits]
    for crop_id in dict.fromkeys(crop_ids):
        with missing:
            yield f"crop-{crop_id}", await read_picture(call.gallery, crop_id)


def _finish(
    archive: _CaseArchive, gallery: str, case: CaseDetail, searches: Sequence[ExportedSearch]
) -> None:
    # Imported where it is used: only exports need it, and every start would wait for it.
    from jinja2 import Environment, FileSystemLoader

    pages = Environment(loader=FileSystemLoader(Path(__file__).parents[1]), autoescape=True)
    pages.filters["moment"] = lambda moment: f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S}"
    page = pages.get_template("case.html").render(
        case=case, gallery=gallery, searches=searches, exported_at=datetime.now(UTC)
    )
    archive.add("index.html", page.encode())
    archive.add("results.csv", "".join(_format_table(RESULT_COLUMNS, _results(searches))).encode())
    archive.add("visits.csv", "".join(_format_table(VISIT_COLUMNS, _visits(searches))).encode())
    archive.finish()


def _format_table(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    yield csv_header(*columns)
    for row in rows:
        yield csv_line(*(row.get(name) for name in columns))


def _results(searches: Iterable[ExportedSearch]) -> Iterator[dict[str, Any]]:
    for search in searches:
        for result in search.opened.answer.results:
            review = search.review(result.crop_id)
            today = search.result_today(result)
            yield {
                **_search_fields(search),
                **(review.model_dump(mode="json") if review else {}),
                **result.model_dump(mode="json"),
                "verdict_today": today and today.verdict,
                "picture": search.picture(result.crop_id),
            }


def _visits(searches: Iterable[ExportedSearch]) -> Iterator[dict[str, Any]]:
    for search in searches:
        for visit in search.visits:
            (crop_id, *_) = visit.crop_ids
            yield {
                **_search_fields(search),
                **visit.model_dump(mode="json"),
                "tracks": " ".join(visit.tracks),
                "crop_id": crop_id,
                "picture": search.picture(crop_id),
                "warnings": "; ".join(search.opened.answer.warnings),
            }


def _search_fields(search: ExportedSearch) -> dict[str, Any]:
    fields = search.opened.model_dump(mode="json", include={"query_id", "created_at"})
    return {"query_id": fields["query_id"], "searched_at": fields["created_at"]}
