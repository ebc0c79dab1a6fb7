"""Every call of the API as data: how a request is built and which model reads its answer.

Both clients send what is built here, so that neither knows a path or a field of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Generic, Literal, TypedDict, TypeVar
from urllib.parse import quote

from model.problems import InputProblem
from service.client.answers import (
    Crop,
    Enrolment,
    Gallery,
    ModelDescription,
    Page,
    PairScore,
    Ranking,
    Removal,
)

Scoring = Literal["mnet", "cosine", "fused"]
ImageSource = bytes | str | Path
AnswerType = TypeVar("AnswerType")
UNKNOWN = ""
CROPS_PER_PAGE = 1000


@dataclass(frozen=True)
class Image:
    """One image to enrol and what is known of it.

    Attributes:
        data: the file's bytes.
        name: what a message calls it.
        identity, camera: who and where; None where unknown.
        captured_at: when, with time zone; None where unknown.
    """

    data: bytes
    name: str
    identity: str | None = None
    camera: str | None = None
    captured_at: datetime | None = None


class QueryOptions(TypedDict, total=False):
    """What a query may ask for; the service's defaults hold for what is left out.

    Attributes:
        top_k: how many results.
        rerank_depth: how many of them, from the top, M-Net scores.
        scoring: `mnet`, `cosine` or `fused`.
        group_by: `crop`, or `identity` to count each person once.
        cameras, exclude_cameras: only, or not, crops of these cameras.
        captured_after, captured_before: only crops of this time, with time zone.
        operating_point: such as `far_1e-2`.
    """

    top_k: int
    rerank_depth: int
    scoring: Scoring
    group_by: Literal["crop", "identity"]
    cameras: Sequence[str]
    exclude_cameras: Sequence[str]
    captured_after: datetime
    captured_before: datetime
    operating_point: str


@dataclass(frozen=True)
class Call(Generic[AnswerType]):
    """One request.

    Attributes:
        method: of HTTP.
        path: below the service's URL.
        answer: the model that reads a 2xx answer; None where the raw bytes are wanted.
        params: of the query string.
        fields: of the multipart form; a list stands for a repeated field.
        images: what goes into the form's `images`: name and bytes.
        partial: whether 422 with `results` is an answer like any other.
    """

    method: str
    path: str
    answer: type[AnswerType]
    params: dict[str, str | int] = field(default_factory=dict)
    fields: dict[str, str | list[str]] = field(default_factory=dict)
    images: tuple[tuple[str, bytes], ...] = ()
    partial: bool = False


def enroll(gallery: str, images: Sequence[Image]) -> Call[Enrolment]:
    """Enrols images; sent again after a lost answer it enrols nothing twice: bytes are compared."""
    if not images:
        raise InputProblem("enroll: no image was given; give at least one")
    fields: dict[str, str | list[str]] = {}
    for name in ("identity", "camera", "captured_at"):
        values = [getattr(image, name) for image in images]
        if any(value is not None for value in values):
            fields[name] = [_text(value) for value in values]
    return Call(
        "POST",
        f"{_gallery(gallery)}/crops",
        Enrolment,
        fields=fields,
        images=tuple((image.name, image.data) for image in images),
        partial=True,
    )


def query(gallery: str, images: Sequence[ImageSource], options: QueryOptions) -> Call[Ranking]:
    """One query; several images are one multi-shot query."""
    fields = {name: _field(value) for name, value in options.items() if value is not None}
    return Call(
        "POST", f"{_gallery(gallery)}/queries", Ranking, fields=fields, images=_read(images)
    )


def query_like(gallery: str, crop_id: str, options: QueryOptions) -> Call[Ranking]:
    """One query by a crop that is in the gallery already."""
    fields = {name: _field(value) for name, value in options.items() if value is not None}
    fields["crop_id"] = crop_id
    return Call("POST", f"{_gallery(gallery)}/queries", Ranking, fields=fields)


def crops(gallery: str, identity: str | None, camera: str | None, cursor: str | None) -> Call[Page]:
    """One page of a gallery's crops."""
    asked = {"identity": identity, "camera": camera, "cursor": cursor}
    params: dict[str, str | int] = {key: text for key, text in asked.items() if text is not None}
    params["limit"] = CROPS_PER_PAGE
    return Call("GET", f"{_gallery(gallery)}/crops", Page, params=params)


def crop(gallery: str, crop_id: str) -> Call[Crop]:
    """One crop's record."""
    return Call("GET", _crop(gallery, crop_id), Crop)


def delete_crop(gallery: str, crop_id: str) -> Call[Removal]:
    """Removes one crop."""
    return Call("DELETE", _crop(gallery, crop_id), Removal)


def image(gallery: str, crop_id: str) -> Call[bytes]:
    """One crop's picture, as the bytes of an image file."""
    return Call("GET", f"{_crop(gallery, crop_id)}/image", bytes)


def galleries(cursor: str | None) -> Call[Page]:
    """One page of the galleries."""
    return Call("GET", "/v1/galleries", Page, params={"cursor": cursor} if cursor else {})


def gallery(name: str) -> Call[Gallery]:
    """One gallery's description."""
    return Call("GET", _gallery(name), Gallery)


def create_gallery(name: str) -> Call[Gallery]:
    """Creates a gallery."""
    return Call("POST", "/v1/galleries", Gallery, fields={"name": name})


def model() -> Call[ModelDescription]:
    """The served artefact's description."""
    return Call("GET", "/v1/model", ModelDescription)


def pairs(first: ImageSource, second: ImageSource, explain: bool) -> Call[PairScore]:
    """Compares two images."""
    fields: dict[str, str | list[str]] = {"explain": "true"} if explain else {}
    return Call("POST", "/v1/pairs", PairScore, fields=fields, images=_read([first, second]))


def ready() -> Call[bytes]:
    """Whether the service takes requests."""
    return Call("GET", "/readyz", bytes)


def _gallery(name: str) -> str:
    return f"/v1/galleries/{quote(name, safe='')}"


def _crop(gallery: str, crop_id: str) -> str:
    return f"{_gallery(gallery)}/crops/{quote(crop_id, safe='')}"


def _text(value: object) -> str:
    if value is None:
        return UNKNOWN
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _field(value: object) -> str | list[str]:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_text(item) for item in value]
    return _text(value)


def _read(images: Sequence[ImageSource]) -> tuple[tuple[str, bytes], ...]:
    if not images:
        raise InputProblem("query: no image was given; give at least one")
    return tuple(_named_bytes(source) for source in images)


def _named_bytes(source: ImageSource) -> tuple[str, bytes]:
    if isinstance(source, bytes):
        return "image", source
    path = Path(source)
    try:
        return path.name, path.read_bytes()
    except OSError as error:
        raise InputProblem(
            f"{path}: cannot be read ({error.strerror}); name an image file"
        ) from error
