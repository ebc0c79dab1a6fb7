"""Kept searches: kept with the answer, listed, opened under the labels of now, deleted."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gmn_client.models import (
    BestResult,
    KeptSearch,
    KeptSearches,
    OpenedSearch,
    QueryAnswer,
    RankedCrop,
    ReviewedResult,
)
from model.crops.frames import ImageFile
from service.errors import (
    InvalidField,
    RecordUnavailable,
    ServiceError,
    UnknownCase,
    UnknownPicture,
    UnknownQuery,
)
from service.gallery.enroll import kept_picture
from service.gallery.gallery import Gallery
from service.ops.data_directory import require_free_disk
from service.record.api_keys import ApiKey
from service.record.kept_queries import Case, KeptQuery, KeptResult
from service.record.keys import new_crop_id
from service.record.records import Picture, StoredCrop
from service.runtime import GalleryCall, Runtime
from service.search.options import QueryOptions
from service.settings import KeepImages

KEPT_RESULTS = 100
# Bound of the fields as JSON: a list reads up to 1,000 searches.
KEPT_REQUEST_BYTES = 16 * 1024
# A larger file is kept as its thumbnail, so that kept pictures have a bound.
KEPT_PICTURE_BYTES = 256 * 1024
# No other field is kept: one may name a person, whom forgetting would not find here.
KEPT_FIELDS = {
    *("mode", "top_k", "rerank_depth", "scoring", "group_by", "operating_point", "purpose"),
    *("cameras", "exclude_cameras", "captured_after", "captured_before"),
    *("camera", "camera_disjoint", "min_version", "unnamed"),
}


async def keep_answers(
    call: GalleryCall,
    options: QueryOptions,
    answers: Sequence[tuple[QueryAnswer, Sequence[ImageFile]]],
    drawn: Mapping[ImageFile, Picture],
) -> list[QueryAnswer]:
    """Keeps answered searches; answers them with their `query_id`.

    Where the record does not take them the answers stay without one, and a warning explains it.

    Args:
        answers: each with the images of its query.
        drawn: what `draw_kept` has made of these images.
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
        if any(answer.stale for answer, _ in answers):
            raise RecordUnavailable("the answer is of memory alone")
        new = []
        for answer, images in answers:
            picture = next(filter(None, map(drawn.get, images)), None)
            new.append(
                (_kept(call.caller, request, options, answer, len(images), picture), picture)
            )
        pairs = [(one, picture and picture.content) for one, picture in new]
        most = runtime.settings.kept_queries
        kept, gone = await call.write(runtime.record.kept.keep, pairs, most)
        if gone:
            await call.done("delete_oldest_searches", count=gone)
    except ServiceError as error:
        why = f"the search is not kept: {error.detail}"
        return [_warned(answer, why) for answer, _ in answers]
    found = []
    for (answer, images), (one, picture) in zip(answers, new, strict=True):
        if one.query_id not in kept:
            why = "cases hold all searches that GMN_KEPT_QUERIES allows, or its result is deleted"
            found.append(_warned(answer, f"the search is not kept: {why}"))
            continue
        if images and options.keep_picture and picture is None:
            answer = _warned(answer, "the picture is not kept: GMN_KEEP_IMAGES=none keeps none")
        found.append(answer.model_copy(update={"query_id": one.query_id}))
    return found


def draw_kept(
    keep: KeepImages,
    drawn: dict[ImageFile, Picture],
    image: ImageFile,
    file: bytes,
    pixels: NDArray[np.uint8],
    quality: float | None,
) -> None:
    """Draws what is kept of a query's image, for `Pipeline.embed`."""
    if keep == "original" and len(file) > KEPT_PICTURE_BYTES:
        keep = "thumbnail"
    if picture := kept_picture(keep, file, pixels, quality)[1]:
        drawn[image] = picture


async def find_case(call: GalleryCall, case_id: str) -> Case:
    """A case; raises `UnknownCase`."""
    case = await call.read(call.runtime.record.cases.get, case_id)
    if case is None:
        raise UnknownCase(call.gallery.name, case_id)
    return case


async def list_searches(
    call: GalleryCall, before: str | None, limit: int, key_id: str | None, case_id: str | None
) -> KeptSearches:
    """Up to `limit` searches of a key, of a case, or of all, older than one; the newest first."""
    record = call.runtime.record
    case = await find_case(call, case_id) if case_id is not None else None
    found_by = ("key", key_id) if key_id is not None else ()

    def read(number: int) -> KeptSearches:
        if case is not None:
            found = record.cases.searches(number, case, before, limit + 1)
        else:
            found = record.kept.page(number, before, limit + 1, *found_by)
        shown = found[:limit]
        crops = record.crops.by_id(
            number, {one.crop_id for kept in shown for one in kept.results[:1]}
        )
        results = [KeptSearch(**_summary(call, kept, crops)) for kept in shown]
        more = found[limit - 1].query_id if len(found) > limit else None
        return KeptSearches(results=results, next_cursor=more)

    return await call.read(read)


async def find_search(call: GalleryCall, query_id: str) -> KeptQuery:
    """A kept search; raises `UnknownQuery`."""
    found = await call.read(call.runtime.record.kept.get, query_id)
    if found is None:
        raise UnknownQuery(call.gallery.name, query_id)
    return found


async def open_search(call: GalleryCall, query_id: str) -> OpenedSearch:
    """A kept search with its answer under the labels of now; raises `UnknownQuery`."""
    kept = await find_search(call, query_id)
    return await call.read(lambda _: _opened(call, kept))


