"""The export of a case: a ZIP of a page, pictures, a table of results, and checksums of each."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

from jinja2 import Environment, FileSystemLoader

from gmn_client.models import OpenedSearch, RankedCrop
from service.desk.searches import find_case, open_search, read_search_picture
from service.errors import ServiceError, StorageFailed, UnknownPicture, UnknownQuery
from service.gallery.browse import read_picture
from service.gallery.gallery import Gallery
from service.ops.csv_lines import csv_line
from service.ops.data_directory import require_free_disk
from service.record.records import Picture
from service.runtime import Runtime

# Of each search the first results are shown, and every one that is reviewed.
SHOWN = 10
EXTENSIONS = {"image/png": "png", "image/jpeg": "jpg", "image/webp": "webp", "image/bmp": "bmp"}
OF_RESULT = (
    *("rank", "crop_id", "identity", "camera", "captured_at", "external_id"),
    *("cosine", "pair_logit", "probability", "verdict"),
)
COLUMNS = ("query_id", "searched_at", *OF_RESULT, "decision", "reviewed_at", "picture")


@dataclass(frozen=True)
class ShownResult:
    """A result on the page: its decision, empty for none, and the name of its picture's file."""

    result: RankedCrop
    decision: str
    picture: str | None


@dataclass(frozen=True)
class ExportedSearch:
    """A search on the page, with the note on it and the name of its picture's file."""

    opened: OpenedSearch
    note: str
    picture: str | None
    shown: list[ShownResult]


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


async def export_case(runtime: Runtime, gallery: Gallery, case_id: str) -> IO[bytes]:
    """Writes a case into a file without a name, which is gone once it is closed.

    Searches and pictures that are deleted meanwhile are left out.

    Raises:
        UnknownCase: there is no such one.
        StorageFailed: the disk is too full.
    """
    case = await find_case(runtime, gallery, case_id)
    require_free_disk(runtime.settings)
    # Beside the galleries, on the disk whose free space was asked for.
    file = TemporaryFile(dir=runtime.settings.data_dir)  # noqa: SIM115
    try:
        run, archive = runtime.pools.files.run, CaseArchive(file)
        searches = []
        for query_id, entry in case.queries.items():
            try:
                opened = await open_search(runtime, gallery, query_id)
            except UnknownQuery:
                continue
            searches.append(await _search(runtime, gallery, archive, opened, entry.note))
        about = {"case": case, "gallery": gallery.name, "searches": searches}
        await run(_finish, archive, about)
    except OSError as error:
        file.close()
        raise StorageFailed(
            f"the export could not be written ({error.strerror}); free space in the data directory "
            "and send the request again"
        ) from error
    except BaseException:
        file.close()
        raise
    await runtime.audit.done("export_case", gallery=gallery.name, case_id=case_id)
    return file


async def _search(
    runtime: Runtime, gallery: Gallery, archive: CaseArchive, opened: OpenedSearch, note: str
) -> ExportedSearch:
    async def add(name: str, reading: Any) -> str | None:
        """Adds a picture, if it is kept; answers its file's name."""
        try:
            picture: Picture = await reading
        except (UnknownPicture, UnknownQuery):
            return None
        except ServiceError as error:
            if error.code != "unknown_crop":
                raise
            return None
        file = f"pictures/{name}.{EXTENSIONS.get(picture.content_type, 'image')}"
        return await runtime.pools.files.run(archive.add, file, picture.content)

    query_id, picture = opened.query_id, None
    if opened.image_url:
        reading = read_search_picture(runtime, gallery, query_id)
        picture = await add(f"search-{query_id}", reading)
    decisions = {one.crop_id: one.decision for one in opened.reviews}
    shown = []
    for one in opened.answer.results:
        decision = decisions.get(one.crop_id, "")
        if one.rank <= SHOWN or decision:
            name = await add(f"crop-{one.crop_id}", read_picture(runtime, gallery, one.crop_id))
            shown.append(ShownResult(one, decision, name))
    return ExportedSearch(opened, note, picture, shown)


def _finish(archive: CaseArchive, about: dict[str, Any]) -> None:
    pages = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True)
    pages.filters["moment"] = lambda moment: f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S}"
    page = pages.get_template("case.html").render(about, exported_at=datetime.now(UTC))
    archive.add("index.html", page.encode())
    archive.add("results.csv", "".join(_lines(about["searches"])).encode())
    archive.close()


def _lines(searches: list[ExportedSearch]) -> Iterator[str]:
    yield csv_line(*COLUMNS)
    for search in searches:
        reviews = {one.crop_id: one for one in search.opened.reviews}
        pictures = {one.result.crop_id: one.picture for one in search.shown}
        of_search = search.opened.model_dump(mode="json", include={"query_id", "created_at"})
        for one in search.opened.answer.results:
            result, review = one.model_dump(mode="json"), reviews.get(one.crop_id)
            decided = review.model_dump(mode="json") if review else {}
            yield csv_line(
                *of_search.values(),
                *(result[name] for name in OF_RESULT),
                *(decided.get(name) for name in ("decision", "reviewed_at")),
                pictures.get(one.crop_id),
            )
