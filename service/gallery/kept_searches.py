"""Kept searches: storing, listing and opening them with current labels, deletion and expiry."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any

from gmn_client.models import (
    BestResult,
    KeptSearch,
    KeptSearches,
    OpenedSearch,
    QueryAnswer,
)
from service.errors import (
    InvalidField,
    ServiceError,
    UnknownCase,
    UnknownPicture,
    UnknownQuery,
)
from service.gallery.gallery import Gallery
from service.ops.data_directory import require_free_disk
from service.record.keys import ApiKey
from service.record.values import Case, KeptQuery, KeptResult, Picture, StoredCrop, new_crop_id
from service.runtime import GalleryCall, Runtime
from service.search.options import QueryOptions
from service.search.query import AnsweredQuery

KEPT_RESULTS = 100
# Limit on the fields as JSON, since a listing reads up to 1,000 searches.
KEPT_REQUEST_BYTES = 16 * 1024
# Other fields are dropped: they may name a person, and forgetting would not find that name here.
KEPT_FIELDS = {
    *(
        "mode",
        "top_k",
        "rerank_depth",
        "scoring",
        "group_by",
        "order",
        "operating_point",
        "purpose",
    ),
    *("cameras", "exclude_cameras", "captured_after", "captured_before"),
    *("camera", "camera_disjoint", "min_version", "unnamed", "track"),
}


async def keep_answers(
    call: GalleryCall, options: QueryOptions, queries: Sequence[AnsweredQuery]
) -> list[QueryAnswer]:
    """Store answered searches, and return their answers with a `query_id`.

    If an answer cannot be stored, a warning explains why and there is no `query_id`.
    """
    runtime = call.runtime
    try:
        require_free_disk(runtime.settings)
        request = options.model_dump(mode="json", include=KEPT_FIELDS, exclude_defaults=True)
        if (size := len(json.dumps(request))) > KEPT_REQUEST_BYTES:
            raise InvalidField(
                f"cameras, exclude_cameras: with them the request has {size:,} bytes, and a kept "
                f"one has at most {KEPT_REQUEST_BYTES:,}; name fewer cameras"
            )
        searches = [_kept(call.caller, request, query) for query in queries]
        stored_ids, removed = await call.write(
            runtime.record.kept.keep, searches, runtime.settings.kept_queries
        )
        if removed:
            await call.done("delete_oldest_searches", count=removed)
    except ServiceError as error:
        warning = f"the search is not kept: {error.detail}"
        return [_warned(query.answer, warning) for query in queries]

    answers = []
    for query, (search, _) in zip(queries, searches, strict=True):
        answer = query.answer
        if search.query_id not in stored_ids:
            why = "cases hold all searches that GMN_KEPT_QUERIES allows, or its result is deleted"
            answers.append(_warned(answer, f"the search is not kept: {why}"))
            continue
        if query.images and options.keep_picture and query.prepared is None:
            answer = _warned(answer, "the picture is not kept: GMN_KEEP_IMAGES=none keeps none")
        answers.append(answer.model_copy(update={"query_id": search.query_id}))
    return answers


async def find_case(call: GalleryCall, case_id: str) -> Case:
    case = await call.read(call.runtime.record.cases.get, case_id)
    if case is None:
        raise UnknownCase(call.gallery.name, case_id)
    return case


def described_searches(
    call: GalleryCall, searches: Sequence[KeptQuery], limit: int
) -> KeptSearches:
    """Describe a page of searches from up to `limit` + 1 of them; blocks."""
    more = searches[limit - 1].query_id if len(searches) > limit else None
    searches = searches[:limit]
    best = {search.results[0].crop_id for search in searches if search.results}
    crops = call.runtime.record.crops.by_id(call.gallery.gallery_id, best)
    results = [KeptSearch.model_validate(_summary(call, search, crops)) for search in searches]
    return KeptSearches(results=results, next_cursor=more)


async def find_search(call: GalleryCall, query_id: str) -> KeptQuery:
    search = await call.read(call.runtime.record.kept.get, query_id)
    if search is None:
        raise UnknownQuery(call.gallery.name, query_id)
    return search


async def open_search(call: GalleryCall, query_id: str) -> OpenedSearch:
    """Return a kept search and its answer with current labels; raise `UnknownQuery`."""
    kept = await find_search(call, query_id)
    return await call.read(lambda _: _opened(call, kept))


async def read_search_picture(call: GalleryCall, query_id: str) -> Picture:
    """Return the picture of a kept search; raise `UnknownPicture`."""
    picture = await call.read(call.runtime.record.kept.picture, query_id)
    if picture is None:
        remedy = "send keep_picture=true with an image"
        raise UnknownPicture(call.gallery.name, "search", query_id, remedy)
    return picture


async def expire_searches(runtime: Runtime, gallery: Gallery) -> None:
    """Delete expired searches, and those for a person who has no crops left."""
    before = datetime.now(UTC) - _kept_for(runtime, gallery)
    gallery_id = gallery.gallery_id
    record = runtime.record.kept
    run = runtime.pools.files.run

    async def delete(result: dict[str, Any]) -> None:
        result["count"] = await run(record.expire, gallery_id, due, before)

    if due := await run(record.due, gallery_id, before):
        await runtime.audited("delete_expired_searches", delete, gallery=gallery.name)


def search_picture_url(gallery: Gallery, kept: KeptQuery) -> str | None:
    path = f"/v1/galleries/{gallery.name}/queries/{kept.query_id}/image"
    return path if kept.content_type else None


def _opened(call: GalleryCall, kept: KeptQuery) -> OpenedSearch:
    ids = {result.crop_id for result in kept.results} | set(kept.reviews)
    crops = call.runtime.record.crops.by_id(call.gallery.gallery_id, ids)
    results = [
        {
            **asdict(crops[result.crop_id]),
            **result._asdict(),
            "rank": rank,
            "image_url": call.gallery.image_url(result.crop_id),
        }
        for rank, result in enumerate(kept.results, 1)
        if result.crop_id in crops
    ]
    reviews = [
        {
            **asdict(review),
            "crop_id": crop_id,
            "identity": crops[crop_id].identity if crop_id in crops else None,
        }
        for crop_id, review in kept.reviews.items()
    ]
    fields = {
        **_summary(call, kept, crops),
        "answer": {**kept.answer, "results": results, "query_id": kept.query_id},
        "removed": len(kept.results) - len(results),
        "reviews": reviews,
    }
    return OpenedSearch.model_validate(fields)


def _summary(call: GalleryCall, kept: KeptQuery, crops: Mapping[str, StoredCrop]) -> dict[str, Any]:
    gallery = call.gallery
    first = kept.results[0] if kept.results else None
    best = None
    if first and first.crop_id in crops:
        best = BestResult(
            crop_id=first.crop_id,
            identity=crops[first.crop_id].identity,
            probability=first.probability,
            image_url=gallery.image_url(first.crop_id),
        )
    decisions = [review.decision for review in kept.reviews.values()]
    return {
        **vars(kept),
        "expires_at": None if kept.cases else kept.created_at + _kept_for(call.runtime, gallery),
        "purpose": kept.request.get("purpose"),
        "verdict": kept.answer["verdict"],
        "count": len(kept.results),
        "best": best,
        "image_url": search_picture_url(gallery, kept),
        "confirmed": decisions.count("confirmed"),
        "rejected": decisions.count("rejected"),
        "case_ids": kept.cases,
    }


def _kept_for(runtime: Runtime, gallery: Gallery) -> timedelta:
    days = runtime.settings.kept_days
    return timedelta(days=min(days, gallery.settings.retention_days or days))


def _kept(
    caller: ApiKey,
    request: Mapping[str, Any],
    query: AnsweredQuery,
) -> tuple[KeptQuery, bytes | None]:
    # Forgetting finds the search by each of these crops.
    crop_fields = {"crop_ids": query.crop_ids} if len(query.crop_ids) > 1 else {}
    search = KeptQuery(
        query_id=new_crop_id(),
        created_at=datetime.now(UTC),
        key_id=caller.key_id,
        request={**request, "images": query.images, **crop_fields},
        answer=query.answer.model_dump(mode="json", exclude={"results", "query_id"}),
        results=[
            KeptResult(crop.crop_id, crop.cosine, crop.pair_logit, crop.probability, crop.verdict)
            for crop in query.answer.results[:KEPT_RESULTS]
        ],
        crop_id=next(iter(query.crop_ids), None),
        content_type=query.prepared.content_type if query.prepared else None,
    )
    return search, query.prepared.picture if query.prepared else None


def _warned(answer: QueryAnswer, warning: str) -> QueryAnswer:
    return answer.model_copy(update={"warnings": [*answer.warnings, warning]})
