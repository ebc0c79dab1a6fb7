"""Kept searches: storing of answers, their pictures, and expiry."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from gmn_client.models import OpenedSearch, QueryAnswer, SearchedFile, Visit
from service.desk.links import link_opened_search
from service.desk.tables import NewSearch
from service.errors import InvalidField, RecordWaits, ServiceError, UnknownPicture
from service.gallery.gallery import Gallery
from service.ops.data_directory import require_free_disk
from service.record.keys import ApiKey
from service.record.schema import now_micros
from service.record.values import Picture, new_crop_id
from service.runtime import GalleryCall, Runtime
from service.search.query import AnsweredQuery
from service.settings import Settings

# Number of results that are stored of each search.
KEPT_RESULTS = 100
# Limit on the fields as JSON, since a listing reads up to 1,000 searches.
KEPT_REQUEST_BYTES = 16 * 1024
# Number of visits that are stored of a search, and of crops of each.
KEPT_VISITS = 100
KEPT_CROPS_OF_VISIT = 20
# A kept visit has these fields; the others are read when it is opened.
VISIT_FIELDS = {
    "camera",
    "first_seen",
    "last_seen",
    "tracks",
    "crops",
    "crop_ids",
    "verdict",
    "probability",
    "needed",
}


@dataclass(frozen=True)
class SearchToKeep:
    """An answered search of one gallery, and what is kept beside its answer.

    Attributes:
        request: the fields that were sent, without names of people.
        files: the pictures that were sent.
        crop_gallery: id of the gallery of the crops that were searched by, if it is another one.
        visits: the visits and the uncertain ones; None if it was not a search for visits.
    """

    query: AnsweredQuery
    request: Mapping[str, Any]
    files: Sequence[SearchedFile]
    crop_gallery: int | None = None
    visits: tuple[Sequence[Visit], Sequence[Visit]] | None = None


async def keep_answers(
    call: GalleryCall, searches: Sequence[SearchToKeep], keep_picture: bool
) -> list[QueryAnswer]:
    """Store answered searches, and return their answers with a `query_id`.

    If an answer cannot be stored, a warning explains why and there is no `query_id`.

    Args:
        keep_picture: store the first usable image of each search, too.

    Raises:
        RecordWaits: the record can be written again soon; nothing was stored.
    """
    runtime = call.runtime
    try:
        require_free_disk(runtime.settings)
        for search in searches:
            if (size := len(json.dumps(search.request))) > KEPT_REQUEST_BYTES:
                raise InvalidField(
                    f"cameras, exclude_cameras: with them the request has {size:,} bytes, and a "
                    f"kept one has at most {KEPT_REQUEST_BYTES:,}; name fewer cameras"
                )
        rows = [_build_search(call.caller, search) for search in searches]
        stored_ids, removed = await call.write(
            runtime.desk.kept.keep, rows, runtime.settings.kept_queries
        )
        if removed:
            await call.done("delete_oldest_searches", count=removed)
    except RecordWaits:
        raise
    except ServiceError as error:
        warning = f"the search is not kept: {error.detail}"
        return [_add_warning(search.query.answer, warning) for search in searches]

    answers = []
    for search, row in zip(searches, rows, strict=True):
        query = search.query
        answer = query.answer
        if row.query_id not in stored_ids:
            reason = (
                "cases hold all searches that GMN_KEPT_QUERIES allows, or its result is deleted"
            )
            answers.append(_add_warning(answer, f"the search is not kept: {reason}"))
            continue
        if query.images and keep_picture and query.prepared is None:
            answer = _add_warning(
                answer, "the picture is not kept: GMN_KEEP_IMAGES=none keeps none"
            )
        answers.append(answer.model_copy(update={"query_id": row.query_id}))
    return answers


async def open_search(call: GalleryCall, query_id: str) -> OpenedSearch:
    period = kept_for(call.runtime.settings, call.gallery)

    def read(gallery_id: int) -> OpenedSearch:
        # The results of a search may have gigabytes of metadata: they are validated on this thread.
        search = call.runtime.desk.kept.open(gallery_id, period, query_id)
        return link_opened_search(call.gallery.name, search)

    return await call.read(read)


async def read_search_picture(call: GalleryCall, query_id: str) -> Picture:
    picture = await call.read(call.runtime.desk.kept.picture, query_id)
    if picture is None:
        remedy = "send keep_picture=true with an image"
        raise UnknownPicture(call.gallery.name, "search", query_id, remedy)
    return picture


async def expire_searches(runtime: Runtime, gallery: Gallery) -> None:
    before = datetime.now(UTC) - kept_for(runtime.settings, gallery)
    gallery_id = gallery.gallery_id
    record = runtime.desk.kept
    run = runtime.pools.files.run

    async def delete(result: dict[str, Any]) -> None:
        result["count"] = await run(record.expire, gallery_id, before)

    if await run(record.due, gallery_id, before):
        await runtime.audited.run("delete_expired_searches", delete, gallery=gallery.name)


def kept_for(settings: Settings, gallery: Gallery) -> timedelta:
    period = timedelta(days=settings.kept_days)
    return min(period, gallery.settings.retention or period)


def _build_search(caller: ApiKey, search: SearchToKeep) -> NewSearch:
    query = search.query
    # Forgetting finds the search by each of these crops.
    crop_fields = {"crop_ids": query.crop_ids} if len(query.crop_ids) > 1 else {}
    columns = {
        "query_id": new_crop_id(),
        "created_at": now_micros(),
        "key_id": caller.key_id,
        "request": {**search.request, "images": query.images, **crop_fields},
        "answer": query.answer.model_dump_json(exclude={"results", "query_id"}),
        "crop_id": next(iter(query.crop_ids), None),
        "crop_gallery": search.crop_gallery,
        "content_type": query.prepared.content_type if query.prepared else None,
    }
    picture = query.prepared.picture if query.prepared else None
    files = [
        {
            "sent_sha256": bytes.fromhex(file.sent_sha256),
            "sha256": bytes.fromhex(file.sha256) if file.sha256 != file.sent_sha256 else None,
            "name": file.name,
            "box": file.box and file.box.model_dump(),
        }
        for file in search.files
    ]
    visits = search.visits and _describe_visits(*search.visits)
    return NewSearch(columns, query.answer.results[:KEPT_RESULTS], picture, files, visits)


def _describe_visits(visits: Sequence[Visit], uncertain: Sequence[Visit]) -> dict[str, Any]:
    """Return the fields that are kept of visits, of which the uncertain ones are left out first."""

    def describe(visit: Visit) -> dict[str, Any]:
        fields = visit.model_dump(mode="json", include=VISIT_FIELDS)
        return fields | {"crop_ids": visit.crop_ids[:KEPT_CROPS_OF_VISIT]}

    kept = visits[:KEPT_VISITS]
    kept_uncertain = uncertain[: KEPT_VISITS - len(kept)]
    return {
        "results": [describe(visit) for visit in kept],
        "uncertain": [describe(visit) for visit in kept_uncertain],
    }


def _add_warning(answer: QueryAnswer, warning: str) -> QueryAnswer:
    return answer.model_copy(update={"warnings": [*answer.warnings, warning]})