async def read_search_picture(call: GalleryCall, query_id: str) -> Picture:
    """The picture of a kept search; raises `UnknownQuery` or `UnknownPicture`."""
    await find_search(call, query_id)
    picture = await call.read(call.runtime.record.kept.picture, query_id)
    if picture is None:
        remedy = "send keep_picture=true with an image"
        raise UnknownPicture(call.gallery.name, "search", query_id, remedy)
    return picture


async def delete_search(call: GalleryCall, query_id: str) -> None:
    """Deletes a kept search with its picture, from cases too.

    Raises:
        UnknownQuery: there is no such one.
        Forbidden: another key made it.
    """
    call.caller.require_own((await find_search(call, query_id)).key_id)

    async def delete(result: dict[str, Any]) -> None:
        result["count"] = await call.write(call.runtime.record.kept.remove, [query_id])

    name = call.gallery.name
    await call.runtime.audited("delete_kept_search", delete, gallery=name, query_id=query_id)


async def expire_searches(runtime: Runtime, gallery: Gallery) -> None:
    """Deletes searches whose days are over, and those whose person no crop shows any more."""
    before = datetime.now(UTC) - _kept_for(runtime, gallery)
    number = gallery.gallery_id
    record = runtime.record.kept
    run = runtime.pools.files.run

    async def delete(result: dict[str, Any]) -> None:
        result["count"] = await run(record.expire, number, due, before)

    if due := await run(record.due, number, before):
        await runtime.audited("delete_expired_searches", delete, gallery=gallery.name)


def search_picture_url(gallery: Gallery, kept: KeptQuery) -> str | None:
    """Where a search's picture is, below the service's address; None where none is kept."""
    path = f"/v1/galleries/{gallery.name}/queries/{kept.query_id}/image"
    return path if kept.content_type else None


def _opened(call: GalleryCall, kept: KeptQuery) -> OpenedSearch:
    ids = {*(one.crop_id for one in kept.results), *kept.reviews}
    crops = call.runtime.record.crops.by_id(call.gallery.gallery_id, ids)
    results = list(_results(call.gallery, kept, crops))
    reviews = [
        ReviewedResult(crop_id=crop_id, identity=_name(crops, crop_id), **vars(review))
        for crop_id, review in kept.reviews.items()
    ]
    answer = {**kept.answer, "results": results, "query_id": kept.query_id}
    return OpenedSearch(
        **_summary(call, kept, crops),
        request=kept.request,
        answer=QueryAnswer.model_validate(answer),
        removed=len(kept.results) - len(results),
        reviews=reviews,
    )


def _results(
    gallery: Gallery, kept: KeptQuery, crops: Mapping[str, StoredCrop]
) -> Iterable[RankedCrop]:
    for rank, one in enumerate(kept.results, 1):
        if crop := crops.get(one.crop_id):
            label = crop.label
            url = gallery.image_url(one.crop_id)
            known = {name: getattr(label, name) for name in label.__slots__}
            yield RankedCrop.model_validate(
                {**known, **one._asdict(), "rank": rank, "image_url": url}
            )


def _summary(call: GalleryCall, kept: KeptQuery, crops: Mapping[str, StoredCrop]) -> dict[str, Any]:
    gallery = call.gallery
    first = next((one for one in kept.results[:1] if one.crop_id in crops), None)
    decisions = [one.decision for one in kept.reviews.values()]
    ends = None if kept.cases else kept.created_at + _kept_for(call.runtime, gallery)
    return {
        "query_id": kept.query_id,
        "created_at": kept.created_at,
        "expires_at": ends,
        "key_id": kept.key_id,
        "purpose": kept.request.get("purpose"),
        "verdict": kept.answer["verdict"],
        "count": len(kept.results),
        "best": first
        and BestResult(
            crop_id=first.crop_id,
            identity=_name(crops, first.crop_id),
            probability=first.probability,
            image_url=gallery.image_url(first.crop_id),
        ),
        "image_url": search_picture_url(gallery, kept),
        "crop_id": kept.crop_id,
        "confirmed": decisions.count("confirmed"),
        "rejected": decisions.count("rejected"),
        "case_ids": list(kept.cases),
    }


def _name(crops: Mapping[str, StoredCrop], crop_id: str) -> str | None:
    crop = crops.get(crop_id)
    return crop.identity if crop else None


def _kept_for(runtime: Runtime, gallery: Gallery) -> timedelta:
    days = runtime.settings.kept_days
    return timedelta(days=min(days, gallery.settings.retention_days or days))


def _kept(
    caller: ApiKey,
    request: Mapping[str, Any],
    options: QueryOptions,
    answer: QueryAnswer,
    images: int,
    picture: Picture | None,
) -> KeptQuery:
    scores = KeptResult._fields
    return KeptQuery(
        query_id=new_crop_id(),
        created_at=datetime.now(UTC),
        key_id=caller.key_id,
        request={**request, "images": images},
        answer=answer.model_dump(mode="json", exclude={"results", "query_id"}),
        results=[
            KeptResult(*(getattr(one, name) for name in scores))
            for one in answer.results[:KEPT_RESULTS]
        ],
        crop_id=options.crop_id,
        content_type=picture.content_type if picture else None,
    )


def _warned(answer: QueryAnswer, warning: str) -> QueryAnswer:
    return answer.model_copy(update={"warnings": [*answer.warnings, warning]})
