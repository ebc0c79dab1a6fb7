"""Calls on a gallery's crops: enrol, list, read, delete."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any
from uuid import uuid4

from model.problems import InputProblem
from service.client.answers import Crop, Enrolment, Page, Removal
from service.client.calls.call import Call, Fields, path_to, text_of
from service.client.calls.images import ImageSource, images_of, named_bytes

CROPS_PER_PAGE = 1000
LONGEST_KEY = 255


def enroll(
    gallery: str, sources: Iterable[ImageSource], idempotency_key: str | None
) -> Call[Enrolment]:
    """Enrols images; under its key, made up here where none is given, it happens once."""
    images = images_of(sources)
    if not images:
        raise InputProblem("enroll: no image was given; give at least one")
    key = uuid4().hex if idempotency_key is None else _key(idempotency_key)
    fields: Fields = {}
    for name in ("identity", "camera", "captured_at", "external_id"):
        values = [getattr(image, name) for image in images]
        if any(value is not None for value in values):
            fields[name] = [text_of(value) for value in values]
    if any(image.metadata is not None for image in images):
        fields["metadata"] = [_json(image.metadata) for image in images]
    return Call(
        "POST",
        path_to("galleries", gallery, "crops"),
        Enrolment,
        fields=fields,
        headers={"Idempotency-Key": key},
        images=tuple(named_bytes(image) for image in images),
        partial=True,
        repeatable=True,
    )


def page(
    gallery: str,
    identity: str | None,
    camera: str | None,
    external_id: str | None,
    cursor: str | None,
) -> Call[Page[Crop]]:
    """One page of a gallery's crops."""
    asked = {"identity": identity, "camera": camera, "external_id": external_id, "cursor": cursor}
    params: dict[str, str | int] = {key: text for key, text in asked.items() if text is not None}
    params["limit"] = CROPS_PER_PAGE
    return Call("GET", path_to("galleries", gallery, "crops"), Page[Crop], params=params)


def read(gallery: str, crop_id: str) -> Call[Crop]:
    """One crop's record."""
    return Call("GET", path_to("galleries", gallery, "crops", crop_id), Crop)


def delete(gallery: str, crop_id: str) -> Call[Removal]:
    """Removes one crop."""
    return Call("DELETE", path_to("galleries", gallery, "crops", crop_id), Removal)


def image(gallery: str, crop_id: str) -> Call[bytes]:
    """One crop's picture, as the bytes of an image file."""
    return Call("GET", path_to("galleries", gallery, "crops", crop_id, "image"), bytes)


def _key(key: str) -> str:
    printable = key.isascii() and key.isprintable() and " " not in key
    if not (printable and 0 < len(key) <= LONGEST_KEY):
        raise InputProblem(
            f"idempotency_key: {key[:40]!r} can be none; give 1 to {LONGEST_KEY} printable ASCII "
            "characters without a space"
        )
    return key


def _json(metadata: Mapping[str, Any] | None) -> str:
    if metadata is None:
        return text_of(None)
    try:
        return json.dumps(dict(metadata), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InputProblem(f"metadata: is not what JSON can hold ({error})") from error
