"""Enrolments: what is sent to Redis, and what its answer means."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

from service.gallery.records import (
    CropLabel,
    Enrolment,
    IndexedCrop,
    LandedCrop,
    NewCrop,
    RequestKey,
)
from service.gallery.redis.database import Database
from service.gallery.redis.values import now_microseconds, sent_crop
from service.gallery.stored_values import kept_already, same_image
from service.problems import NeedsReindex, RequestConflict


def enroll(
    database: Database,
    gallery_id: int,
    embedding_fingerprint: str,
    crops: Sequence[NewCrop],
    request: RequestKey | None,
) -> Enrolment:
    """Stores crops by one script; see `CropRecords.enroll`."""
    asked = (request.key, request.digest, request.problems) if request else ("", "", "")
    answer = database.write(
        "enroll",
        gallery_id,
        embedding_fingerprint,
        now_microseconds(),
        *asked,
        len(crops),
        *(part for crop in crops for part in sent_crop(crop)),
    )
    if answer.get("refused") == "needs_reindex":
        raise NeedsReindex(answer["name"], answer["bound"], embedding_fingerprint)
    if request and "refused" in answer:
        return past_enrolment(request, answer["request"], answer["embedder"])
    landed, added = [], []
    for crop, one in zip(crops, answer["landed"], strict=True):
        warnings = _warnings(one["duplicate"], one["warned_of"])
        landed.append(
            LandedCrop(one["crop_id"], crop.identity, crop.camera, one["duplicate"], warnings)
        )
        if "row" in one:
            label = CropLabel(
                int(one["row"]), one["crop_id"], crop.identity, crop.camera, crop.captured_at
            )
            added.append(IndexedCrop(label, crop.vector))
    return Enrolment(int(answer["version"]), embedding_fingerprint, tuple(landed), tuple(added))


def past_enrolment(request: RequestKey, kept: str | bytes, fingerprint: str) -> Enrolment:
    """What a request did that happened already.

    Raises:
        RequestConflict: for a key that stood for another request.
    """
    past = json.loads(kept)
    if past["digest"] != request.digest:
        raise RequestConflict(request.key)
    crops = tuple(
        # A program before this one kept nothing to warn of.
        LandedCrop(crop_id, None, None, duplicate, _warnings(duplicate, *warned_of))
        for crop_id, duplicate, *warned_of in past["landed"]
    )
    return Enrolment(
        int(past["version"]), fingerprint, crops, (), replayed=True, problems=past["problems"]
    )


def _warnings(duplicate: bool, warned_of: Iterable[str] = ()) -> tuple[str, ...]:
    """Warnings of one crop: a duplicate keeps these fields, another one is also these crops."""
    # Lua's empty list arrives as an empty object.
    names = list(warned_of)
    return kept_already(names) if duplicate else tuple(map(same_image, names))
