"""Kept searches: kept with the answer, listed, opened under the labels of now, deleted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gmn_client.models import (
    BestResult,
    KeptSearch,
    OpenedSearch,
    QueryAnswer,
    RankedCrop,
    ReviewedResult,
)
from service.engine.images import ImageFile
from service.errors import (
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
from service.runtime import Runtime
from service.search.options import QueryOptions
from service.settings import KeepImages

KEPT_RESULTS = 100
# A larger file is kept as its thumbnail, so that kept pictures have a bound.
KEPT_PICTURE_BYTES = 256 * 1024
# No other field is kept: one may name a person, whom forgetting would not find here.
KEPT_FIELDS = {
    *("mode", "top_k", "rerank_depth", "scoring", "group_by", "operating_point", "purpose"),
    *("cameras", "exclude_cameras", "captured_after", "captured_before"),
    *("camera", "camera_disjoint", "min_version", "unnamed"),
}


async def keep_answers(
    runtime: Runtime,
    gallery: Gallery,
    caller: ApiKey,
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
    try:
        require_free_disk(runtime.settings)
        if any(answer.stale for answer, _ in answers):
            raise RecordUnavailable("the answer is of memory alone")
        new = []
        for answer, images in answers:
            picture = next(filter(None, map(drawn.get, images)), None)
            new.append((_kept(caller, options, answer, len(images), picture), picture))
        write = runtime.record.kept.keep
        pairs = [(one, picture and picture.content) for one, picture in new]
        most = runtime.settings.kept_queries
        kept, gone = await runtime.galleries.write(write, gallery.gallery_id, pairs, most)
        if gone:
            await runtime.audit.done("delete_oldest_searches", gallery=gallery.name, count=gone)
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
    image: bytes,
    pixels: NDArray[np.uint8],
    quality: float | None,
) -> None:
    """Draws what is kept of a query's image, for `Pipeline.embed`."""
    if keep == "original" and len(image) > KEPT_PICTURE_BYTES:
        keep = "thumbnail"
    if picture := kept_picture(keep, image, pixels, quality)[1]:
        drawn[image] = picture


async def find_case(runtime: Runtime, gallery: Gallery, case_id: str) -> Case:
    """A case; raises `UnknownCase`."""
    case = await runtime.galleries.read(runtime.record.cases.get, gallery.gallery_id, case_id)
    if case is None:
        raise UnknownCase(gallery.name, case_id)
    return case


async def list_searches(
    runtime: Runtime,
    gallery: Gallery,
    before: str | None,
    limit: int,
    key_id: str | None,
    case_id: str | None,
) -> list[KeptSearch]:
    """Up to `limit` searches of a key, of a case, or of all, older than one; the newest first."""
    number, record = gallery.gallery_id, runtime.record
    case = await find_case(runtime, gallery, case_id) if case_id is not None else None
    found_by = ("key", key_id) if key_id is not None else ()

    def read() -> list[KeptSearch]:
        if case is not None:
            found = record.cases.searches(number, case, before, limit)
        else:
            found = record.kept.page(number, before, limit, *found_by)
        ids = {one.crop_id for kept in found for one in kept.results[:1]}
        crops = record.crops.by_id(number, ids)
        return [KeptSearch(**_summary(runtime, gallery, kept, crops)) for kept in found]

    return await runtime.galleries.read(read)


async def find_search(runtime: Runtime, gallery: Gallery, query_id: str) -> KeptQuery:
    """A kept search; raises `UnknownQuery`."""
    read = runtime.record.kept.get
    found = await runtime.galleries.read(read, gallery.gallery_id, query_id)
    if found is None:
        raise UnknownQuery(gallery.name, query_id)
    return found


async def open_search(runtime: Runtime, gallery: Gallery, query_id: str) -> OpenedSearch:
    """A kept search with its answer under the labels of now; raises `UnknownQuery`."""
    kept = await find_search(runtime, gallery, query_id)
    return await runtime.galleries.read(_opened, runtime, gallery, kept)


async def read_search_picture(runtime: Runtime, gallery: Gallery, query_id: str) -> Picture:
    """The picture of a kept search; raises `UnknownQuery` or `UnknownPicture`."""
    await find_search(runtime, gallery, query_id)
    read = runtime.record.kept.picture
    picture = await runtime.galleries.read(read, gallery.gallery_id, query_id)
    if picture is None:
        remedy = "send keep_picture=true with an image"
        raise UnknownPicture(gallery.name, "search", query_id, remedy)
    return picture


async def delete_search(runtime: Runtime, gallery: Gallery, caller: ApiKey, query_id: str) -> None:
    """Deletes a kept search with its picture, from cases too.

    Raises:
        UnknownQuery: there is no such one.
        Forbidden: another key made it.
    """
    kept = await find_search(runtime, gallery, query_id)
    caller.require_own(kept.key_id)

    async def delete(result: dict[str, Any]) -> None:
        remove = runtime.record.kept.remove
        result["count"] = await runtime.galleries.write(remove, gallery.gallery_id, [query_id])

    await runtime.audited("delete_kept_search", delete, gallery=gallery.name, query_id=query_id)


async def expire_searches(runtime: Runtime, gallery: Gallery) -> None:
    """Deletes searches whose days are over, and those whose person no crop shows any more."""
    before = datetime.now(UTC) - _kept_for(runtime, gallery)
    number, record, run = gallery.gallery_id, runtime.record.kept, runtime.pools.files.run

    async def delete(result: dict[str, Any]) -> None:
        result["count"] = await run(record.expire, number, due, before)

    if due := await run(record.due, number, before):
        await runtime.audited("delete_expired_searches", delete, gallery=gallery.name)


def search_picture_url(gallery: Gallery, kept: KeptQuery) -> str | None:
    """Where a search's picture is, below the service's address; None where none is kept."""
    path = f"/v1/galleries/{gallery.name}/queries/{kept.query_id}/image"
    return path if kept.content_type else None


def _opened(runtime: Runtime, gallery: Gallery, kept: KeptQuery) -> OpenedSearch:
    ids = {*(one.crop_id for one in kept.results), *kept.reviews}
    crops = runtime.record.crops.by_id(gallery.gallery_id, ids)
    results = list(_results(gallery, kept, crops))
    reviews = [
        ReviewedResult(crop_id=crop_id, identity=_name(crops, crop_id), **vars(review))
        for crop_id, review in kept.reviews.items()
    ]
    answer = {**kept.answer, "results": results, "query_id": kept.query_id}
    return OpenedSearch(
        **_summary(runtime, gallery, kept, crops),
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
            label, url = crop.label, gallery.image_url(one.crop_id)
            known = {name: getattr(label, name) for name in label.__slots__}
            yield RankedCrop.model_validate(
                {**known, **one._asdict(), "rank": rank, "image_url": url}
            )


def _summary(
    runtime: Runtime, gallery: Gallery, kept: KeptQuery, crops: Mapping[str, StoredCrop]
) -> dict[str, Any]:
    first = next((one for one in kept.results[:1] if one.crop_id in crops), None)
    decisions = [one.decision for one in kept.reviews.values()]
    ends = None if kept.cases else kept.created_at + _kept_for(runtime, gallery)
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
    caller: ApiKey, options: QueryOptions, answer: QueryAnswer, images: int, picture: Picture | None
) -> KeptQuery:
    scores = KeptResult._fields
    request = options.model_dump(mode="json", include=KEPT_FIELDS, exclude_defaults=True)
    return KeptQuery(
        query_id=new_crop_id(),
        created_at=datetime.now(UTC),
        key_id=caller.key_id,
        request=request | {"images": images},
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
