"""The options of a query and of a pair, which are fields of their forms, and filters on crops."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    FailFast,
    Field,
    TypeAdapter,
    ValidationInfo,
    model_validator,
)

from model.arrays import Floats
from model.calibration import Scoring
from model.crops.texts import nfc
from model.times import read_time
from service.errors import InvalidField
from service.record.values import CropLabel

GroupBy = Literal["crop", "identity", "track"]
Order = Literal["neighbours", "score"]
OperatingPoint = Literal["far_1e-1", "far_1e-2", "far_1e-3"]
PairOperatingPoint = Literal["pair_far_1e-2", "pair_far_1e-3", "pair_far_1e-4"]
# Shallower searches are judged by the artefact's calibration, and their scores are not stored.
RERANK_DEPTH = 100


# Limits in characters of a name, an id, a track, a time and a vector.
MAX_TEXT = 256
MAX_ID = 64
MAX_TRACK = 64
MAX_MOMENT = 64
MAX_VECTOR = 131_072
# Limit on the metadata of one crop.
MAX_METADATA_BYTES = 16 * 1024
# Limit on the names in one list.
MAX_NAMES = 1000
# Limit on the crops of one query.
MOST_ASKING = 32
NUMBERS = TypeAdapter(Annotated[list[float], FailFast()])


def read_vector(text: str) -> Floats:
    """Parse a vector `(d,)` sent in place of an image; raises `InvalidField`."""
    try:
        if text.lstrip().startswith("["):
            # NumPy would take its time for nested lists, and convert texts and booleans.
            vector = np.array(NUMBERS.validate_json(text, strict=True))
        else:
            vector = np.frombuffer(base64.b64decode(text, validate=True), "<f4")
    except ValueError:
        vector = np.zeros(0, np.float32)
    # Beyond these lengths float32 does not tell directions apart.
    if not 1e-6 < np.linalg.norm(vector) < 1e12:
        raise InvalidField(
            f"vector: {text[:40]!r} is not a vector; send a JSON array of finite numbers that are "
            "not all 0, of a length between 1e-6 and 1e12, or their float32 bytes, "
            "little-endian, in base64"
        )
    return vector.astype(np.float32)


def split_names(value: Any, info: ValidationInfo) -> Any:
    """Split texts at commas; raises `InvalidField` for more than `MAX_NAMES`.

    Commas are counted first, because splitting megabytes would block the event loop.
    """
    parts = [value] if isinstance(value, str) else value
    if not isinstance(parts, list | tuple) or not all(isinstance(part, str) for part in parts):
        return value
    count = sum(part.count(",") + 1 for part in parts)
    if count > MAX_NAMES:
        raise InvalidField(
            f"{info.field_name}: has {count:,} names, more than {MAX_NAMES:,}; send fewer"
        )
    names = (name.strip() for part in parts for name in part.split(","))
    return [name for name in names if name]


def without_empty(value: Any) -> Any:
    return [item for item in value if item != ""] if isinstance(value, list) else value


def read_moment(value: Any) -> Any:
    """Parse an RFC 3339 text to UTC; return other values unchanged.

    Raises:
        ValueError: the text is not an RFC 3339 time, or is too long.
    """
    if not isinstance(value, str):
        return value
    if len(value) > MAX_MOMENT:
        raise ValueError(
            f"{value[:40]!r} is longer than {MAX_MOMENT} characters; write the time with fewer "
            "digits"
        )
    try:
        return read_time(value)
    except ValueError as error:
        raise ValueError(f"{value[:40]!r} {error}") from error


def require_order(after: datetime, before: datetime) -> None:
    """Raise `InvalidField` if bounds on the time of capture exclude every crop."""
    if after > before:
        raise InvalidField(
            "captured_after, captured_before: the first is later than the second, so no "
            "crop can pass; swap them"
        )


# Pydantic alone would also accept a bare number, such as a year, as seconds since 1970.
Moment = Annotated[
    AwareDatetime, BeforeValidator(read_moment), Field(json_schema_extra={"maxLength": MAX_MOMENT})
]
Text = Annotated[str, Field(max_length=MAX_TEXT)]
Id = Annotated[str, Field(max_length=MAX_ID)]
# Labels are stored, and so compared, in NFC.
Label = Annotated[Text, AfterValidator(nfc)]
Track = Annotated[str, Field(max_length=MAX_TRACK), AfterValidator(nfc)]
Names = Annotated[tuple[Label, ...], Field(max_length=MAX_NAMES), BeforeValidator(split_names)]
# Each text may contain a comma.
Texts = Annotated[tuple[Label, ...], Field(max_length=MAX_NAMES), BeforeValidator(without_empty)]


@dataclass(frozen=True)
class Filter:
    """Conditions on the crops that a search may return, with names in NFC.

    A crop of unknown camera or time fails every condition on cameras or times.

    Attributes:
        cameras: allowed cameras; empty for all.
        exclude_cameras: excluded cameras.
        captured_after, captured_before: inclusive bounds, with time zone.
        without: excluded `row_id`s.
        named: True for crops with an identity, False for crops without one; None for both.
        identities: allowed identities; empty for all crops.
        metadata: pairs, as returned by `pairs_of`, that the crop's metadata must contain.
    """

    cameras: frozenset[str] = frozenset()
    exclude_cameras: frozenset[str] = frozenset()
    captured_after: datetime | None = None
    captured_before: datetime | None = None
    without: frozenset[int] = frozenset()
    named: bool | None = None
    identities: tuple[str, ...] = ()
    metadata: frozenset[str] = frozenset()

    def passes_camera(self, camera: str | None) -> bool:
        return (not self.cameras or camera in self.cameras) and camera not in self.exclude_cameras

    def passes(self, label: CropLabel) -> bool:
        captured_at = label.captured_at
        after = self.captured_after
        before = self.captured_before
        if (
            not self.passes_camera(label.camera and nfc(label.camera))
            or label.row_id in self.without
        ):
            return False
        if self.named is not None and self.named != (label.identity is not None):
            return False
        if self.identities and (label.identity and nfc(label.identity)) not in self.identities:
            return False
        if self.metadata and not self.metadata <= pairs_of(label.metadata):
            return False
        if captured_at is None:
            return after is None and before is None
        return (after is None or captured_at >= after) and (before is None or captured_at <= before)


EVERY_CROP = Filter()


def pairs_of(metadata: Mapping[str, Any] | None) -> frozenset[str]:
    return frozenset(pair_text(pair) for pair in (metadata or {}).items())


def pair_text(pair: Sequence[Any]) -> str:
    """Return a key and its value as a text that is the same for equal values of JSON."""
    return json.dumps(_with_whole_numbers(pair), sort_keys=True)


def _with_whole_numbers(value: Any) -> Any:
    """Return a JSON value in which 1.0 and 1e0 are written as 1, since they are one number."""
    if isinstance(value, float) and value.is_integer():
        # The digits that were sent: beyond 2**53, those of the nearest float may differ.
        return int(Decimal(repr(value)))
    if isinstance(value, Mapping):
        return {name: _with_whole_numbers(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_with_whole_numbers(part) for part in value]
    return value


class QueryOptions(BaseModel):
    """Options of a query."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    crop_id: Annotated[tuple[Id, ...], BeforeValidator(without_empty)] = Field(
        (), max_length=MOST_ASKING
    )
    """Query by this crop instead of images; repeat it to query by a mean of crops."""
    track: Track | None = None
    """Query by the crops of this track instead of images; `camera` selects one of several cameras
    that use its id."""
    vector: str | None = Field(None, max_length=MAX_VECTOR)
    """Query by a vector instead of images: a JSON array of numbers, or base64 of little-endian
    float32, as returned with include_vector or by /v1/embeddings."""
    embedding_fingerprint: Id | None = None
    """The embedder that made `vector`, as returned with it."""
    include_vector: bool = False
    """Also return the vector of each result."""
    mode: Literal["multi_shot", "separate"] = "multi_shot"
    """Images show one person (mean score), or get one answer each."""
    top_k: int = Field(10, ge=1, le=10_000)
    """Number of results, or of groups if grouped."""
    rerank_depth: int = Field(RERANK_DEPTH, ge=1, le=10_000)
    """Candidates that M-Net scores."""
    scoring: Scoring | None = None
    """Default: the artefact's; /v1/model lists the available ones."""
    group_by: GroupBy = "crop"
    """Return only the best crop of each identity or track."""
    order: Order = "neighbours"
    """Order of a list of crops: crops of one person together, or by score only."""
    operating_point: OperatingPoint = "far_1e-2"
    """The false-alarm rate of the verdict `match`."""
    cameras: Names = ()
    """Only these cameras; repeated or comma-separated."""
    exclude_cameras: Names = ()
    """Exclude these cameras."""
    captured_after: Moment | None = None
    """Only crops captured since this time."""
    captured_before: Moment | None = None
    """Only crops captured until this time."""
    identities: Texts = ()
    """Only crops of these identities; repeated."""
    unnamed: bool = False
    """Only crops without an identity."""
    metadata: dict[str, Any] | None = None
    """Only crops whose metadata has all of these keys and values."""
    camera: Label | None = None
    """The camera that took the query images."""
    camera_disjoint: bool = False
    """Exclude the query's cameras: `camera`, or those of the query's crops."""
    min_version: int = Field(0, ge=0, le=2**63 - 1)
    """Wait until the gallery has reached at least this version."""
    purpose: str | None = Field(None, max_length=MAX_TEXT)
    """Reason for the query, such as a case number; stored in the audit log."""
    keep: bool = False
    """Keep the search; the answer then has a `query_id`."""
    keep_picture: bool = False
    """With `keep`: also keep the first usable image."""

    @model_validator(mode="after")
    def _require_consistency(self) -> Self:
        if self.captured_after and self.captured_before:
            require_order(self.captured_after, self.captured_before)
        sources = sum(bool(value) for value in (self.crop_id, self.track, self.vector))
        if sources > 1:
            raise InvalidField("crop_id, track, vector: more than one was sent; send one of them")
        if sources:
            # Without images there is one answer.
            self.mode = "multi_shot"
        if self.unnamed and self.identities:
            raise InvalidField("unnamed, identities: no crop passes both; send one or the other")
        if self.camera_disjoint and not (self.camera or self.crop_id or self.track):
            raise InvalidField("camera_disjoint: the camera of the images is unknown; send camera")
        if self.keep_picture and not self.keep:
            raise InvalidField("keep_picture: needs keep=true; send that too")
        return self

    def filter(self, cameras: Iterable[str | None], without: frozenset[int]) -> Filter:
        """Build the filter of the search.

        Args:
            cameras: cameras of the query, which `camera_disjoint` excludes; None if unknown.
            without: `row_id`s of crops to exclude.
        """
        excluded = set(self.exclude_cameras)
        if self.camera_disjoint:
            excluded |= {nfc(camera) for camera in cameras if camera}
        return Filter(
            cameras=frozenset(self.cameras),
            exclude_cameras=frozenset(excluded),
            captured_after=self.captured_after,
            captured_before=self.captured_before,
            without=without,
            named=False if self.unnamed else None,
            identities=self.identities,
            metadata=pairs_of(self.metadata) if self.metadata else frozenset(),
        )


class SimilarOptions(QueryOptions):
    """Options of a search among the named crops of others by the best crops of an identity."""

    identity: str
    group_by: GroupBy = "identity"

    def filter(self, cameras: Iterable[str | None], without: frozenset[int]) -> Filter:
        return replace(super().filter(cameras, without), named=True)


class PairOptions(BaseModel):
    """Options of a comparison of two images."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    scoring: Scoring | None = None
    """Default: the artefact's; /v1/model lists the available ones."""
    operating_point: Literal[PairOperatingPoint, OperatingPoint] | None = None
    """pair_far_1e-3 by default, or with gallery far_1e-2."""
    gallery: Id | None = None
    """Judge like a search result of this gallery, by its calibration."""
    explain: bool = False
    """Also return the contribution of each region."""
