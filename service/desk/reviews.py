"""Reviews: decisions whether results of a kept search show the person that was searched for."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Literal, Self

from pydantic import BaseModel, Field, model_validator

from gmn_client import models
from service.desk.searches import (
    KEPT_RESULTS,
    find_search,
    open_search,
    read_search_picture,
    search_picture_url,
)
from service.errors import InvalidField, UnknownCrop, UnknownQuery
from service.gallery.changes import change_matching
from service.gallery.enroll import Camera, ImageToEnroll, Name, enroll
from service.ops.csv_lines import csv_line
from service.record.values import CropFilter, KeptQuery, Picture, Review
from service.runtime import GalleryCall
from service.search.options import Id, Moment

COLUMNS = tuple(models.Review.model_fields)
SEARCHES_AT_ONCE = 100


class ReviewOptions(BaseModel):
    """Decision on results of a kept search."""

    crop_ids: list[Id] = Field(
        min_length=1, max_length=KEPT_RESULTS, description="Results of the search."
    )
    decision: Literal["confirmed", "rejected", "open"] = Field(
        description="Whether they show the person that was searched for; `open` takes it back."
    )
    identity: Name | None = Field(
        None, description="With `confirmed`: these crops' name from now on; needs `admin`."
    )
    enroll: bool = Field(
        False, description="With `confirmed`: enroll the picture under it; needs `enroll`."
    )
    camera: Camera | None = Field(
        None, description="With `enroll`: the camera that took the picture."
    )
    captured_at: Moment | None = Field(
        None, description="With `enroll`: when it was taken; RFC 3339, with zone."
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.decision != "confirmed" and (self.identity is not None or self.enroll):
            raise InvalidField("identity, enroll: go with decision=confirmed; leave them out")
        if not self.enroll and (self.camera is not None or self.captured_at is not None):
            raise InvalidField("camera, captured_at: go with enroll=true; send that too")
        return self


async def review_results(
    call: GalleryCall, query_id: str, new: ReviewOptions
) -> models.AnsweredReview:
    """Name the crops, note the decision, and enroll the picture, in this order.

    If it is cut off in between, the same request does the rest.

    Raises:
        UnknownQuery, UnknownCrop, UnknownPicture, InvalidField, CropConflict: nothing was changed.
        Forbidden: the key may not name, or enroll, or another key has decided.
    """
    runtime = call.runtime
    gallery = call.gallery
    kept = await find_search(call, query_id)
    for crop_id in new.crop_ids:
        if crop_id in kept.reviews:
            call.caller.require_own(kept.reviews[crop_id].key_id)
    names = await _names(call, kept, new)
    picture = await read_search_picture(call, query_id) if new.enroll else None
    if new.identity is not None:
        chosen = CropFilter(crop_ids=frozenset(new.crop_ids))
        await change_matching(runtime, gallery, chosen, {"identity": new.identity}, False)
        names = {new.identity}
    review = None
    if new.decision != "open":
        review = Review(new.decision, datetime.now(UTC), call.caller.key_id)
    crop_ids = list(dict.fromkeys(new.crop_ids))
    if await call.write(runtime.record.kept.review, query_id, crop_ids, review) is None:
        raise UnknownQuery(gallery.name, query_id)
    await call.done("review", query_id=query_id, crop_ids=crop_ids, decision=new.decision)
    enrolled = await _enroll(call, picture, new, names) if picture else None
    opened = await open_search(call, query_id)
    return models.AnsweredReview(**dict(opened), enrolled_crop_id=enrolled)


async def list_reviews(
    call: GalleryCall, before: str | None, limit: int, key_id: str | None
) -> models.Reviews:
    """List the reviews of searches, the newest search first.

    Args:
        before: id of a search; only older ones are read.
        limit: number of searches. A key's searches without reviews count, too, so that a cursor
            never names a search of another key.
        key_id: lists the searches of one key; None for all.
    """
    found_by = ("reviewed", "") if key_id is None else ("key", key_id)

    def read(number: int) -> models.Reviews:
        searches = call.runtime.record.kept.page(number, before, limit + 1, *found_by)
        more = searches[limit - 1].query_id if len(searches) > limit else None
        rows = list(_rows(call, searches[:limit]))
        return models.Reviews(results=rows, next_cursor=more)

    return await call.read(read)


async def reviews_as_csv(call: GalleryCall, key_id: str | None) -> str:
    lines = [csv_line(*COLUMNS)]
    before = None
    while True:
        page = await list_reviews(call, before, SEARCHES_AT_ONCE, key_id)
        for review in page.results:
            lines.append(csv_line(*review.model_dump(mode="json").values()))
        before = page.next_cursor
        if before is None:
            return "".join(lines)


async def _names(call: GalleryCall, kept: KeptQuery, new: ReviewOptions) -> Collection[str]:
    """Return the names of the crops; raise `InvalidField` or `UnknownCrop` for a wrong review."""
    known = {result.crop_id for result in kept.results}
    for crop_id in new.crop_ids:
        if crop_id not in known:
            raise InvalidField(
                f"crop_ids: {crop_id[:40]!r} is no kept result of search {kept.query_id}; send ids "
                "of its results"
            )
    crops = await call.read(call.runtime.record.crops.by_id, new.crop_ids)
    for crop_id in new.crop_ids:
        if crop_id not in crops and new.decision != "open":
            raise UnknownCrop(call.gallery.name, crop_id)
    names = {crop.identity for crop in crops.values() if crop.identity is not None}
    if new.enroll and new.identity is None and len(names) != 1:
        borne = f"bear {len(names)} names" if names else "have no name"
        raise InvalidField(f"identity: the confirmed crops {borne}; send the person's name")
    return names


async def _enroll(
    call: GalleryCall, picture: Picture, new: ReviewOptions, names: Collection[str]
) -> str | None:
    (name,) = names
    image = ImageToEnroll(picture.content, name, new.camera, new.captured_at)
    (result,) = (await enroll(call.runtime, call.gallery, [image])).results
    if isinstance(result, models.RefusedImage):
        raise InvalidField(
            f"enroll: the results are reviewed, and the picture cannot be enrolled: "
            f"{result.problem.detail}"
        )
    return result.crop_id


def _rows(call: GalleryCall, searches: Sequence[KeptQuery]) -> Iterator[models.Review]:
    gallery = call.gallery
    ids = {crop_id for search in searches for crop_id in search.reviews}
    crops = call.runtime.record.crops.by_id(gallery.gallery_id, ids)
    for search in searches:
        url = search_picture_url(gallery, search)
        for crop_id, review in search.reviews.items():
            if crop := crops.get(crop_id):
                fields = {
                    **asdict(review),
                    "query_id": search.query_id,
                    "crop_id": crop_id,
                    "identity": crop.identity,
                    "query_image_url": url,
                    "image_url": gallery.image_url(crop_id),
                }
                yield models.Review.model_validate(fields)
